"""How much of a noisy score term to use, from its own past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch as th

from sb3_sgmrl.common.functional import Parameters

# per inner step and parameter; zero for what is not there
ScoreWeights = Sequence[dict[str, float]]


@dataclass
class SignalWeight:
    """
    The weight λ of a score term c that minimises the expected squared error E‖λ c̄ − E c‖² of a running mean c̄ of it, as a
    Wiener filter does:

        λ = S / (S + w N),    S = ‖E c‖²,    N = E‖c − E c‖²,

    w = (1 − β) / (1 + β) the noise that is left in a running mean with factor β. An optimiser averages its gradients, so what
    counts is the noise after averaging, not that of an iteration. S and N are estimated without bias (S cut off at zero) from
    running means of c and of ‖c‖² over *earlier* iterations: given the past, λ is a constant, and λ c points where E c points.
    With larger batches N falls and λ tends to 1, the exact gradient; where no signal stands out from the noise it is 0, MAML.

    :param decay: β, per iteration
    """

    decay: float = 0.95
    _mean: Parameters = field(default_factory=dict)
    _square: float = 0.0
    _n: int = 0

    def weights(self) -> dict[str, float]:
        """
        :return: λ, the same for every parameter that was observed; zero before the third observation
        """
        return dict.fromkeys(self._mean, self._weight() if self._n >= 3 else 0.0)

    def _weight(self) -> float:
        past = self.decay**self._n
        remaining = (1 - self.decay) / (1 + self.decay)
        # squared weights of the running means, whose weights sum up to 1 − β^n
        w = remaining * (1 + past) / (1 - past)
        mean_square = _square(self._mean) / (1 - past) ** 2
        square = self._square / (1 - past)
        signal, noise = max(mean_square - w * square, 0.0), max(square - mean_square, 0.0)
        return signal / (signal + remaining * noise) if signal > 0 else 0.0

    def observe(self, score_term: Parameters) -> None:
        """
        Learn from an iteration, after its gradient was computed.

        :param score_term: c by name, before it was weighted
        """
        self._n += 1
        for name, value in score_term.items():
            old = self._mean.get(name, th.zeros_like(value))
            self._mean[name] = self.decay * old + (1 - self.decay) * value
        self._square = self.decay * self._square + (1 - self.decay) * _square(score_term)


def _square(parameters: Parameters) -> float:
    return sum(float((value**2).sum()) for value in parameters.values())


@dataclass
class SignalWeights:
    """
    A :class:`SignalWeight` for each inner step and each of two groups of parameters, whose signals and noises are of different
    size: those of the network, and the free ones, such as log σ. A weight for each weight matrix and bias would follow chance:
    the fewer entries, the more often some noise looks like a signal.
    """

    _weights: dict[tuple[int, bool], SignalWeight] = field(default_factory=dict)

    def weights(self, n_inner_steps: int) -> ScoreWeights:
        """
        :param n_inner_steps: ζ
        :return: λ of each parameter that was observed
        """
        found: list[dict[str, float]] = [{} for _ in range(n_inner_steps)]
        for (stage, _), of_group in self._weights.items():
            if stage < n_inner_steps:
                found[stage].update(of_group.weights())
        return found

    def observe(self, score_terms: Sequence[Parameters]) -> None:
        """
        :param score_terms: of each inner step, by name, before they were weighted
        """
        for stage, score_term in enumerate(score_terms):
            for in_network in (False, True):
                group = {name: value for name, value in score_term.items() if _in_network(name) == in_network}
                if group:
                    self._weights.setdefault((stage, in_network), SignalWeight()).observe(group)


def _in_network(name: str) -> bool:
    # parameters of modules have a dot in their names
    return "." in name

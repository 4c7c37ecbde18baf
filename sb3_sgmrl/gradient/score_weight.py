"""The weight of a noisy score term, chosen from its own past."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch as th

from sb3_sgmrl.policies.functional import Parameters

# The weights per inner step and parameter; zero for missing names.
ScoreWeights = Sequence[dict[str, float]]
# The largest norms of the score terms per inner step, by the names of the parameters that a norm is taken over.
ScoreLimits = Sequence[Mapping[tuple[str, ...], float]]
# The largest norm of a term, as a multiple of the root mean square norm of the past.
_LARGEST = 3.0


@dataclass
class SignalWeight:
    """
    The weight λ of a score term c, chosen as in a Wiener filter.

    λ minimises the expected squared error E‖λ c̄ − E c‖² of a running mean c̄ of the score term:

        λ = S / (S + w N),    S = ‖E c‖²,    N = E‖c − E c‖².

    Here w = (1 − β) / (1 + β) is the noise that is left in a running mean with factor β. An optimiser averages its gradients,
    so the noise after averaging counts, not the noise of one iteration.

    S is estimated by the running mean of the products c_t · m_t. Here m_t is the running mean of the terms *before* iteration
    t, so its noise is independent of that of c_t. λ is zero where the estimate is negative.

    λ follows from *earlier* iterations. Given the past it is a constant, and λ c points where E c points. With larger batches
    N falls and λ tends to 1, the exact gradient. Where no signal stands out from the noise, λ is small or 0, which is MAML.

    A term that is much larger than those before it is an outlier. Its norm is cut off at :meth:`limit`, before it is weighted
    and before it is remembered.

    :param decay: The decay β per iteration
    """

    decay: float = 0.95
    _mean: Parameters = field(default_factory=dict)
    # The sums Σ β^{T−t} of ‖c_t‖² and of c_t · m_t.
    _square: float = 0.0
    _product: float = 0.0
    _n: int = 0
    # The sums Σ β^{T−t} ‖c_t‖² and Σ β^{T−t} over the terms that were not zero.
    _nonzero_square: float = 0.0
    _nonzero: float = 0.0

    def weights(self, prior: float = 0.0) -> dict[str, float]:
        """
        Compute the weight of every observed parameter.

        :param prior: The number κ of iterations that a weight of one half counts, beside the n observed ones
        :return: The weight (κ / 2 + n λ) / (κ + n), the same for every observed parameter; λ is zero before the second of them
        """
        weight = self._weight()
        if prior > 0:
            weight = (prior * 0.5 + self._n * weight) / (prior + self._n)
        return dict.fromkeys(self._mean, weight)

    def _weight(self) -> float:
        if self._product <= 0:
            return 0.0
        # The first iteration has no past, so it adds no product.
        signal = self._product / _total(self.decay, self._n - 1)
        noise = max(self._square / _total(self.decay, self._n) - signal, 0.0)
        return signal / (signal + (1 - self.decay) / (1 + self.decay) * noise)

    def limit(self) -> float:
        """
        Compute the largest norm that a term may have.

        :return: Three times the root mean square norm of the terms that were not zero; infinite before the first of them
        """
        return _LARGEST * math.sqrt(self._nonzero_square / self._nonzero) if self._nonzero > 0 else math.inf

    def observe(self, score_term: Parameters) -> None:
        """
        Learn from an iteration, after its gradient was computed.

        The estimate restarts when the parameters differ from those before. A term that is not finite is skipped.

        :param score_term: The score term c by name, before it was weighted
        """
        if _shapes(score_term) != _shapes(self._mean):  # A parameter was frozen, or the network has changed.
            self._mean, self._square, self._product, self._n = {}, 0.0, 0.0, 0
            self._nonzero_square, self._nonzero = 0.0, 0.0
        square = _dot(score_term, score_term)
        if not math.isfinite(square):  # The running means would never forget it.
            return
        factor = cut_off(math.sqrt(square), self.limit())
        if factor < 1:
            score_term = {name: factor * value for name, value in score_term.items()}
            square = factor**2 * square
        if self._n > 0:
            self._product = self.decay * self._product + _dot(score_term, self._mean) / _total(self.decay, self._n)
        for name, value in score_term.items():
            self._mean[name] = self.decay * self._mean[name] + value if name in self._mean else value
        self._square = self.decay * self._square + square
        self._n += 1
        if square > 0:
            self._nonzero_square = self.decay * self._nonzero_square + square
            self._nonzero = self.decay * self._nonzero + 1


def cut_off(norm: float, limit: float) -> float:
    """
    Compute the factor that cuts a vector off at a limit.

    :param norm: The norm of the vector
    :param limit: The largest norm that it may have
    :return: The factor; 1 for a vector that is not longer
    """
    return limit / norm if norm > limit else 1.0


def cut_off_weights(weights: ScoreWeights, limits: ScoreLimits, score_terms: Sequence[Parameters]) -> ScoreWeights:
    """
    Reduce the weights of score terms that are larger than their limits.

    :param weights: The weights λ of each inner step
    :param limits: The largest norms of each inner step
    :param score_terms: The score term of each inner step, by name, before it was weighted
    :return: The weights λ, each times the factor that cuts its term off
    """
    found = [dict(of_stage) for of_stage in weights]
    for of_stage, largest, score_term in zip(found, limits, score_terms, strict=True):
        for names, limit in largest.items():
            group = {name: score_term[name] for name in names if name in score_term}
            factor = cut_off(math.sqrt(_dot(group, group)), limit)
            of_stage.update({name: factor * of_stage[name] for name in group if factor < 1})
    return found


def _total(decay: float, n: int) -> float:
    """Compute Σ_{k<n} β^k."""
    return (1 - decay**n) / (1 - decay)


def _shapes(parameters: Parameters) -> dict[str, th.Size]:
    return {name: value.shape for name, value in parameters.items()}


def _dot(one: Parameters, other: Parameters) -> float:
    # In single precision, the square of a large number is infinite.
    return sum(float((value.double() * other[name].double()).sum()) for name, value in one.items())


@dataclass
class SignalWeights:
    """
    A :class:`SignalWeight` for each inner step and each of two groups of parameters.

    The groups are the parameters of the network, and the free ones, such as log σ. Their signals and noises differ in size. A
    weight for each weight matrix and bias would follow chance. The fewer entries a group has, the more often some noise looks
    like a signal.
    """

    _weights: dict[tuple[int, bool], SignalWeight] = field(default_factory=dict)

    def weights(self, n_inner_steps: int, prior: float = 0.0) -> ScoreWeights:
        """
        Compute the weights of each inner step.

        :param n_inner_steps: The number ζ of inner steps
        :param prior: The number of iterations that a weight of one half counts, see :meth:`SignalWeight.weights`
        :return: The weight of each parameter that was observed
        """
        found: list[dict[str, float]] = [{} for _ in range(n_inner_steps)]
        for (stage, _), of_group in self._weights.items():
            if stage < n_inner_steps:
                found[stage].update(of_group.weights(prior))
        return found

    def limits(self, n_inner_steps: int) -> ScoreLimits:
        """
        Compute the largest norms of the score terms.

        :param n_inner_steps: The number ζ of inner steps
        :return: The largest norm of each group of parameters that was observed, for each inner step
        """
        found: list[dict[tuple[str, ...], float]] = [{} for _ in range(n_inner_steps)]
        for (stage, _), of_group in self._weights.items():
            if stage < n_inner_steps:
                found[stage][tuple(of_group.weights())] = of_group.limit()
        return found

    def observe(self, score_terms: Sequence[Parameters]) -> None:
        """
        Learn from an iteration, after its gradient was computed.

        :param score_terms: The score term of each inner step, by name, before it was weighted
        """
        for stage, score_term in enumerate(score_terms):
            for in_network in (False, True):
                group = {name: value for name, value in score_term.items() if _in_network(name) == in_network}
                if group:
                    self._weights.setdefault((stage, in_network), SignalWeight()).observe(group)


def _in_network(name: str) -> bool:
    # Parameters of modules have a dot in their names.
    return "." in name

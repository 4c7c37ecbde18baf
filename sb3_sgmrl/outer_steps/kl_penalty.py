"""A penalty on the KL divergence of the policies that play the inner episodes, with coefficients that follow a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

# Coefficients stay within this factor of the first one. Without it they could reach zero, and doubling zero has no effect.
_MAX_FACTOR = 2.0**20


@dataclass
class InnerKlPenalty:
    """
    The penalty of ProMP (Rothfuss et al. 2019), the mean over inner steps of η_t KL_t.

    The coefficient of each step changes after each meta-iteration. It is halved where the divergence of the step is below the
    target / 1.5. It is doubled where the divergence is above 1.5 times the target.

    :param coef: The coefficient η at the beginning
    :param target: The target of the divergence; None keeps the coefficients
    :param factors: The factor by which the coefficient of each inner step has been multiplied so far. The list grows and is
        changed in place
    """

    coef: float
    target: float | None = None
    factors: list[float] = field(default_factory=list)

    def coefficient(self, stage: int) -> float:
        """
        Return the present coefficient of an inner step.

        :param stage: The index of the inner step
        :return: The coefficient η_t
        """
        return self.coef * (self.factors[stage] if stage < len(self.factors) else 1.0)

    def weights(self, n_inner_steps: int) -> list[float]:
        """
        Compute the weights of the divergences of all inner steps.

        :param n_inner_steps: The number ζ of inner steps
        :return: The weight η_t / ζ of the divergence of each inner step
        """
        return [self.coefficient(stage) / n_inner_steps for stage in range(n_inner_steps)]

    def observe(self, kls: Sequence[float]) -> None:
        """
        Adjust the coefficients to the target after a meta-iteration.

        :param kls: The divergence of each inner step at the new parameters
        """
        if self.target is None:
            return
        self.factors.extend([1.0] * (len(kls) - len(self.factors)))
        for stage, kl in enumerate(kls):
            change = 0.5 if kl < self.target / 1.5 else 2.0 if kl > 1.5 * self.target else 1.0
            self.factors[stage] = min(max(change * self.factors[stage], 1 / _MAX_FACTOR), _MAX_FACTOR)

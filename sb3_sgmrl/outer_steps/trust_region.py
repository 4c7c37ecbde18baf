"""A step within a trust region of the adapted policies (TRPO, Schulman et al. 2015), as in MAML's paper."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch as th
from sb3_contrib.common.utils import conjugate_gradient_solver

from sb3_sgmrl.gradient.local_gradient import LocalValue
from sb3_sgmrl.gradient.meta_gradient import MetaGradient
from sb3_sgmrl.outer_steps.base import OuterProblem, OuterStep, put
from sb3_sgmrl.outer_steps.local_surrogate import LocalSurrogate
from sb3_sgmrl.policies.functional import Parameters


@dataclass(frozen=True)
class TrustRegion(OuterStep):
    """
    The longest step along the natural gradient of V that a line search accepts.

    The metric is the mean Fisher information of the adapted policies as functions of θ, see :mod:`~sb3_sgmrl.gradient.fisher`.
    Conjugate gradients solve for the direction.

    The line search accepts a step on two conditions. The local surrogate must rise. The estimated KL divergence of the adapted
    policies from those that played must not exceed ``target_kl``. When no step length is accepted, the parameters stay as they
    are.

    :param target_kl: The bound of the KL divergence, mean over tasks
    :param cg_max_steps: The number of conjugate gradient steps
    :param cg_damping: The number that is added to the diagonal of the Fisher information
    :param line_search_max_iter: The number of step lengths that are tried
    :param line_search_shrinking_factor: The factor that multiplies a step length when it is rejected
    """

    target_kl: float = 0.01
    cg_max_steps: int = 15
    cg_damping: float = 0.1
    line_search_max_iter: int = 10
    line_search_shrinking_factor: float = 0.8

    def update(self, problem: OuterProblem) -> MetaGradient:
        surrogate = LocalSurrogate(problem)
        before, step = surrogate.value(), self.full_step(surrogate)
        found = None if step is None else self._search(problem, surrogate, before, step)
        problem.record("line_search_success", float(found is not None))
        problem.record("policy_objective", (found or before).value)
        problem.record("approx_kl", (found or before).approx_kl)
        return surrogate.estimate

    def _search(
        self, problem: OuterProblem, surrogate: LocalSurrogate, before: LocalValue, step: Parameters
    ) -> LocalValue | None:
        """Search along the step. Return the surrogate where the policy has moved to; None where it stays."""
        theta, length = problem.functional.parameters(), 1.0
        for _ in range(self.line_search_max_iter):
            put(problem.policy, {name: value + length * step[name] for name, value in theta.items()})
            found = surrogate.value()
            if found.value > before.value and found.approx_kl <= self.target_kl:  # false where one of them is not finite
                return found
            length *= self.line_search_shrinking_factor
        put(problem.policy, theta)
        return None

    def full_step(self, surrogate: LocalSurrogate) -> Parameters | None:
        """
        Compute the step that a quadratic model of the KL divergence allows.

        :param surrogate: The local surrogate at the parameters that played
        :return: The step by name; None where the gradient is zero
        """
        gradient = surrogate.estimate.gradient
        flat = th.nn.utils.parameters_to_vector(gradient.values())
        norm = flat.norm()
        if norm == 0:
            return None

        def product(v: th.Tensor) -> th.Tensor:
            of_v = surrogate.fisher_product(_by_name(v, gradient))
            return th.nn.utils.parameters_to_vector(of_v.values()) + self.cg_damping * v

        # The solver stops at an absolute residual, so its right side has length 1. Its random start must neither depend on
        # earlier draws nor change later ones.
        with th.random.fork_rng(devices=[]):
            th.manual_seed(0)
            direction = conjugate_gradient_solver(product, flat / norm, max_iter=self.cg_max_steps)
        length = np.sqrt(2 * self.target_kl / float(direction @ product(direction)))
        return _by_name(length * direction, gradient)


def _by_name(flat: th.Tensor, like: Parameters) -> Parameters:
    parts = flat.split([value.numel() for value in like.values()])
    return {name: part.view_as(value) for part, (name, value) in zip(parts, like.items(), strict=True)}

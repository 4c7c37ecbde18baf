"""The local surrogate of all tasks of a meta-iteration, for outer steps that evaluate several parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch as th

from sb3_sgmrl.gradient.fisher import task_fisher_product
from sb3_sgmrl.gradient.local_gradient import (
    LocalGradient,
    LocalValue,
    PlayedPhase,
    local_task_gradient,
    local_task_value,
)
from sb3_sgmrl.gradient.objective import InnerStep
from sb3_sgmrl.outer_steps.base import OuterProblem, check_finite
from sb3_sgmrl.policies.functional import Parameters
from sb3_sgmrl.score_terms.base import ScoreTerm

Result = TypeVar("Result")


class _Recorded(ScoreTerm):
    """A score term that remembers the coefficients it has given, by task and stage."""

    def __init__(self, term: ScoreTerm) -> None:
        self._term = term
        self.given: dict[tuple[int, int], th.Tensor] = {}

    def coefficients(self, step: InnerStep) -> th.Tensor:
        found = self._term.coefficients(step)
        self.given[step.task, step.stage] = found
        return found


class LocalSurrogate:
    """
    The mean over tasks of the surrogate of :mod:`~sb3_sgmrl.gradient.local_gradient`.

    Its gradient at the parameters that played is the estimate of ∇V, which is computed first.

    :param problem: The inputs of the outer step
    :raises ValueError: When the estimate of ∇V is not finite
    """

    def __init__(self, problem: OuterProblem) -> None:
        self._problem = problem
        self._recorded = None if problem.score_term is None else _Recorded(problem.score_term)
        self.estimate = problem.gradient(self._recorded)
        check_finite(self.estimate)

    @cached_property
    def played(self) -> dict[int, list[PlayedPhase]]:
        """The phases of every task of this rank, with the log-likelihoods under the parameters that played them."""
        policy, rollout = self._problem.functional, self._problem.rollout
        made = self._over_own(lambda task: [PlayedPhase.make(policy, phase) for phase in rollout.traces[task]])
        return dict(zip(rollout.own, made, strict=True))

    def _over_own(self, work: Callable[[int], Result]) -> list[Result]:
        executor, own = self._problem.executor, self._problem.rollout.own
        return list(map(work, own) if executor is None else executor.map(work, own))

    def over(self, work: Callable[[int], Result]) -> list[Result]:
        """
        Map a function over tasks, each on its rank, in the threads of the iteration.

        :param work: The function of the index of a task
        :return: The results in the order of the tasks
        """
        return self._problem.rollout.ranks.gathered(self._over_own(work))

    def _mean_over(self, work: Callable[[int], tuple[Parameters, list[float]]]) -> tuple[Parameters, list[float]]:
        """Average tensors by name, and numbers, over tasks."""
        results, n_tasks = list(self._problem.rollout.ranks.to_sum(self._over_own(work))), len(self._problem.rollout.traces)
        tensors = {name: th.stack([one[name] for one, _ in results]).sum(0) / n_tasks for name in results[0][0]}
        return tensors, [float(np.sum(values) / n_tasks) for values in zip(*(numbers for _, numbers in results), strict=True)]

    def gradient(self, clip_range: float, inner_kl_coefs: Sequence[float] | None = None) -> LocalGradient:
        """
        Compute the gradient of the surrogate at the present parameters of the policy.

        :param clip_range: The clip range ε
        :param inner_kl_coefs: The weight of the KL penalty of each inner step; None leaves the penalties out
        :return: The mean over tasks at the present parameters of the policy; the tasks are summed in their order
        """
        policy, objective = self._problem.functional, self.estimate.objective
        theta, played = policy.parameters(), self.played

        def of_task(task: int) -> tuple[Parameters, list[float]]:
            given = self._given(task)
            found = local_task_gradient(policy, objective, theta, played[task], given, clip_range, inner_kl_coefs)
            return found.gradient, [getattr(found, name) for name in LOGGED]

        gradient, logged = self._mean_over(of_task)
        return LocalGradient(gradient, **dict(zip(LOGGED, logged, strict=True)))

    def fisher_product(self, v: Parameters) -> Parameters:
        """
        Compute the Fisher information times a vector, at the parameters that played.

        :param v: A direction in the space of θ, by name
        :return: The mean over tasks of the Fisher information of the adapted policies times v, at the parameters that played
        """
        policy, objective = self._problem.functional, self.estimate.objective
        played = self.played
        return self._mean_over(lambda task: (task_fisher_product(policy, objective, played[task], v), []))[0]

    def value(self) -> LocalValue:
        """
        Compute the surrogate without clipping at the present parameters of the policy.

        :return: The mean over tasks at the present parameters of the policy
        """
        policy, objective = self._problem.functional, self.estimate.objective
        theta, played = policy.parameters(), self.played

        def of_task(task: int) -> LocalValue:
            return local_task_value(policy, objective, theta, played[task], self._given(task))

        results = self.over(of_task)
        kls = np.mean([one.inner_approx_kls for one in results], axis=0)
        return LocalValue(
            float(np.mean([one.value for one in results])),
            float(np.mean([one.approx_kl for one in results])),
            tuple(float(kl) for kl in kls),
        )

    def _given(self, task: int) -> list[th.Tensor] | None:
        if self._recorded is None:
            return None
        return [self._recorded.given[task, stage] for stage in range(len(self.played[task]) - 1)]


# The fields of a local gradient that are logged.
LOGGED = ("clip_fraction", "approx_kl", "inner_approx_kl")

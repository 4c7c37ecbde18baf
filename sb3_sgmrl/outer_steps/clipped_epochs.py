"""Several epochs of a clipped outer surrogate on the episodes of one meta-iteration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch as th

from sb3_sgmrl.gradient.local_gradient import LocalGradient, PlayedPhase, local_task_gradient
from sb3_sgmrl.gradient.meta_gradient import MetaGradient
from sb3_sgmrl.gradient.objective import InnerStep, TaskPhase
from sb3_sgmrl.outer_steps.base import OuterProblem, OuterStep, ascend, check_finite
from sb3_sgmrl.policies.functional import FunctionalPolicy
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


@dataclass(frozen=True)
class ClippedEpochs(OuterStep):
    """
    Several steps of the policy's optimiser on the episodes of one meta-iteration, along the gradient of the local surrogate of
    :mod:`~sb3_sgmrl.gradient.local_gradient`. The first epoch follows the estimate of ∇V itself, to the bit.

    :param n_epochs: The number of epochs; each is one step on all tasks
    :param clip_range: ε, how far the likelihood ratio of a sample may move from 1 before it stops counting
    :param target_kl: End the epochs where the estimated KL divergence of the adapted policies exceeds 1.5 times this value, as
        in SB3's PPO; None never ends them early
    """

    n_epochs: int
    clip_range: float
    target_kl: float | None = None

    def update(self, problem: OuterProblem) -> MetaGradient:
        recorded = None if problem.score_term is None else _Recorded(problem.score_term)
        estimate = problem.gradient(recorded)
        check_finite(estimate)
        ascend(problem.policy, estimate.gradient, problem.max_grad_norm)
        played = _in_threads(problem, partial(_played, problem.functional), problem.rollout.traces)
        n_epochs = 1
        while n_epochs < self.n_epochs:
            moved = self._gradient(problem, played, recorded)
            for name in _LOGGED:
                problem.record(name, getattr(moved, name))
            too_far = self.target_kl is not None and moved.approx_kl > 1.5 * self.target_kl
            if too_far or not all(bool(th.isfinite(value).all()) for value in moved.gradient.values()):
                break
            ascend(problem.policy, moved.gradient, problem.max_grad_norm)
            n_epochs += 1
        problem.record("n_epochs", n_epochs)
        return estimate

    def _gradient(
        self, problem: OuterProblem, played: Sequence[Sequence[PlayedPhase]], recorded: _Recorded | None
    ) -> LocalGradient:
        """Mean over tasks at the policy's present parameters; the tasks are summed in their order."""
        theta = problem.functional.parameters()

        def of_task(task: int) -> LocalGradient:
            phases = played[task]
            given = None if recorded is None else [recorded.given[task, stage] for stage in range(len(phases) - 1)]
            return local_task_gradient(problem.functional, problem.objective, theta, phases, given, self.clip_range)

        results = _in_threads(problem, of_task, range(len(played)))
        gradient = {name: th.stack([result.gradient[name] for result in results]).mean(0) for name in theta}
        return LocalGradient(gradient, **{name: float(np.mean([getattr(one, name) for one in results])) for name in _LOGGED})


_LOGGED = ("clip_fraction", "approx_kl", "inner_approx_kl")


def _played(policy: FunctionalPolicy, trace: Sequence[TaskPhase]) -> list[PlayedPhase]:
    return [PlayedPhase.make(policy, phase) for phase in trace]


def _in_threads(problem: OuterProblem, work: Callable[[Any], Result], items: Iterable[Any]) -> list[Result]:
    return list(map(work, items) if problem.executor is None else problem.executor.map(work, items))

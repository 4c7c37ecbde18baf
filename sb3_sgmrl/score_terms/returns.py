"""Score terms in the exact form, returns times scores: Σ_j (J̃ − b_j) s_j with a control variate b_j."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_sgmrl.gradient.advantages import AdvantageSettings, WeightedEpisodes
from sb3_sgmrl.gradient.meta_gradient import MetaGradient
from sb3_sgmrl.gradient.objective import InnerStep, MetaRollout, TaskPhase
from sb3_sgmrl.score_terms.base import ScoreTerm, TermContext, check_leaves_one_out
from sb3_sgmrl.score_terms.control_variates import (
    ControlVariate,
    OuterScale,
    TaskRegression,
    VariateScaling,
    leave_one_out_return,
    leave_one_task_out,
)
from sb3_sgmrl.score_terms.counterfactual import counterfactual_baselines
from sb3_sgmrl.score_terms.leave_one_out import held_out_advantages


def outer_returns(phases: Sequence[Sequence[TaskPhase]], gamma: float) -> np.ndarray:
    """
    Compute the mean discounted return of each task's outer episodes.

    :param phases: The ζ + 1 phases of every task
    :param gamma: The discount factor
    :return: The returns J̃, shape (n_tasks,)
    """
    return np.array([trace[-1].batch.returns(gamma).mean() for trace in phases])


def return_baselines(phases: Sequence[Sequence[TaskPhase]], gamma: float, variate: ControlVariate) -> list[np.ndarray]:
    """
    Compute the b_j that a control variate makes of returns.

    :param phases: The ζ + 1 phases of every task
    :param gamma: The discount factor of the returns
    :param variate: The control variate
    :return: The b of each inner step, shape (n_tasks, n_episodes)
    """
    outer = outer_returns(phases, gamma)
    inner = [np.array([trace[stage].batch.returns(gamma) for trace in phases]) for stage in range(len(phases[0]) - 1)]
    return [variate(outer, returns) for returns in inner]


class ReturnCoefficients:
    """
    Coefficients of the scores in Σ_j (J̃ − b_j) s_j, with J̃ in the units of the outer surrogate.

    :param phases: The ζ + 1 phases of every task. The scale of the last one must not depend on the task's episodes, see
        :func:`with_scales`
    :param gamma: The discount factor of J̃
    :param baselines: The b of each inner step, shape (n_tasks, n_episodes), from :func:`return_baselines` or
        :func:`~sb3_sgmrl.score_terms.counterfactual.counterfactual_baselines`
    """

    def __init__(self, phases: Sequence[Sequence[TaskPhase]], gamma: float, baselines: Sequence[np.ndarray]) -> None:
        outer = outer_returns(phases, gamma)
        scale = np.array([trace[-1].weighted.scale for trace in phases])
        self._stages = [(outer[:, None] - b) / scale[:, None] for b in baselines]

    def __call__(self, step: InnerStep) -> th.Tensor:
        """
        Compute the coefficients of an inner step.

        :param step: The inner step of one task
        :return: The c of each sample, shape (n_samples,)
        """
        weights = step.samples.weights
        per_episode = th.as_tensor(self._stages[step.stage][step.task], dtype=weights.dtype, device=weights.device)
        return step.samples.per_sample(per_episode)


def with_scales(rollout: MetaRollout, scales: np.ndarray, settings: AdvantageSettings, space: spaces.Space) -> MetaRollout:
    """
    Compute the outer surrogate that goes with returns.

    It is the mean of Σ_t A_t log π over the episodes of a task, with the
    :func:`~sb3_sgmrl.score_terms.leave_one_out.held_out_advantages` A, divided by a scale that is not the task's own.

    :param rollout: The data of an iteration
    :param scales: The divisor of the outer surrogate of each task, shape (n_tasks,); the weights are zero where it is infinite
    :param settings: The settings of the outer surrogate
    :param space: The observation space
    :return: The data with other weights of the outer episodes
    """
    traces = []
    for task, (trace, scale) in enumerate(zip(rollout.traces, scales, strict=True)):
        *inner, outer = trace
        weights = outer.weighted.weights
        if task in rollout.own:
            weights = held_out_advantages(outer, settings, space) / (outer.batch.n_episodes * scale)
        traces.append([*inner, replace(outer, weighted=WeightedEpisodes(weights, float(scale)))])
    return replace(rollout, traces=traces)


@dataclass(frozen=True)
class Variates:
    """
    Control variates of one iteration, before scaling.

    :param baselines: The b of each inner step, shape (n_tasks, n_episodes)
    :param logged: The numbers for the log, by name
    """

    baselines: list[np.ndarray]
    logged: dict[str, float] = field(default_factory=dict)


class ReturnTerm(ScoreTerm):
    """
    Base class of the terms that multiply returns by scores. Subclasses define the control variates to subtract.

    Returns and outer surrogates of all tasks are divided by one scale from earlier iterations.

    :param outer_scale: The scale with its memory of earlier iterations; None begins without memory
    :param scaling: The regression on earlier iterations that scales b_j; None leaves b_j unchanged
    """

    def __init__(self, outer_scale: OuterScale | None = None, scaling: VariateScaling | None = None) -> None:
        self.outer_scale = OuterScale() if outer_scale is None else outer_scale
        self.scaling = scaling

    def prepare(self, rollout: MetaRollout, context: TermContext) -> ScoreTerm:
        return _ReturnsOfIteration(self, self.variates(rollout, context), rollout, context)

    def coefficients(self, step: InnerStep) -> th.Tensor:
        raise TypeError("Control variates look at all tasks: call `prepare(rollout, context)` first.")

    @abstractmethod
    def variates(self, rollout: MetaRollout, context: TermContext) -> Variates:
        """
        Compute the control variates of an iteration.

        :param rollout: The data of the iteration
        :param context: The policy and the objective
        :return: The control variates before scaling
        """

    def remember(self, rollout: MetaRollout, outer: np.ndarray) -> None:
        """
        Learn from an iteration for later control variates.

        :param rollout: The data of the iteration
        :param outer: The J̃ of each task, shape (n_tasks,)
        """


class _ReturnsOfIteration(ScoreTerm):
    """A :class:`ReturnTerm` with the control variates of one iteration."""

    def __init__(self, term: ReturnTerm, variates: Variates, rollout: MetaRollout, context: TermContext) -> None:
        self._term = term
        self._variates = variates
        self._gamma = context.objective.outer.gamma
        self._own_scales = np.array([trace[-1].weighted.scale for trace in rollout.traces])
        scales = term.outer_scale.scales(self._own_scales)
        self._scaled = with_scales(rollout, scales, context.objective.outer, context.policy.policy.observation_space)
        scale: Callable[[Sequence[np.ndarray]], list[np.ndarray]] = list if term.scaling is None else term.scaling.scale
        self._choose = ReturnCoefficients(self._scaled.traces, self._gamma, scale(variates.baselines))

    def weigh(self, rollout: MetaRollout) -> MetaRollout:
        return self._scaled

    def coefficients(self, step: InnerStep) -> th.Tensor:
        return self._choose(step)

    def observe(self, rollout: MetaRollout, estimate: MetaGradient) -> dict[str, float]:
        outer, scaling = outer_returns(rollout.traces, self._gamma), self._term.scaling
        logged = dict(self._variates.logged)
        self._term.remember(rollout, outer)
        self._term.outer_scale.observe(self._own_scales)
        if scaling is not None:
            logged["control_variate_scale"] = scaling.factors()[1]
            scaling.observe(outer, self._variates.baselines)
        return logged


class Returns(ReturnTerm):
    """
    Returns times scores, with b_j from the returns of other episodes.

    :param variate: The function that computes b_j from the outer and inner returns
    :param outer_scale: The scale of all tasks, as in :class:`ReturnTerm`
    :param scaling: The regression that scales b_j, as in :class:`ReturnTerm`
    """

    def __init__(
        self, variate: ControlVariate, outer_scale: OuterScale | None = None, scaling: VariateScaling | None = None
    ) -> None:
        super().__init__(outer_scale, scaling)
        self.variate = variate

    def check(self, settings: Any) -> None:
        super().check(settings)
        if self.variate is leave_one_out_return:
            check_leaves_one_out(settings)
        if self.variate is leave_one_task_out and settings.meta_batch_size < 2:
            raise ValueError("`meta_batch_size` must be at least 2 with `control_variate='leave_one_task_out'`.")

    def variates(self, rollout: MetaRollout, context: TermContext) -> Variates:
        return Variates(return_baselines(rollout.traces, context.objective.outer.gamma, self.variate))


class TaskRegressionTerm(ReturnTerm):
    """
    Returns times scores, with b_j predicted from the parameters of the task.

    :param regression: The regression, fitted on earlier iterations
    :param outer_scale: The scale of all tasks, as in :class:`ReturnTerm`
    :param scaling: The regression that scales b_j, as in :class:`ReturnTerm`
    """

    needs_task_features = True

    def __init__(
        self, regression: TaskRegression, outer_scale: OuterScale | None = None, scaling: VariateScaling | None = None
    ) -> None:
        super().__init__(outer_scale, scaling)
        self.regression = regression

    def variates(self, rollout: MetaRollout, context: TermContext) -> Variates:
        assert rollout.task_features is not None
        predicted = self.regression.predict(rollout.task_features)[:, None]
        gamma = context.objective.outer.gamma
        return Variates(return_baselines(rollout.traces, gamma, lambda _, inner: np.broadcast_to(predicted, inner.shape)))

    def remember(self, rollout: MetaRollout, outer: np.ndarray) -> None:
        assert rollout.task_features is not None
        self.regression.observe(rollout.task_features, outer)


class Counterfactual(ReturnTerm):
    """Returns times scores, where b_j is the estimated return of adapting without episode j."""

    def check(self, settings: Any) -> None:
        super().check(settings)
        check_leaves_one_out(settings)

    def variates(self, rollout: MetaRollout, context: TermContext) -> Variates:
        # a single task has no other tasks, but never falls back on `otherwise`
        otherwise = leave_one_task_out if len(rollout.traces) > 1 else leave_one_out_return
        found = counterfactual_baselines(
            context.policy,
            context.objective,
            context.policy.policy.observation_space,
            rollout.traces,
            return_baselines(rollout.traces, context.objective.outer.gamma, otherwise),
            executor=context.executor,
            ranks=rollout.ranks,
        )
        logged = {
            "effective_sample_size": float(found.effective_sample_size.mean()),
            "counterfactual_fraction": float(found.used.mean()),
        }
        return Variates(found.baselines, logged)

"""The forms of the score term: what multiplies ∇log π of the samples of an inner batch in formula (B)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch as th

from sb3_sgmrl.gradient.objective import InnerStep, ScoreCoefficients, TaskPhase
from sb3_sgmrl.score_terms.control_variates import ControlVariate


def outer_returns(phases: Sequence[Sequence[TaskPhase]], gamma: float) -> np.ndarray:
    """
    :param phases: ζ + 1 phases of every task
    :param gamma: discount factor
    :return: J̃, the mean discounted return of each task's outer episodes, shape (n_tasks,)
    """
    return np.array([trace[-1].batch.returns(gamma).mean() for trace in phases])


def return_baselines(phases: Sequence[Sequence[TaskPhase]], gamma: float, variate: ControlVariate) -> list[np.ndarray]:
    """
    The b_j that a control variate makes of returns.

    :param phases: ζ + 1 phases of every task
    :param gamma: discount factor of the returns
    :param variate: the control variate
    :return: b for each inner step, shape (n_tasks, n_episodes)
    """
    outer = outer_returns(phases, gamma)
    inner = [np.array([trace[stage].batch.returns(gamma) for trace in phases]) for stage in range(len(phases[0]) - 1)]
    return [variate(outer, returns) for returns in inner]


def return_coefficients(
    phases: Sequence[Sequence[TaskPhase]], gamma: float, baselines: Sequence[np.ndarray]
) -> ScoreCoefficients:
    """
    The score term in its exact form, Σ_j (J̃ − b_j) s_j with J̃ in the units of the outer surrogate.

    :param phases: ζ + 1 phases of every task
    :param gamma: discount factor of J̃
    :param baselines: b for each inner step, shape (n_tasks, n_episodes): :func:`return_baselines`, or those of
        :func:`~sb3_sgmrl.score_terms.counterfactual.counterfactual_baselines`
    :return: score coefficients for :func:`~sb3_sgmrl.gradient.meta_gradient.meta_gradient`
    """
    outer = outer_returns(phases, gamma)
    scale = np.array([trace[-1].weighted.scale for trace in phases])
    stages = [(outer[:, None] - b) / scale[:, None] for b in baselines]

    def coefficients(step: InnerStep) -> th.Tensor:
        weights = step.samples.weights
        per_episode = th.as_tensor(stages[step.stage][step.task], dtype=weights.dtype, device=weights.device)
        return step.samples.per_sample(per_episode)

    return coefficients


def mean_reward_coefficients(phases: Sequence[Sequence[TaskPhase]]) -> ScoreCoefficients:
    """
    E-MAML's term, the mean reward after adaptation times the mean log-likelihood of the first inner batch: the rewards of all
    steps of all tasks are standardised together, and each task has the mean of its own.

    :param phases: ζ + 1 phases of every task
    :return: score coefficients for :func:`~sb3_sgmrl.gradient.meta_gradient.meta_gradient`
    """
    rewards = [trace[-1].batch.rewards[trace[-1].batch.mask] for trace in phases]
    together = np.concatenate(rewards)
    standardised = [(r.mean() - together.mean()) / (together.std() + 1e-8) for r in rewards]

    def coefficients(step: InnerStep) -> th.Tensor:
        weights = step.samples.weights
        mean_reward = standardised[step.task] if step.stage == 0 else 0.0
        return th.full_like(weights, mean_reward / len(weights))

    return coefficients

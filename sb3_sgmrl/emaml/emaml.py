from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch as th

from sb3_sgmrl.common.arguments import with_arguments
from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
from sb3_sgmrl.gradient.advantages import ROUNDING
from sb3_sgmrl.gradient.objective import InnerStep, MetaRollout
from sb3_sgmrl.score_terms.base import ScoreTerm, TermContext


class MeanReward(ScoreTerm):
    """
    Mean reward after adaptation times the mean log-likelihood of the first inner batch.

    The rewards of all steps of all tasks are standardised together. Each task uses the mean of its own standardised rewards.
    """

    def prepare(self, rollout: MetaRollout, context: TermContext) -> ScoreTerm:
        rewards = [trace[-1].batch.rewards[trace[-1].batch.mask] for trace in rollout.traces]
        together = np.concatenate(rewards)
        deviation, size = together.std(), np.sqrt((together**2).mean())
        unit = np.inf if deviation <= ROUNDING * size else deviation
        return _OfIteration([float((r.mean() - together.mean()) / unit) for r in rewards])

    def coefficients(self, step: InnerStep) -> th.Tensor:
        raise TypeError("Rewards are standardised over all tasks: call `prepare(rollout, context)` first.")


@dataclass(frozen=True)
class _OfIteration(ScoreTerm):
    """A :class:`MeanReward` with the standardised mean reward of each task of an iteration."""

    mean_rewards: list[float]

    def coefficients(self, step: InnerStep) -> th.Tensor:
        weights = step.samples.weights
        mean_reward = self.mean_rewards[step.task] if step.stage == 0 else 0.0
        return th.full_like(weights, mean_reward / len(weights))


@with_arguments
class EMAML(MetaOnPolicyAlgorithm):
    """
    E-MAML: MAML with a heuristic score term for exploration, in the form the SG-MRL paper compares with.

    For each task, E-MAML adds to MAML's surrogate a product of two factors:

    - the mean reward after adaptation, standardised over all tasks;
    - the mean log-likelihood of the first batch of episodes.

    The term has a mean where the exact gradient has a sum. So it is small and fades with the number of samples.
    See :class:`~sb3_sgmrl.SGMRL` for the exact term.
    Paper: https://arxiv.org/abs/1803.01118 (Stadie et al. 2018).
    """

    @property
    def score_term(self) -> ScoreTerm:
        return MeanReward()

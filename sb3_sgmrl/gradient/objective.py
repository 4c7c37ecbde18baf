"""Data classes that the modules of the meta-gradient exchange."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_sgmrl.data.batch import PhaseBatch, TaskBatch
from sb3_sgmrl.distributed import ALONE, Ranks
from sb3_sgmrl.distributed.ranks import Elsewhere
from sb3_sgmrl.gradient.advantages import AdvantageSettings, WeightedEpisodes
from sb3_sgmrl.gradient.inner import INNER_SURROGATES, InnerSurrogate, InnerSurrogateName, WeightedSamples
from sb3_sgmrl.gradient.score_weight import ScoreLimits, ScoreWeights
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters


@dataclass(frozen=True)
class TaskPhase:
    """
    The data of one task in one phase.

    :param parameters: The parameters θᵗ that played the phase, by name
    :param batch: The episodes
    :param weighted: The weights of the episodes in the surrogate
    :param values: The critic's predictions (n_episodes, n_steps); None without a critic
    """

    parameters: Parameters
    batch: TaskBatch
    weighted: WeightedEpisodes
    values: np.ndarray | None = None

    @classmethod
    def elsewhere(cls, task: int, phase: PhaseBatch, scale: float) -> TaskPhase:
        """
        Describe a task that another rank has played. Its parameters, observations, actions and weights cannot be used.

        :param task: The index of the task
        :param phase: The rewards of every task
        :param scale: The scale of the weights
        :return: The phase of the task
        """
        known = phase.task(task)
        parameters, observations, actions, weights = (
            cast(Any, Elsewhere(what, task, known.mask.shape)) for what in ("parameters", "observations", "actions", "weights")
        )
        batch = TaskBatch(observations, actions, known.rewards, known.mask)
        return cls(parameters, batch, WeightedEpisodes(weights, scale))


@dataclass(frozen=True)
class InnerStep:
    """
    An inner step in the backward pass, when the score coefficients are chosen.

    :param task: The index of the task
    :param stage: The index of the inner step, 0 … ζ − 1
    :param phase: The episodes D and the parameters θ that played them
    :param adapted: The adapted parameters ψ = U(θ, D)
    :param samples: The episodes D with their weights
    :param settings: The settings that turned rewards into these weights
    :param observation_space: The observation space of the policy
    :param sensitivity: The sensitivity x = α ∇log π ᵀ (r ⊙ v) of each sample, v the gradient at ψ, shape (n_samples,)
    """

    task: int
    stage: int
    phase: TaskPhase
    adapted: Parameters
    samples: WeightedSamples
    settings: AdvantageSettings
    observation_space: spaces.Space
    sensitivity: th.Tensor


@dataclass(frozen=True)
class MetaRollout:
    """
    The data of one meta-iteration.

    :param tasks: The tasks
    :param traces: The ζ + 1 phases of every task. Under torchrun, the phases of tasks outside :attr:`own` hold rewards, masks
        and scales only
    :param task_features: The numbers that describe each task, shape (n_tasks, n_features); None where no score term asks for
        them
    :param policy: The policy that played, as a function; None where it cannot have changed since
    :param ranks: The ranks that share the tasks
    """

    tasks: Sequence[Any]
    traces: list[list[TaskPhase]]
    task_features: np.ndarray | None = None
    policy: FunctionalPolicy | None = None
    ranks: Ranks = ALONE

    @property
    def own(self) -> range:
        """The indices of the tasks that this process has played."""
        return self.ranks.own(len(self.traces))


# The coefficient of ∇log π of each sample, (n_samples,), in the units of the outer surrogate. A form that weighs the scores of
# whole episodes gives all samples of an episode the same coefficient.
ScoreCoefficients = Callable[[InnerStep], th.Tensor]


@dataclass(frozen=True)
class MetaObjective:
    """
    The choice of the gradient that is computed.

    :param inner: The settings of the weights of the inner surrogate
    :param outer: The settings of the weights of the outer surrogate
    :param inner_lr: The step size α
    :param relative_lr: The step sizes r of the parameters in units of α, by name; None for 1. Each is a scalar for all entries
        of a parameter, or a tensor of its shape. It is zero where the parameter is not adapted
    :param inner_surrogate: The inner surrogate ``pathwise``, ``lvc`` or ``dice``, see
        :func:`~sb3_sgmrl.gradient.inner.InnerSurrogate`
    :param first_order: Whether to leave the second derivative out
    :param score_coef: The weight λ of the score term; 1 is SG-MRL, 0 is MAML. Alternatively, a weight for each inner step and
        parameter
    :param score_limits: The norms at which score terms are cut off before they are weighted, for each inner step. Empty leaves
        them as they are. Only with weights for each parameter
    """

    inner: AdvantageSettings
    outer: AdvantageSettings
    inner_lr: float
    relative_lr: Parameters | None = None
    inner_surrogate: InnerSurrogateName = "pathwise"
    first_order: bool = False
    score_coef: float | ScoreWeights = 1.0
    score_limits: ScoreLimits = ()

    @property
    def surrogate(self) -> InnerSurrogate:
        """The surrogate that ``inner_surrogate`` names."""
        return INNER_SURROGATES[self.inner_surrogate]

    @property
    def needs_critic(self) -> bool:
        """Whether the value net is a baseline, and so must be trained."""
        return self.inner.predictor.needs_critic or self.outer.predictor.needs_critic

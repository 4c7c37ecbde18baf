"""What the modules of the meta-gradient hand to each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_sgmrl.data.batch import TaskBatch
from sb3_sgmrl.gradient.advantages import AdvantageSettings, WeightedEpisodes
from sb3_sgmrl.gradient.inner import INNER_SURROGATES, InnerSurrogate, InnerSurrogateName, WeightedSamples
from sb3_sgmrl.gradient.score_weight import ScoreWeights
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters


@dataclass(frozen=True)
class TaskPhase:
    """
    What one task saw in one phase.

    :param parameters: the parameters that played it, θᵗ by name
    :param batch: the episodes
    :param weighted: their weights in the surrogate
    :param values: the critic's predictions (n_episodes, n_steps); None without a critic
    """

    parameters: Parameters
    batch: TaskBatch
    weighted: WeightedEpisodes
    values: np.ndarray | None = None


@dataclass(frozen=True)
class InnerStep:
    """
    An inner step seen from behind, when the score coefficients are chosen.

    :param task: index of the task
    :param stage: index of the inner step, 0 … ζ − 1
    :param phase: the episodes D and the parameters θ they were played with
    :param adapted: ψ = U(θ, D)
    :param samples: D with its weights
    :param settings: how rewards became these weights
    :param observation_space: of the policy
    :param sensitivity: x = α ∇log π ᵀ (r ⊙ v) of each sample, v the gradient at ψ, shape (n_samples,)
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

    :param tasks: the tasks
    :param traces: ζ + 1 phases of every task
    :param task_features: numbers that describe each task, shape (n_tasks, n_features); None where no score term asks for them
    :param policy: The policy that played, as a function; None where it cannot have changed since
    """

    tasks: Sequence[Any]
    traces: list[list[TaskPhase]]
    task_features: np.ndarray | None = None
    policy: FunctionalPolicy | None = None


# what weighs ∇log π of each sample, (n_samples,), in the units of the outer surrogate; a form that weighs the scores of whole
# episodes gives all samples of an episode the same
ScoreCoefficients = Callable[[InnerStep], th.Tensor]


@dataclass(frozen=True)
class MetaObjective:
    """
    Which gradient is computed.

    :param inner: weights of the inner surrogate
    :param outer: weights of the outer surrogate
    :param inner_lr: α
    :param relative_lr: r, the step sizes of the parameters in units of α, by name: a scalar for all entries of a
        parameter, or one of its shape; zero where it is not adapted; None for 1
    :param inner_surrogate: ``pathwise``, ``lvc`` or ``dice``, see :func:`~sb3_sgmrl.gradient.inner.curvature_weights`
    :param first_order: leave the second derivative out
    :param score_coef: weight λ of the score term; 1 is SG-MRL, 0 is MAML. Or a weight for each inner step and parameter
    """

    inner: AdvantageSettings
    outer: AdvantageSettings
    inner_lr: float
    relative_lr: Parameters | None = None
    inner_surrogate: InnerSurrogateName = "pathwise"
    first_order: bool = False
    score_coef: float | ScoreWeights = 1.0

    @property
    def surrogate(self) -> InnerSurrogate:
        """What ``inner_surrogate`` names."""
        return INNER_SURROGATES[self.inner_surrogate]

    @property
    def needs_critic(self) -> bool:
        """Whether the value net is a baseline, and so has to be trained."""
        return self.inner.predictor.needs_critic or self.outer.predictor.needs_critic

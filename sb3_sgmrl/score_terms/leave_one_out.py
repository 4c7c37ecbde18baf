"""Inner steps without each episode in turn: refitted weights and parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_sgmrl.data.batch import TaskBatch
from sb3_sgmrl.gradient.advantages import AdvantageSettings, finish, gae
from sb3_sgmrl.gradient.baselines import baseline_features, episode_gram
from sb3_sgmrl.gradient.inner import WeightedSamples, ascend
from sb3_sgmrl.gradient.objective import MetaObjective, TaskPhase
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.policies.likelihood import log_likelihood


@dataclass(frozen=True)
class LeaveOneOut:
    """
    The weights of a task without each of its episodes in turn.

    :param weights: The weights that :func:`episode_weights` gives without episode j, shape
        (n_episodes left out, n_episodes, n_steps); the weights of the episode left out are zero
    :param values: The baseline fitted on all episodes, shape (n_episodes, n_steps)
    :param values_without: The baseline of each episode, fitted on the others, shape (n_episodes, n_steps)
    :param features: The features of the linear baseline, shape (n_episodes, n_steps, n_features), zero where nothing was
        played
    :param gram: The Gram matrix of the features over all episodes, shape (n_features, n_features)
    """

    weights: np.ndarray
    values: np.ndarray
    values_without: np.ndarray
    features: np.ndarray
    gram: np.ndarray


def leave_one_out(
    batch: TaskBatch, settings: AdvantageSettings, space: spaces.Space, values: np.ndarray | None = None
) -> LeaveOneOut:
    """
    Compute the weights without each episode in turn.

    Baseline, mean, scale and reduction are all refitted, as formula (C) needs them.

    :param batch: The episodes of a task, at least two
    :param settings: The settings that turn rewards into weights
    :param space: The observation space, for the linear baseline
    :param values: The predictions of the critic, shape (n_episodes, n_steps); only read with ``baseline="critic"``
    :return: The weights, and the quantities they are computed from
    """
    n = batch.n_episodes
    keep = (~np.eye(n, dtype=bool))[:, :, None] & batch.mask
    features = baseline_features(space, batch)
    predicted, predictions = settings.predictor.leave_one_out(batch, features, settings.gamma, space, values)
    raw = gae(np.broadcast_to(batch.rewards, keep.shape), predictions, settings)
    without = predictions[np.arange(n), np.arange(n)]
    gram = episode_gram(features).sum(0)
    return LeaveOneOut(finish(raw, keep, settings)[0], predicted, without, features, gram)


def leave_one_out_parameters(
    policy: FunctionalPolicy, phase: TaskPhase, objective: MetaObjective, space: spaces.Space
) -> list[Parameters]:
    """
    Compute U(θ, D∖τ_j) for every j, by N inner steps.

    :param policy: The policy as a function
    :param phase: The episodes D and the parameters θ that played them
    :param objective: The objective with the step sizes and the inner weights
    :param space: The observation space
    :return: The parameters by name, for each episode left out
    """
    without = leave_one_out(phase.batch, objective.inner, space, phase.values).weights[:, phase.batch.mask]
    samples = WeightedSamples.make(policy, phase.batch, phase.weighted.weights)
    likelihood = log_likelihood(policy, phase.parameters, samples.observations, samples.actions)
    gradients = [likelihood.gradient(weights) for weights in th.as_tensor(without, dtype=policy.dtype, device=policy.device)]
    return [ascend(phase.parameters, g, objective.inner_lr, objective.relative_lr) for g in gradients]

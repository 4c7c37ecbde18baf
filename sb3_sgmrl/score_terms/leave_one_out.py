"""A task without each of its episodes in turn: refitted weights, advantages and parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_sgmrl.data.batch import TaskBatch
from sb3_sgmrl.gradient.advantages import (
    AdvantageSettings,
    alike_without_each,
    centred,
    finish,
    gae,
    td_errors,
    unit_rewards,
)
from sb3_sgmrl.gradient.baselines import baseline_features, episode_gram
from sb3_sgmrl.gradient.discounting import discounted_sum
from sb3_sgmrl.gradient.inner import WeightedSamples, ascend
from sb3_sgmrl.gradient.objective import MetaObjective, TaskPhase
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.policies.likelihood import log_likelihood

# With as many steps for each feature of the baseline, the residuals of a fit are at least 1/√2 of those of other episodes.
_STEPS_PER_FEATURE = 2


@dataclass(frozen=True)
class LeaveOneOut:
    """
    The weights of a task without each of its episodes in turn, and the quantities they are computed from.

    :param weights: The weights that :func:`episode_weights` gives without episode j, shape
        (n_episodes left out, n_episodes, n_steps); the weights of the episode left out are zero
    :param mean_advantages: The mean that normalisation subtracts without episode j, shape (n_episodes left out,)
    :param mean_rewards: The c of :func:`~sb3_sgmrl.gradient.advantages.centred` without episode j, shape
        (n_episodes left out,); zero without normalisation
    :param rewards: The rewards of all episodes, less their mean with normalisation, shape (n_episodes, n_steps)
    :param values: The baseline fitted on all episodes, same shape
    :param rewards_without: The rewards of each episode, less the mean of the others with normalisation, same shape
    :param values_without: The baseline of each episode, fitted on the others, same shape
    :param features: The features of the linear baseline, shape (n_episodes, n_steps, n_features), zero where nothing was
        played
    :param gram: The Gram matrix of the features over all episodes, shape (n_features, n_features)
    :param can_be_fitted: Whether the other episodes have enough steps to fit the baseline, shape (n_episodes left out,)
    """

    weights: np.ndarray
    mean_advantages: np.ndarray
    mean_rewards: np.ndarray
    rewards: np.ndarray
    values: np.ndarray
    rewards_without: np.ndarray
    values_without: np.ndarray
    features: np.ndarray
    gram: np.ndarray
    can_be_fitted: np.ndarray

    def residuals(self, settings: AdvantageSettings) -> np.ndarray:
        """
        Compute the TD errors of each episode, with the mean reward and the baseline of the others.

        :param settings: The settings, which give the discount factor
        :return: The errors, shape (n_episodes, n_steps)
        """
        return td_errors(self.rewards_without, self.values_without, settings)


def leave_one_out(
    batch: TaskBatch, settings: AdvantageSettings, space: spaces.Space, values: np.ndarray | None = None
) -> LeaveOneOut:
    """
    Compute the weights without each episode in turn.

    Mean reward, baseline, mean, scale and reduction are all refitted, as formula (C) needs them.

    :param batch: The episodes of a task, at least two
    :param settings: The settings that turn rewards into weights
    :param space: The observation space, for the linear baseline
    :param values: The predictions of the critic, shape (n_episodes, n_steps); only read with ``baseline="critic"``
    :return: The weights, and the quantities they are computed from
    """
    mask, gamma, every = batch.mask, settings.gamma, np.arange(batch.n_episodes)
    keep = (~np.eye(batch.n_episodes, dtype=bool))[:, :, None] & mask
    means, units = np.zeros(len(mask)), np.zeros(mask.shape)
    total = own = batch.rewards
    if settings.normalize:
        critic = values if settings.predictor.needs_critic else None
        total = centred(batch.rewards, mask, settings, critic)
        left = (batch.rewards if critic is None else td_errors(batch.rewards, critic * mask, settings)).sum(1)
        means = (left.sum() - left) / (mask.sum() - mask.sum(1))
        longest = _longest_of_others(mask)
        units = unit_rewards(mask if (longest == mask.sum(1).max()).all() else keep, gamma)
        own = batch.rewards - means[:, None] * unit_rewards(mask, gamma, longest)
    rewards = batch.rewards - means[:, None, None] * units
    features = baseline_features(space, batch)
    regression = settings.predictor.regression(features)
    if regression is None:
        predicted = settings.predictor.predict(batch, gamma, space, values)
        predictions = np.broadcast_to(predicted, keep.shape)
    else:
        predicted = regression.fit(discounted_sum(total, gamma))
        moments = regression.moments_without_each(discounted_sum(batch.rewards, gamma))
        if settings.normalize:
            moments = moments - means[:, None] * regression.moments_without_each(discounted_sum(units, gamma))
        predictions = regression.predictions_without_each(moments)
    raw = gae(rewards, predictions, settings) * settings.discounts(mask.shape[1])
    n_samples, squares = mask.sum() - mask.sum(1), (batch.rewards**2).sum(1)
    sizes = np.sqrt(np.maximum(squares.sum() - squares, 0) / n_samples)
    weights, _ = finish(raw, keep, settings, sizes, alike_without_each(batch.rewards, mask))
    return LeaveOneOut(
        weights,
        (raw * keep).sum((1, 2)) / n_samples,
        means,
        total,
        predicted,
        own,
        predictions[every, every],
        features,
        (episode_gram(features) if regression is None else regression.grams).sum(0),
        n_samples >= _STEPS_PER_FEATURE * (0 if regression is None else features.shape[-1]),
    )


def _longest_of_others(mask: np.ndarray) -> np.ndarray:
    """Compute the length of the longest episode but each in turn, shape (n_episodes left out,)."""
    lengths = mask.sum(1)
    second, first = np.sort(lengths)[-2:]
    return np.where(lengths == first, second, first)


def held_out_advantages(phase: TaskPhase, settings: AdvantageSettings, space: spaces.Space) -> np.ndarray:
    """
    Compute advantages with the mean reward, the baseline and the mean of the other episodes.

    All that is subtracted from an episode is independent of this episode. So Σ_t A_t ∇log π has the expectation of advantages
    without a baseline, for any number of episodes. Where the others have too few steps for a fit, no baseline is subtracted.

    :param phase: The episodes of a task
    :param settings: The settings that turn rewards into weights; the scale is left to the caller
    :param space: The observation space, for the linear baseline
    :return: The advantages, discounted as the settings say, shape (n_episodes, n_steps)
    """
    batch = phase.batch
    discounts, factor = settings.discounts(batch.mask.shape[1]), settings.gamma * settings.gae_lambda
    if batch.n_episodes == 1:
        values = phase.values if settings.predictor.needs_critic and phase.values is not None else np.zeros(batch.mask.shape)
        return discounts * gae(batch.rewards, values * batch.mask, settings) * batch.mask
    without = leave_one_out(batch, settings, space, phase.values)
    fitted = without.can_be_fitted[:, None]
    without = replace(without, values_without=np.where(fitted, without.values_without, 0.0))
    mean = np.where(fitted, without.mean_advantages[:, None], 0.0) if settings.normalize else 0.0
    return (discounts * discounted_sum(without.residuals(settings), factor) - mean) * batch.mask


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

"""Advantages of one task's episodes, and the same advantages refitted without each episode in turn."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

import numpy as np
from gymnasium import spaces
from scipy.signal import lfilter
from stable_baselines3.common.preprocessing import is_image_space

from sb3_sgmrl.data.batch import Observations, PhaseBatch, TaskBatch

RIDGE = 1e-5
BASELINES = ("linear", "critic", "none")
DISCOUNT_STARTS = ("step", "episode")
REDUCTIONS = ("mean", "sum")
# a standard deviation of advantages that is none
_NO_DEVIATION = 1e-8


@dataclass(frozen=True)
class AdvantageSettings:
    """
    How rewards become the weights of the log-likelihoods.

    :param gamma: discount factor
    :param gae_lambda: λ of generalised advantage estimation; 1 gives reward-to-go minus baseline
    :param baseline: ``linear`` (features of observation and time, fitted on the episodes it then predicts; Duan et al.
        2016), ``critic`` (values handed in) or ``none``
    :param normalize: subtract the mean and divide by the standard deviation over all steps of the task
    :param discount_from: ``step``: the reward-to-go of step h is discounted from h, as is customary; ``episode``: from the
        start of the episode, R^h = Σ_{t≥h} γ^t r_t as in eq. (4) of the paper
    :param time_reduction: ``mean``: the surrogate is a mean over all steps; ``sum``: a sum over the steps of an episode and a
        mean over episodes, as in eq. (3)
    """

    gamma: float = 0.99
    gae_lambda: float = 0.997
    baseline: str = "linear"
    normalize: bool = True
    discount_from: str = "step"
    time_reduction: str = "mean"

    def __post_init__(self) -> None:
        for name in ("gamma", "gae_lambda"):
            if not (isinstance(getattr(self, name), Real) and 0 <= getattr(self, name) <= 1):
                raise ValueError(f"`{name}` must lie in [0, 1], got {getattr(self, name)!r}.")
        for name, allowed in (("baseline", BASELINES), ("discount_from", DISCOUNT_STARTS), ("time_reduction", REDUCTIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")


@dataclass(frozen=True)
class WeightedEpisodes:
    """
    The weights w of a surrogate Σ w log π: normalised advantages times the reduction.

    :param weights: shape (n_episodes, n_steps), zero where nothing was played
    :param scale: what a return is divided by in the surrogate (reduction × standard deviation); ∇ Σ w log π estimates
        ∇J / scale. Infinite where advantages are equal, as of a reward that no episode met
    """

    weights: np.ndarray
    scale: float


# features of as many tasks at a time as fit into this many numbers, which should stay in the processor's cache
_CHUNK = 2**18


def flatten_observations(space: spaces.Space, observations: Observations) -> np.ndarray | None:
    """
    Observations as vectors, for the linear baseline: one-hot for discrete spaces, images left out.

    :param space: observation space
    :param observations: shape (..., \\*obs_shape), or such an array per key
    :return: shape (..., n), or None when nothing is left
    """
    if isinstance(space, spaces.Dict):
        assert isinstance(observations, dict)
        flattened = (flatten_observations(sub, observations[key]) for key, sub in space.spaces.items())
        parts = [part for part in flattened if part is not None]
        return np.concatenate(parts, axis=-1) if parts else None
    assert isinstance(observations, np.ndarray)
    if isinstance(space, spaces.Discrete):
        return np.eye(int(space.n))[observations.astype(int) - space.start]
    if isinstance(space, spaces.MultiDiscrete):
        return np.concatenate([np.eye(n)[observations[..., i].astype(int)] for i, n in enumerate(space.nvec)], axis=-1)
    if is_image_space(space):
        return None
    n_leading = observations.ndim - len(space.shape or ())
    return observations.reshape(*observations.shape[:n_leading], -1).astype(np.float64)


def baseline_features(space: spaces.Space, batch: TaskBatch | PhaseBatch) -> np.ndarray:
    """
    Features of the linear baseline: clip(obs, ±10), obs², t/100, (t/100)², (t/100)³, 1 (Duan et al. 2016). Images contribute
    no feature.

    :param space: observation space
    :param batch: episodes of one or many tasks
    :return: shape (..., n_episodes, n_steps, n_features), zero where nothing was played
    """
    time = np.broadcast_to(np.arange(batch.mask.shape[-1])[:, None] / 100.0, (*batch.mask.shape, 1))
    features = [time, time**2, time**3, np.ones_like(time)]
    flat = flatten_observations(space, batch.observations)
    if flat is not None:
        flat = np.clip(flat, -10, 10)
        features = [flat, flat**2, *features]
    return np.concatenate(features, axis=-1) * batch.mask[..., None]


def accumulated(x: np.ndarray, factor: float) -> np.ndarray:
    """
    Σ_{k≤t} factor^{t−k} x_k for every t.

    :param x: shape (..., n_steps)
    :param factor: per step
    :return: shape (..., n_steps)
    """
    return lfilter([1.0], [1.0, -factor], x)


def discounted_sum(x: np.ndarray, discount: float) -> np.ndarray:
    """
    Σ_{k≥t} discount^{k−t} x_k for every t.

    :param x: shape (..., n_steps)
    :param discount: factor per step
    :return: shape (..., n_steps)
    """
    return accumulated(x[..., ::-1], discount)[..., ::-1]


def td_errors(rewards: np.ndarray, values: np.ndarray, settings: AdvantageSettings) -> np.ndarray:
    """
    δ_t = r_t + γ V_{t+1} − V_t. The value after the last step of an episode is zero, also when a time limit ended it: the
    objective is the return within the horizon.

    :param rewards: shape (..., n_steps), zero after the end
    :param values: shape (..., n_steps), zero after the end
    :param settings: discount factor
    :return: shape (..., n_steps)
    """
    deltas = rewards - values
    deltas[..., :-1] += settings.gamma * values[..., 1:]
    return deltas


def gae(rewards: np.ndarray, values: np.ndarray, settings: AdvantageSettings) -> np.ndarray:
    """
    Generalised advantage estimates of complete episodes, Σ_{k≥t} (γλ)^{k−t} δ_k with the :func:`td_errors` δ.

    :param rewards: shape (..., n_steps), zero after the end
    :param values: shape (..., n_steps), zero after the end
    :param settings: discount factor and λ
    :return: shape (..., n_steps)
    """
    return discounted_sum(td_errors(rewards, values, settings), settings.gamma * settings.gae_lambda)


def finish(raw: np.ndarray, mask: np.ndarray, settings: AdvantageSettings) -> tuple[np.ndarray, np.ndarray]:
    """
    Discounting from the start, normalisation and reduction: from raw advantages to the weights of the log-likelihoods.

    :param raw: advantages, shape (..., n_episodes, n_steps)
    :param mask: which of them count, same shape
    :param settings: what is asked for
    :return: weights (..., n_episodes, n_steps) and scale (...), see :class:`WeightedEpisodes`
    """
    if settings.discount_from == "episode":
        raw = raw * settings.gamma ** np.arange(raw.shape[-1])
    n_samples = mask.sum((-2, -1))
    scale = mask.any(-1).sum(-1).astype(np.float64) if settings.time_reduction == "sum" else n_samples.astype(np.float64)
    n_episodes = mask.any(-1).sum(-1)
    unit = scale / n_episodes
    raw = raw * mask
    if settings.normalize:
        centred = raw - (raw.sum((-2, -1)) / n_samples)[..., None, None]
        centred *= mask
        deviation = np.sqrt((centred**2).sum((-2, -1)) / n_samples)
        std = deviation + _NO_DEVIATION
        return centred / (std * scale)[..., None, None], np.where(deviation < _NO_DEVIATION, np.inf, unit * std)
    return raw / scale[..., None, None], unit


def episode_weights(
    phase: PhaseBatch, settings: AdvantageSettings, space: spaces.Space, values: np.ndarray | None = None
) -> list[WeightedEpisodes]:
    """
    Weights of the log-likelihoods in the surrogate Σ w log π of each task.

    :param phase: the episodes of every task
    :param settings: how rewards become weights
    :param space: observation space, for the linear baseline
    :param values: predictions of the critic, shape (n_tasks, n_episodes, n_steps); only read with ``baseline="critic"``
    :return: weights and scale per task
    """
    n_features = 2 * spaces.flatdim(space) + 4 if settings.baseline == "linear" else 1
    size = max(1, _CHUNK // (n_features * int(np.prod(phase.mask.shape[1:]))))
    weighted: list[WeightedEpisodes] = []
    for start in range(0, phase.n_tasks, size):
        chunk = phase.tasks(slice(start, start + size))
        if settings.baseline == "linear":
            features = baseline_features(space, chunk)
            coefficients = ridge_fit(episode_gram(features).sum(1), episode_moment(features, chunk, settings).sum(1))
            predictions = (features @ coefficients[:, None, :, None])[..., 0]
        elif settings.baseline == "critic":
            assert values is not None, "the critic's values are needed"
            predictions = values[start : start + size] * chunk.mask
        else:
            predictions = np.zeros_like(chunk.rewards)
        weights, scales = finish(gae(chunk.rewards, predictions, settings), chunk.mask, settings)
        weighted += [WeightedEpisodes(w, float(scale)) for w, scale in zip(weights, scales, strict=True)]
    return weighted


def predict_from(fitted: TaskBatch, batch: TaskBatch, space: spaces.Space, settings: AdvantageSettings) -> np.ndarray:
    """
    The linear baseline, fitted on other episodes than those it predicts.

    :param fitted: the episodes it is fitted on
    :param batch: the episodes it predicts
    :param space: observation space
    :param settings: the discount factor
    :return: predicted rewards-to-go, shape (n_episodes, n_steps), zero where nothing was played
    """
    features = baseline_features(space, fitted)
    coefficients = ridge_fit(episode_gram(features).sum(0), episode_moment(features, fitted, settings).sum(0))
    return baseline_features(space, batch) @ coefficients


def episode_gram(features: np.ndarray) -> np.ndarray:
    """Gram matrix of each episode, (..., n_episodes, n_features, n_features)."""
    return features.swapaxes(-1, -2) @ features


def episode_moment(features: np.ndarray, batch: TaskBatch | PhaseBatch, settings: AdvantageSettings) -> np.ndarray:
    """Features times discounted reward-to-go of each episode, (..., n_episodes, n_features)."""
    returns = discounted_sum(batch.rewards, settings.gamma)
    return (features.swapaxes(-1, -2) @ returns[..., None])[..., 0]


def ridge_fit(gram: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """
    Coefficients of a ridge regression.

    :param gram: Gram matrices of the features, shape (..., n_features, n_features)
    :param moment: features times targets, shape (..., n_features)
    :return: shape (..., n_features)
    """
    return np.linalg.solve(gram + RIDGE * np.eye(gram.shape[-1]), moment[..., None])[..., 0]

"""Baselines of the advantages: predictions of the rewards-to-go, and the same predictions without each episode in turn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_sgmrl.data.batch import Observations, PhaseBatch, TaskBatch
from sb3_sgmrl.gradient.discounting import discounted_sum

BaselineName = Literal["linear", "critic", "none"]

RIDGE = 1e-5

# Above this number of features, a task with fewer steps gets as many features as steps, with the same predictions.
MANY_FEATURES = 512
# The number of columns per block of the observations, which may be images.
_BLOCK = 4096


def flatten_observations(space: spaces.Space, observations: Observations) -> np.ndarray | None:
    """
    Flatten observations into vectors for the linear baseline.

    Discrete spaces become one-hot vectors. Images are excluded.

    :param space: The observation space
    :param observations: The observations, shape (..., \\*obs_shape), or such an array per key
    :return: The vectors, shape (..., n), or None when nothing is left
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
    Compute the features of the linear baseline: clip(obs, ±10), obs², t/100, (t/100)², (t/100)³, 1 (Duan et al. 2016).

    Images contribute no feature. The features are rotated when their number exceeds both 512 and the number of steps of a
    task. A ridge regression depends on the features X by X Xᵀ only, which as many features as steps can have.

    :param space: The observation space
    :param batch: The episodes of one or many tasks
    :return: The features, shape (..., n_episodes, n_steps, n_features), zero where nothing was played
    """
    if not _are_rotated(space, batch):
        return _plain_features(space, batch)
    if isinstance(batch, PhaseBatch):
        return np.stack([baseline_features(space, batch.task(i)) for i in range(batch.n_tasks)])
    return _rotated(space, batch)[0]


def _plain_features(space: spaces.Space, batch: TaskBatch | PhaseBatch) -> np.ndarray:
    time = np.broadcast_to(np.arange(batch.mask.shape[-1])[:, None] / 100.0, (*batch.mask.shape, 1))
    features = [time, time**2, time**3, np.ones_like(time)]
    flat = flatten_observations(space, batch.observations)
    if flat is not None:
        flat = np.clip(flat, -10, 10)
        features = [flat, flat**2, *features]
    return np.concatenate(features, axis=-1) * batch.mask[..., None]


def n_baseline_features(space: spaces.Space) -> int:
    """
    Return an upper bound on the number of features per step.

    :param space: The observation space
    :return: The number of features that :func:`baseline_features` computes for a step, at most
    """
    return 2 * _n_numbers(space) + 4


def _n_numbers(space: spaces.Space) -> int:
    if isinstance(space, spaces.Dict):
        return sum(map(_n_numbers, space.spaces.values()))
    return 0 if is_image_space(space) else spaces.flatdim(space)


def _are_rotated(space: spaces.Space, batch: TaskBatch | PhaseBatch) -> bool:
    n_features = n_baseline_features(space)
    return n_features > max(MANY_FEATURES, batch.mask.shape[-2] * batch.mask.shape[-1])


def _rotated(space: spaces.Space, *batches: TaskBatch) -> list[np.ndarray]:
    """
    Compute features Z of each batch, (n_episodes, n_steps, n_steps of all), with Z Zᵀ = X Xᵀ over all steps of all batches.
    """
    kernel: np.ndarray | float = 0.0
    for blocks in zip(*(_feature_blocks(space, batch) for batch in batches), strict=True):
        rows = np.concatenate(blocks)
        kernel = kernel + rows @ rows.T
    values, vectors = np.linalg.eigh(kernel)
    rotated = vectors * np.sqrt(np.maximum(values, 0.0))
    ends = np.cumsum([batch.mask.size for batch in batches])[:-1]
    return [
        part.reshape(*batch.mask.shape, -1) * batch.mask[..., None]
        for part, batch in zip(np.split(rotated, ends), batches, strict=True)
    ]


def _feature_blocks(space: spaces.Space, batch: TaskBatch) -> Iterator[np.ndarray]:
    """Yield the columns of the features of a task in blocks, shape (n_episodes * n_steps, n)."""
    mask = batch.mask.reshape(-1, 1)
    time = np.tile(np.arange(batch.mask.shape[-1]) / 100.0, len(batch.mask))[:, None]
    yield np.concatenate([time, time**2, time**3, np.ones_like(time)], axis=1) * mask
    flat = flatten_observations(space, batch.observations)
    if flat is None:
        return
    flat = flat.reshape(len(mask), -1)
    for start in range(0, flat.shape[1], _BLOCK):
        block = np.clip(flat[:, start : start + _BLOCK], -10, 10) * mask
        yield block
        yield block**2


def ridge_fit(gram: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """
    Compute the coefficients of a ridge regression.

    :param gram: The Gram matrices of the features, shape (..., n_features, n_features)
    :param moment: The features times the targets, shape (..., n_features)
    :return: The coefficients, shape (..., n_features)
    """
    return np.linalg.solve(gram + RIDGE * np.eye(gram.shape[-1]), moment[..., None])[..., 0]


def episode_gram(features: np.ndarray) -> np.ndarray:
    """
    Compute the Gram matrix of each episode.

    :param features: The features, shape (..., n_steps, n_features)
    :return: The matrices, shape (..., n_features, n_features)
    """
    return features.swapaxes(-1, -2) @ features


def episode_moment(features: np.ndarray, batch: TaskBatch | PhaseBatch, gamma: float) -> np.ndarray:
    """
    Compute the features times the discounted reward-to-go of each episode.

    :param features: The features, shape (..., n_steps, n_features)
    :param batch: The episodes
    :param gamma: The discount factor
    :return: The products, shape (..., n_features)
    """
    return _products(features, discounted_sum(batch.rewards, gamma))


def _products(features: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Sum the features times x over the steps of each episode, shape (..., n_features)."""
    return (features.swapaxes(-1, -2) @ x[..., None])[..., 0]


def predict_from(fitted: TaskBatch, batch: TaskBatch, space: spaces.Space, gamma: float) -> np.ndarray:
    """
    Fit the linear baseline on some episodes and predict others.

    :param fitted: The episodes that the baseline is fitted on
    :param batch: The episodes that the baseline predicts
    :param space: The observation space
    :param gamma: The discount factor
    :return: The predicted rewards-to-go, shape (n_episodes, n_steps), zero where nothing was played
    """
    if _are_rotated(space, fitted):
        features, others = _rotated(space, fitted, batch)
    else:
        features, others = _plain_features(space, fitted), _plain_features(space, batch)
    coefficients = ridge_fit(episode_gram(features).sum(0), episode_moment(features, fitted, gamma).sum(0))
    return others @ coefficients


@dataclass(frozen=True)
class Regression:
    """
    The linear baseline of a task, for fits on all of its episodes and on all but each in turn.

    :param features: The features of all episodes, shape (n_episodes, n_steps, n_features), zero where nothing was played
    :param grams: The Gram matrix of each episode, shape (n_episodes, n_features, n_features)
    """

    features: np.ndarray
    grams: np.ndarray

    @classmethod
    def make(cls, features: np.ndarray) -> Regression:
        """
        Compute the Gram matrices.

        :param features: The features of all episodes, shape (n_episodes, n_steps, n_features)
        :return: The regression
        """
        return cls(features, episode_gram(features))

    def fit(self, targets: np.ndarray) -> np.ndarray:
        """
        Fit targets of all episodes.

        :param targets: A number for each step, shape (n_episodes, n_steps)
        :return: The predictions, same shape
        """
        return self.features @ ridge_fit(self.grams.sum(0), _products(self.features, targets).sum(0))

    def moments_without_each(self, targets: np.ndarray) -> np.ndarray:
        """
        Sum the features times targets over all episodes but each in turn.

        :param targets: A number for each step, shape (n_episodes, n_steps), or for each episode left out as well,
            (n_episodes left out, n_episodes, n_steps)
        :return: The sums, shape (n_episodes left out, n_features)
        """
        if targets.ndim == 2:
            of_each = _products(self.features, targets)
            return of_each.sum(0) - of_each
        n, size = len(self.features), self.features.shape[-1]
        own = _products(self.features, targets[np.arange(n), np.arange(n)])
        return targets.reshape(n, -1) @ self.features.reshape(-1, size) - own

    def predictions_without_each(self, moments: np.ndarray) -> np.ndarray:
        """
        Predict with fits on all episodes but each in turn.

        :param moments: The sums of :meth:`moments_without_each`, shape (n_episodes left out, n_features)
        :return: The predictions, shape (n_episodes left out, n_episodes, n_steps)
        """
        coefficients = ridge_fit(self.grams.sum(0) - self.grams, moments)
        return np.moveaxis(self.features @ coefficients.T, -1, 0)


class Baseline(ABC):
    """
    The prediction that is subtracted from the rewards-to-go. :data:`BASELINES` holds one object per name.

    ``needs_critic``: the predictions come from the policy's value net and are passed as ``values``.
    ``is_fitted``: the predictions are fitted on the episodes they predict, so each episode changes the predictions of all
    others.
    """

    needs_critic: ClassVar[bool] = False
    is_fitted: ClassVar[bool] = False

    def n_features(self, space: spaces.Space) -> int:
        """
        Return how many numbers a step takes while predictions are made.

        :param space: The observation space
        :return: The number of numbers per step
        """
        return 1

    @abstractmethod
    def predict(
        self, batch: TaskBatch | PhaseBatch, gamma: float, space: spaces.Space, values: np.ndarray | None
    ) -> np.ndarray:
        """
        Predict the rewards-to-go.

        :param batch: The episodes of one or many tasks
        :param gamma: The discount factor
        :param space: The observation space
        :param values: The critic's predictions, shape (..., n_episodes, n_steps)
        :return: The predicted rewards-to-go, shape (..., n_episodes, n_steps), zero where nothing was played
        """

    def regression(self, features: np.ndarray) -> Regression | None:
        """
        Prepare fits without each episode of a task.

        :param features: The :func:`baseline_features` of the episodes, shape (n_episodes, n_steps, n_features)
        :return: The regression; None where nothing is fitted
        """
        return None


class LinearBaseline(Baseline):
    """A ridge regression on :func:`baseline_features`, fitted per task and phase on the episodes it predicts."""

    is_fitted = True

    def n_features(self, space: spaces.Space) -> int:
        return 2 * spaces.flatdim(space) + 4

    def predict(
        self, batch: TaskBatch | PhaseBatch, gamma: float, space: spaces.Space, values: np.ndarray | None
    ) -> np.ndarray:
        features = baseline_features(space, batch)
        coefficients = ridge_fit(episode_gram(features).sum(-3), episode_moment(features, batch, gamma).sum(-2))
        return (features @ coefficients[..., None, :, None])[..., 0]

    def regression(self, features: np.ndarray) -> Regression | None:
        return Regression.make(features)


class CriticBaseline(Baseline):
    """The policy's value net, trained on earlier iterations."""

    needs_critic = True

    def predict(
        self, batch: TaskBatch | PhaseBatch, gamma: float, space: spaces.Space, values: np.ndarray | None
    ) -> np.ndarray:
        assert values is not None, "the critic's values are needed"
        return values * batch.mask


class NoBaseline(Baseline):
    """A baseline that is zero everywhere."""

    def predict(
        self, batch: TaskBatch | PhaseBatch, gamma: float, space: spaces.Space, values: np.ndarray | None
    ) -> np.ndarray:
        return np.zeros_like(batch.rewards)


BASELINES: dict[str, Baseline] = {"linear": LinearBaseline(), "critic": CriticBaseline(), "none": NoBaseline()}

"""Immutable containers of complete episodes: what the pure modules work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

Observations = np.ndarray | dict[str, np.ndarray]


def index_observations(observations: Observations, index: Any) -> Observations:
    """
    Index an array or every array of a dictionary.

    :param observations: array, or one array per key, with the same leading axes
    :param index: anything that indexes a numpy array
    :return: the indexed observations
    """
    if isinstance(observations, dict):
        return {key: value[index] for key, value in observations.items()}
    return observations[index]


@dataclass(frozen=True)
class TaskBatch:
    """
    The episodes of one task in one phase. Padding after the end of an episode is zero and ``mask`` is false there.

    :param observations: shape (n_episodes, n_steps, \\*obs_shape), or such an array per key
    :param actions: unclipped actions, shape (n_episodes, n_steps, \\*action_shape)
    :param rewards: shape (n_episodes, n_steps)
    :param mask: true where a step was played, shape (n_episodes, n_steps)
    """

    observations: Observations
    actions: np.ndarray
    rewards: np.ndarray
    mask: np.ndarray

    def __post_init__(self) -> None:
        if self.rewards.shape != self.mask.shape or self.actions.shape[:2] != self.mask.shape:
            raise ValueError(
                f"rewards {self.rewards.shape}, actions {self.actions.shape} and mask {self.mask.shape} must agree in "
                "(n_episodes, n_steps)."
            )

    @property
    def n_episodes(self) -> int:
        """Number of episodes."""
        return self.mask.shape[0]

    @property
    def episode_index(self) -> np.ndarray:
        """The episode each played step belongs to, shape (n_samples,)."""
        return np.nonzero(self.mask)[0]

    def samples(self) -> tuple[Observations, np.ndarray]:
        """
        The played steps, one after another.

        :return: observations (n_samples, \\*obs_shape) and actions (n_samples, \\*action_shape)
        """
        return index_observations(self.observations, self.mask), self.actions[self.mask]

    def returns(self, gamma: float) -> np.ndarray:
        """
        Return of each episode, discounted from its first step.

        :param gamma: discount factor
        :return: shape (n_episodes,)
        """
        return self.rewards @ gamma ** np.arange(self.rewards.shape[1])


@dataclass(frozen=True)
class PhaseBatch:
    """
    One phase of a meta-iteration: the episodes of every task. Shapes as in :class:`TaskBatch` with the task in front.

    :param observations: shape (n_tasks, n_episodes, n_steps, \\*obs_shape), or such an array per key
    :param actions: shape (n_tasks, n_episodes, n_steps, \\*action_shape)
    :param rewards: shape (n_tasks, n_episodes, n_steps)
    :param mask: shape (n_tasks, n_episodes, n_steps)
    :param episode_returns: undiscounted returns as the environment reports them, before any reward normalisation,
        shape (n_tasks, n_episodes)
    """

    observations: Observations
    actions: np.ndarray
    rewards: np.ndarray
    mask: np.ndarray
    episode_returns: np.ndarray

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return self.mask.shape[0]

    def task(self, i: int) -> TaskBatch:
        """
        :param i: which task
        :return: its episodes (views, no copies)
        """
        return TaskBatch(index_observations(self.observations, i), self.actions[i], self.rewards[i], self.mask[i])

    def tasks(self, index: slice) -> PhaseBatch:
        """
        :param index: which tasks
        :return: their part of the phase (views, no copies)
        """
        return PhaseBatch(
            index_observations(self.observations, index),
            self.actions[index],
            self.rewards[index],
            self.mask[index],
            self.episode_returns[index],
        )


def check_episodes(episodes: Any, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    :param episodes: given to be adapted to
    :param observation_space: of the policy
    :param action_space: of the policy
    :raises ValueError: when they are not finite episodes of one task that fit the policy
    """
    if not isinstance(episodes, PhaseBatch) or episodes.n_tasks != 1:
        raise ValueError("`episodes` must be a PhaseBatch of one task.")
    observations = episodes.observations if isinstance(episodes.observations, dict) else {None: episodes.observations}
    of_keys: Any = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {None: observation_space}
    shapes = {key: array.shape[3:] for key, array in observations.items()}
    wanted = {key: space.shape for key, space in of_keys.items()}
    if shapes != wanted:
        raise ValueError(f"`episodes` must hold observations of {observation_space}, got {shapes}.")
    if episodes.actions.shape[3:] != action_space.shape:
        raise ValueError(f"`episodes` must hold actions of {action_space}, got shape {episodes.actions.shape[3:]}.")
    for array in (episodes.actions, episodes.rewards, *observations.values()):
        if not np.isfinite(array[episodes.mask]).all():
            raise ValueError("`episodes` must be finite, but hold NaN or infinity.")
    _check_categories("actions", episodes.actions[episodes.mask], action_space)
    for key, array in observations.items():
        _check_categories("observations", array[episodes.mask], of_keys[key])


def _check_categories(name: str, played: np.ndarray, space: spaces.Space) -> None:
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        n_values = space.nvec if isinstance(space, spaces.MultiDiscrete) else space.n
        if (played < 0).any() or (played >= n_values).any():
            raise ValueError(f"`episodes` must hold {name} of {space}, counted from 0, got {played.min()} to {played.max()}.")

"""Store complete episodes in immutable containers, the input of the pure modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

Observations = np.ndarray | dict[str, np.ndarray]


def index_observations(observations: Observations, index: Any) -> Observations:
    """
    Index an array or every array of a dictionary.

    :param observations: The array, or one array per key, with the same leading axes
    :param index: Any index of a numpy array
    :return: The indexed observations
    """
    if isinstance(observations, dict):
        return {key: value[index] for key, value in observations.items()}
    return observations[index]


@dataclass(frozen=True)
class TaskBatch:
    """
    The episodes of one task in one phase.

    After the end of an episode, padding is zero and ``mask`` is false.

    :param observations: The observations, shape (n_episodes, n_steps, \\*obs_shape), or such an array per key
    :param actions: The unclipped actions, shape (n_episodes, n_steps, \\*action_shape)
    :param rewards: The rewards, shape (n_episodes, n_steps)
    :param mask: Whether each step was played, shape (n_episodes, n_steps)
    :raises ValueError: When the leading shapes of the arrays differ
    """

    observations: Observations
    actions: np.ndarray
    rewards: np.ndarray
    mask: np.ndarray

    def __post_init__(self) -> None:
        if self.rewards.shape != self.mask.shape or self.actions.shape[:2] != self.mask.shape:
            raise ValueError(
                "`rewards`, `actions` and `mask` must agree in (n_episodes, n_steps), got shapes "
                f"{self.rewards.shape}, {self.actions.shape} and {self.mask.shape}."
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
        Return all played steps as one sequence.

        :return: The observations (n_samples, \\*obs_shape) and actions (n_samples, \\*action_shape)
        """
        return index_observations(self.observations, self.mask), self.actions[self.mask]

    def returns(self, gamma: float) -> np.ndarray:
        """
        Compute the return of each episode, discounted from its first step.

        :param gamma: The discount factor
        :return: The returns, shape (n_episodes,)
        """
        return self.rewards @ gamma ** np.arange(self.rewards.shape[1])


@dataclass(frozen=True)
class PhaseBatch:
    """
    The episodes of every task in one phase of a meta-iteration.

    The shapes are those of :class:`TaskBatch` with the task in front.

    :param observations: The observations, shape (n_tasks, n_episodes, n_steps, \\*obs_shape), or such an array per key
    :param actions: The unclipped actions, shape (n_tasks, n_episodes, n_steps, \\*action_shape)
    :param rewards: The rewards, shape (n_tasks, n_episodes, n_steps)
    :param mask: Whether each step was played, shape (n_tasks, n_episodes, n_steps)
    :param episode_returns: The undiscounted returns before any reward normalisation, shape (n_tasks, n_episodes)
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
        Return the episodes of one task as views.

        :param i: The index of the task
        :return: The episodes of the task
        """
        return TaskBatch(index_observations(self.observations, i), self.actions[i], self.rewards[i], self.mask[i])

    def tasks(self, index: slice) -> PhaseBatch:
        """
        Return the episodes of several tasks as views.

        :param index: The slice of tasks
        :return: The part of the phase
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
    Check that episodes belong to one task, are finite and fit the policy.

    :param episodes: The episodes to adapt to
    :param observation_space: The observation space of the policy
    :param action_space: The action space of the policy
    :raises ValueError: When the episodes belong to several tasks, contain NaN or infinity, or do not fit a space
    """
    if not isinstance(episodes, PhaseBatch) or episodes.n_tasks != 1:
        got = f"{episodes.n_tasks} tasks" if isinstance(episodes, PhaseBatch) else type(episodes).__name__
        raise ValueError(f"`episodes` must be a PhaseBatch of one task, got {got}.")
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
            raise ValueError("`episodes` must be finite, got NaN or infinity.")
    _check_categories("actions", episodes.actions[episodes.mask], action_space)
    for key, array in observations.items():
        _check_categories("observations", array[episodes.mask], of_keys[key])


def _check_categories(name: str, played: np.ndarray, space: spaces.Space) -> None:
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        n_values = space.nvec if isinstance(space, spaces.MultiDiscrete) else space.n
        if (played < 0).any() or (played >= n_values).any():
            raise ValueError(f"`episodes` must hold {name} of {space}, counted from 0, got {played.min()} to {played.max()}.")

"""Store complete episodes in immutable containers, the input of the pure modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_sgmrl.data.episodes import Episode, Observations, map_played, read_episodes
from sb3_sgmrl.data.spaces import check_values, one_line, stored_dtype


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
    :param is_raw: Whether observations and rewards are those of the environment, before the wrappers of the model
    """

    observations: Observations
    actions: np.ndarray
    rewards: np.ndarray
    mask: np.ndarray
    episode_returns: np.ndarray
    is_raw: bool = False

    @classmethod
    def from_episodes(cls, episodes: Sequence[Episode]) -> PhaseBatch:
        """
        Make a batch of one task from logged episodes.

        :param episodes: The episodes, tuples (observations, actions, rewards) of arrays with an entry for each step.
            Observations are those before the action, as the environment returned them, or such an array per key. Actions are
            unclipped, as the policy drew them
        :return: The episodes of one task
        :raises ValueError: When there is no episode, an episode has no step, shapes disagree, or values are not finite numbers
        """
        observations, actions, rewards, mask = read_episodes(episodes)
        return cls(observations, actions, rewards, mask, rewards.sum(-1), is_raw=True)

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
            self.is_raw,
        )


def fit_episodes(episodes: Any, observation_space: spaces.Space, action_space: spaces.Space) -> PhaseBatch:
    """
    Check that episodes belong to one task, are finite and fit the policy, and give them the types of its spaces.

    :param episodes: The episodes to adapt to
    :param observation_space: The observation space of the policy
    :param action_space: The action space of the policy
    :return: The episodes, in the types of a rollout buffer
    :raises ValueError: When the episodes belong to several tasks, contain NaN or infinity, or do not fit a space
    """
    if not isinstance(episodes, PhaseBatch) or episodes.n_tasks != 1:
        got = f"{episodes.n_tasks} tasks" if isinstance(episodes, PhaseBatch) else type(episodes).__name__
        raise ValueError(
            f"`episodes` must be a PhaseBatch of one task, got {got}: PhaseBatch.from_episodes makes one from logged episodes."
        )
    observations = episodes.observations if isinstance(episodes.observations, dict) else {None: episodes.observations}
    of_keys: Any = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {None: observation_space}
    shapes = {key: array.shape[3:] for key, array in observations.items()}
    wanted = {key: space.shape for key, space in of_keys.items()}
    if shapes != wanted:
        raise ValueError(f"`episodes` must hold observations of {one_line(observation_space)}, got {_text(shapes)}.")
    if episodes.actions.shape[3:] != action_space.shape:
        raise ValueError(f"`episodes` must hold actions of {action_space}, got shape {episodes.actions.shape[3:]}.")
    mask = episodes.mask
    if not mask.any(-1).all():
        raise ValueError("`episodes` must have a played step in each episode, but one has none.")
    for array in (episodes.actions, episodes.rewards, *observations.values()):
        if not np.isfinite(array[mask]).all():
            raise ValueError("`episodes` must be finite, got NaN or infinity.")
    fitted: Any = {
        key: _fitted("observations" if key is None else f"observations[{key!r}]", array, mask, of_keys[key])
        for key, array in observations.items()
    }
    actions = _fitted("actions", episodes.actions, mask, action_space)
    return replace(episodes, observations=fitted.get(None, fitted), actions=actions)


def _text(shapes: dict[Any, tuple[int, ...]]) -> str:
    return f"shape {shapes[None]}" if None in shapes else f"shapes {shapes}"


def _fitted(name: str, array: np.ndarray, mask: np.ndarray, space: spaces.Space) -> np.ndarray:
    dtype = stored_dtype(space, of_actions=name == "actions")
    check_values(name, array[mask], space)
    return array if array.dtype == dtype else map_played(lambda values: values.astype(dtype), array, mask)

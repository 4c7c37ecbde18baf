"""Store one phase in a buffer with one column per episode."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer

from sb3_sgmrl.data.batch import Observations, PhaseBatch
from sb3_sgmrl.data.episodes import step_by_step
from sb3_sgmrl.data.spaces import stored_dtype


class TaskRolloutBuffer(BaseBuffer):
    """
    A buffer of complete episodes.

    Row t of column e is step t of episode e, whichever worker played the episode. Columns are ordered by task, then by
    trajectory.

    :param buffer_size: The horizon in steps, or the initial size, which :meth:`grow` can increase
    :param observation_space: The observation space
    :param action_space: The action space
    :param n_episodes: The number of columns
    """

    def __init__(self, buffer_size: int, observation_space: spaces.Space, action_space: spaces.Space, n_episodes: int) -> None:
        super().__init__(buffer_size, observation_space, action_space, device="cpu", n_envs=n_episodes)

        def zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
            return np.zeros((buffer_size, n_episodes, *shape), dtype=dtype)

        self.observations: Observations
        if isinstance(observation_space, spaces.Dict):
            self.observations = {key: zeros(part.shape or (), part.dtype) for key, part in observation_space.spaces.items()}
        else:
            self.observations = zeros(observation_space.shape or (), observation_space.dtype)
        self.actions = zeros(action_space.shape or (), stored_dtype(action_space, of_actions=True))
        self.rewards = zeros((), np.float32)

    def grow(self, n_steps: int) -> None:
        """
        Make room for longer episodes and keep the stored ones.

        :param n_steps: The number of steps of the longest episode
        """
        added = n_steps - self.buffer_size

        def longer(x: np.ndarray) -> np.ndarray:
            return np.concatenate([x, np.zeros((added, *x.shape[1:]), x.dtype)])

        if isinstance(self.observations, dict):
            self.observations = {key: longer(x) for key, x in self.observations.items()}
        else:
            self.observations = longer(self.observations)
        self.actions, self.rewards = longer(self.actions), longer(self.rewards)
        self.buffer_size = n_steps

    def record(
        self, steps: np.ndarray, episodes: np.ndarray, observations: Observations, actions: np.ndarray, rewards: np.ndarray
    ) -> None:
        """
        Store one step of several episodes.

        :param steps: The time step of each episode, shape (n,)
        :param episodes: The column of each episode, shape (n,)
        :param observations: The observations before the actions, shape (n, \\*obs_shape), or such an array per key
        :param actions: The unclipped actions, shape (n, \\*action_shape)
        :param rewards: The rewards, shape (n,)
        """
        if isinstance(observations, dict):
            assert isinstance(self.observations, dict)
            for key, value in observations.items():
                self.observations[key][steps, episodes] = value
        else:
            assert isinstance(self.observations, np.ndarray)
            self.observations[steps, episodes] = observations
        self.actions[steps, episodes] = actions
        self.rewards[steps, episodes] = rewards

    def phase(self, n_tasks: int, lengths: np.ndarray, episode_returns: np.ndarray) -> PhaseBatch:
        """
        Return the phase as views of the storage, cut to the longest episode.

        :param n_tasks: The number of tasks
        :param lengths: The number of steps of each episode, shape (n_columns,)
        :param episode_returns: The undiscounted return of each episode, shape (n_columns,)
        :return: The episodes of every task
        """
        n_steps = int(lengths.max())

        def by_task(x: np.ndarray) -> np.ndarray:
            return step_by_step(x[:n_steps].reshape(n_steps, n_tasks, -1, *x.shape[2:]))

        if isinstance(self.observations, dict):
            observations: Observations = {key: by_task(value) for key, value in self.observations.items()}
        else:
            observations = by_task(self.observations)
        return PhaseBatch(
            observations,
            by_task(self.actions),
            by_task(self.rewards).astype(np.float64),
            by_task(np.arange(n_steps)[:, None] < lengths),
            episode_returns.reshape(n_tasks, -1),
        )

    def _get_samples(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("A TaskRolloutBuffer returns complete episodes only: call `phase`.")

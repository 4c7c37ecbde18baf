"""Storage of one phase: SB3's rollout buffers with one column per episode."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from sb3_sgmrl.data.batch import Observations, PhaseBatch


class TaskRolloutBuffer(RolloutBuffer):
    """
    A rollout buffer of complete episodes. Row t of column e is step t of episode e, whichever worker played it; the columns
    are ordered by task, then by trajectory. ``buffer_size`` is the horizon.
    """

    def record(
        self, steps: np.ndarray, episodes: np.ndarray, observations: Observations, actions: np.ndarray, rewards: np.ndarray
    ) -> None:
        """
        Store one step of several episodes.

        :param steps: time step of each within its episode, shape (n,)
        :param episodes: column of each, shape (n,)
        :param observations: what the actions were chosen on, shape (n, \\*obs_shape), or such an array per key
        :param actions: unclipped actions, shape (n, \\*action_shape)
        :param rewards: shape (n,)
        """
        if isinstance(observations, dict):
            for key, value in observations.items():
                self.observations[key][steps, episodes] = value.reshape(len(steps), *self.obs_shape[key])  # type: ignore
        else:
            self.observations[steps, episodes] = observations.reshape(len(steps), *self.obs_shape)
        self.actions[steps, episodes] = actions.reshape(len(steps), self.action_dim)
        self.rewards[steps, episodes] = rewards

    def phase(self, n_tasks: int, lengths: np.ndarray, episode_returns: np.ndarray) -> PhaseBatch:
        """
        The phase, as views of the storage cut to the longest episode.

        :param n_tasks: number of tasks
        :param lengths: steps of each episode, shape (n_columns,)
        :param episode_returns: undiscounted return of each episode, shape (n_columns,)
        :return: the episodes of every task
        """
        n_steps = int(lengths.max())

        def by_task(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
            x = x[:n_steps].reshape(n_steps, n_tasks, -1, *shape)
            return np.moveaxis(x, 0, 2)

        observations: Observations
        if isinstance(self.observation_space, spaces.Dict):
            observations = {
                key: by_task(self.observations[key], space.shape or ())  # type: ignore[call-overload]
                for key, space in self.observation_space.spaces.items()
            }
        else:
            observations = by_task(self.observations, self.observation_space.shape or ())
        mask = np.arange(n_steps)[:, None] < lengths
        return PhaseBatch(
            observations,
            by_task(self.actions, self.action_space.shape or ()),
            by_task(self.rewards, ()).astype(np.float64),
            by_task(mask, ()),
            episode_returns.reshape(n_tasks, -1),
        )


class TaskDictRolloutBuffer(TaskRolloutBuffer, DictRolloutBuffer):
    """The same for dictionary observations."""

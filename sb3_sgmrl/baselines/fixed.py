"""Policies that learn nothing: the least that a method must beat."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from sb3_sgmrl.baselines.base import Baseline, play_scheduled
from sb3_sgmrl.common.evaluation import Count
from sb3_sgmrl.vec_env.borrowing import borrowed_workers


class FixedActions(Baseline):
    """
    A baseline that neither learns nor adapts. It needs no training.

    :param env: The task family, as for the algorithms
    :param n_episodes: The number of episodes per task in each measurement
    :param seed: The seed of random actions
    """

    def __init__(self, env: GymEnv | str, n_episodes: int = 20, seed: int = 0) -> None:
        super().__init__(env, n_episodes)
        self.seed = seed

    @abstractmethod
    def actions(self, space: spaces.Space, n: int, rng: np.random.Generator) -> np.ndarray:
        """
        Choose actions.

        :param space: The action space
        :param n: The number of actions
        :param rng: The source of randomness
        :return: The actions, shape (n, \\*action_shape)
        """

    def adaptation_returns(
        self, env: VecEnv, tasks: Sequence[Any], n_steps: int, n_episodes: int, entropy: Sequence[int], count: Count
    ) -> np.ndarray:
        """See :class:`~sb3_sgmrl.baselines.Baseline`. Every column plays the same policy in new episodes."""
        columns = []
        n_total = len(tasks) * n_episodes
        for k in range(n_steps + 1):
            seeds = np.random.SeedSequence([*entropy, k, 0]).generate_state(n_total)
            rng = np.random.default_rng([*entropy, k, 1, self.seed])
            of_worker = [range(worker, n_total, env.num_envs) for worker in range(env.num_envs)]
            schedules = [[(tasks[e // n_episodes], int(seeds[e])) for e in episodes] for episodes in of_worker]
            act = partial(self._act, env.action_space, rng)
            with borrowed_workers(env):
                played = play_scheduled(env, schedules, act, count)
            returns = np.zeros(n_total)
            for episodes, of_episodes in zip(of_worker, played, strict=True):
                returns[list(episodes)] = of_episodes
            columns.append(returns.reshape(len(tasks), n_episodes).mean(1))
        return np.stack(columns, axis=1)

    def _act(self, space: spaces.Space, rng: np.random.Generator, _: Any, starts: np.ndarray) -> np.ndarray:
        return self.actions(space, len(starts), rng)


class RandomActions(FixedActions):
    """
    Actions drawn uniformly from the action space.

    :param env: The task family, as for the algorithms
    :param n_episodes: The number of episodes per task in each measurement
    :param seed: The seed of random actions
    """

    def actions(self, space: spaces.Space, n: int, rng: np.random.Generator) -> np.ndarray:
        """See :class:`FixedActions`."""
        space.seed(int(rng.integers(2**31)))
        return np.stack([space.sample() for _ in range(n)])


class StandingStill(FixedActions):
    """
    The action zero, or the nearest one in the action space.

    :param env: The task family, as for the algorithms
    :param n_episodes: The number of episodes per task in each measurement
    :param seed: Not used
    :raises ValueError: When actions are not continuous
    """

    def __init__(self, env: GymEnv | str, n_episodes: int = 20, seed: int = 0) -> None:
        super().__init__(env, n_episodes, seed)
        if (space := getattr(env, "action_space", None)) is not None:
            self.actions(space, 1, np.random.default_rng(0))

    def actions(self, space: spaces.Space, n: int, rng: np.random.Generator) -> np.ndarray:
        """See :class:`FixedActions`."""
        if not isinstance(space, spaces.Box):
            raise ValueError(f"`env` must have continuous actions for a policy that stands still, got {space}.")
        return np.repeat(np.clip(np.zeros(space.shape), space.low, space.high).astype(space.dtype)[None], n, axis=0)

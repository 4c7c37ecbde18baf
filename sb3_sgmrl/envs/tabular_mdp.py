"""Random Markov decision processes with finitely many states (Duan et al. 2016, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from gymnasium import spaces

from sb3_sgmrl.envs.array_family import ArrayFamily, ArrayTaskEnv, ArrayTaskVectorEnv
from sb3_sgmrl.util.validation import check_choice

MeanReward = Literal["normal", "uniform"]


class TabularMDP(ArrayFamily):
    """
    Random Markov decision processes with finitely many states and actions.

    A task is an array of shape (n_states, n_actions, n_states + 1). ``task[s, a, :-1]`` holds the probabilities of the next
    state, drawn from a flat Dirichlet distribution. ``task[s, a, -1]`` is the mean reward. Episodes begin in state 0. The
    defaults, with episodes of 10 steps, are those of RL².

    :param n_states: The number of states
    :param n_actions: The number of actions
    :param mean_reward: The distribution of the mean rewards, "normal" for N(1, 1) or "uniform" for U(0, 1)
    :param reward_std: The standard deviation of the Gaussian noise on a reward
    """

    def __init__(self, n_states: int = 10, n_actions: int = 5, mean_reward: MeanReward = "normal", reward_std: float = 1.0):
        if n_states < 1 or n_actions < 1:
            raise ValueError(f"`n_states` and `n_actions` must be at least 1, got {n_states} and {n_actions}.")
        check_choice("mean_reward", mean_reward, get_args(MeanReward))
        if not reward_std >= 0:
            raise ValueError(f"`reward_std` must be at least 0, got {reward_std}.")
        self.n_states = n_states
        self.n_actions = n_actions
        self.mean_reward = mean_reward
        self.reward_std = reward_std
        low = np.zeros((n_states, n_actions, n_states + 1))
        high = np.ones_like(low)
        low[..., -1], high[..., -1] = -np.inf, np.inf
        super().__init__(
            observation_space=spaces.Discrete(n_states),
            action_space=spaces.Discrete(n_actions),
            task_space=spaces.Box(low, high, dtype=np.float64),
            default_task=self.sample_tasks(1, np.random.default_rng(0))[0],
            initial_state=0,
            noise_size=2,
        )

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[np.ndarray]:
        """See ``TaskFamily``."""
        size = (n, self.n_states, self.n_actions)
        transitions = rng.dirichlet(np.ones(self.n_states), size)
        rewards = rng.normal(1.0, 1.0, size) if self.mean_reward == "normal" else rng.random(size)
        return list(np.concatenate([transitions, rewards[..., None]], axis=-1))

    def check_tasks(self, tasks: Sequence[Any]) -> np.ndarray:
        """See ``TaskFamily``. Probabilities must also sum to 1, and mean rewards must be finite."""
        stacked = super().check_tasks(tasks)
        if not np.isfinite(stacked[..., -1]).all():
            raise ValueError("`task` must have finite mean rewards task[s, a, -1].")
        if np.abs(stacked[..., :-1].sum(axis=-1) - 1.0).max() > 1e-6:
            raise ValueError("`task` must have probabilities task[s, a, :-1] that sum to 1 for every s and a.")
        return stacked

    def draw_noise(self, rng: np.random.Generator, out: np.ndarray) -> None:
        """See ``ArrayFamily``. The noise is a uniform number for the next state and a normal one for the reward."""
        rng.random(out=out[0])
        rng.standard_normal(out=out[1])

    def transition(
        self, states: np.ndarray, actions: np.ndarray, tasks: np.ndarray, noise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See ``ArrayFamily``."""
        rows = tasks[np.arange(len(tasks)), states, actions]
        passed = np.cumsum(rows[:, :-1], axis=1) <= noise[:, :1]
        # Rounding can leave the sum of the probabilities below the uniform number.
        next_states = np.minimum(passed.sum(axis=1), self.n_states - 1)
        rewards = rows[:, -1] + self.reward_std * noise[:, 1]
        return next_states, rewards, np.zeros(len(tasks), dtype=bool)

    def observe(self, states: np.ndarray) -> np.ndarray:
        """See ``ArrayFamily``."""
        return states

    def draw(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """See ``ArrayFamily``. The picture has a square per state; the current state is green."""
        image = np.full((20, 20 * self.n_states, 3), 255, dtype=np.uint8)
        for s in range(self.n_states):
            image[4:16, 20 * s + 4 : 20 * s + 16] = (60, 160, 60) if s == state else (120, 120, 120)
        return image


class TabularMDPEnv(ArrayTaskEnv):
    """
    ``TabularMDP`` as a single environment. ``gym.make(..., max_episode_steps=)`` sets the length of episodes.

    :param n_states: See ``TabularMDP``
    :param n_actions: See ``TabularMDP``
    :param mean_reward: See ``TabularMDP``
    :param reward_std: See ``TabularMDP``
    :param render_mode: The render mode, ``None`` or "rgb_array"
    """

    def __init__(
        self,
        n_states: int = 10,
        n_actions: int = 5,
        mean_reward: MeanReward = "normal",
        reward_std: float = 1.0,
        render_mode: str | None = None,
    ):
        super().__init__(TabularMDP(n_states, n_actions, mean_reward, reward_std), render_mode)


class TabularMDPVectorEnv(ArrayTaskVectorEnv):
    """
    ``TabularMDP`` as a batched environment.

    :param num_envs: The number of columns
    :param max_episode_steps: The number of steps per episode; ``None`` for no limit
    :param n_states: See ``TabularMDP``
    :param n_actions: See ``TabularMDP``
    :param mean_reward: See ``TabularMDP``
    :param reward_std: See ``TabularMDP``
    :param render_mode: The render mode, ``None`` or "rgb_array"
    """

    def __init__(
        self,
        num_envs: int,
        max_episode_steps: int | None = 10,
        n_states: int = 10,
        n_actions: int = 5,
        mean_reward: MeanReward = "normal",
        reward_std: float = 1.0,
        render_mode: str | None = None,
    ):
        super().__init__(num_envs, TabularMDP(n_states, n_actions, mean_reward, reward_std), max_episode_steps, render_mode)

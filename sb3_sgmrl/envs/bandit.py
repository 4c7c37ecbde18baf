"""Bernoulli bandits (Duan et al. 2016, section 3.1)."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from sb3_sgmrl.envs.array_family import ArrayFamily, ArrayTaskEnv, ArrayTaskVectorEnv


class BernoulliBandit(ArrayFamily):
    """
    Bandits whose arms pay 1 with some probability and else 0.

    An action pulls one of ``n_arms`` arms. A task is the vector of their probabilities, uniform on [0, 1]^n_arms. The
    observation is the constant 1.

    :param n_arms: The number of arms
    """

    def __init__(self, n_arms: int = 5):
        if n_arms < 1:
            raise ValueError(f"`n_arms` must be at least 1, got {n_arms}.")
        super().__init__(
            observation_space=spaces.Box(0.0, 1.0, (1,), np.float32),
            action_space=spaces.Discrete(n_arms),
            task_space=spaces.Box(0.0, 1.0, (n_arms,), np.float64),
            default_task=np.linspace(0.1, 0.9, n_arms),
            initial_state=-1,
            noise_size=1,
        )

    def transition(
        self, states: np.ndarray, actions: np.ndarray, tasks: np.ndarray, noise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See ``ArrayFamily``. The state is the last arm, -1 at first; only the picture uses it."""
        rewards = (noise[:, 0] < tasks[np.arange(len(tasks)), actions]).astype(np.float64)
        return actions, rewards, np.zeros(len(tasks), dtype=bool)

    def observe(self, states: np.ndarray) -> np.ndarray:
        """See ``ArrayFamily``."""
        return np.ones((len(states), 1), dtype=np.float32)

    def draw(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """See ``ArrayFamily``. The height of a bar is the probability of its arm; the last arm is green."""
        image = np.full((100, 20 * len(task), 3), 255, dtype=np.uint8)
        for arm, probability in enumerate(task):
            colour = (60, 160, 60) if arm == state else (120, 120, 120)
            image[100 - round(100 * probability) :, 20 * arm + 4 : 20 * arm + 16] = colour
        return image


class BernoulliBanditEnv(ArrayTaskEnv):
    """
    ``BernoulliBandit`` as a single environment. ``gym.make(..., max_episode_steps=)`` sets the length of episodes.

    :param n_arms: The number of arms
    :param render_mode: The render mode, ``None`` or "rgb_array"
    """

    def __init__(self, n_arms: int = 5, render_mode: str | None = None):
        super().__init__(BernoulliBandit(n_arms), render_mode)


class BernoulliBanditVectorEnv(ArrayTaskVectorEnv):
    """
    ``BernoulliBandit`` as a batched environment.

    :param num_envs: The number of columns
    :param max_episode_steps: The number of pulls per episode; ``None`` for no limit
    :param n_arms: The number of arms
    :param render_mode: The render mode, ``None`` or "rgb_array"
    """

    def __init__(self, num_envs: int, max_episode_steps: int | None = 10, n_arms: int = 5, render_mode: str | None = None):
        super().__init__(num_envs, BernoulliBandit(n_arms), max_episode_steps, render_mode)

"""
Task families written as a few functions on arrays, which define the single and the batched environment.

Derive from ``ArrayFamily``, then give ``ArrayTaskEnv`` and ``ArrayTaskVectorEnv`` a constructor each.
``navigation.py`` is a complete example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_sgmrl.tasks.family import TaskFamily, TaskMixin
from sb3_sgmrl.vec_env.task_vector_env import Columns, TaskVectorEnv, take_columns

# The number of steps of noise drawn at once. Changing it changes the episode of a seed.
_NOISE_STEPS = 16
_NO_NOISE = np.empty((0, 0))


class ArrayFamily(TaskFamily, ABC):
    """
    The tasks and dynamics of a family. In all functions, k is the number of parallel episodes.

    :param observation_space: The observation space of one episode
    :param action_space: The action space of one episode
    :param task_space: The space of one task, whose bounds are enforced
    :param default_task: The task of a fresh environment
    :param initial_state: The initial state of every episode, an array
    :param noise_size: The number of random numbers per step
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        task_space: spaces.Box,
        default_task: Any,
        initial_state: Any,
        noise_size: int = 0,
    ):
        super().__init__(task_space, default_task)
        self.observation_space = observation_space
        self.action_space = action_space
        self.initial_state = np.array(initial_state)
        self.noise_size = noise_size

    @abstractmethod
    def transition(
        self, states: np.ndarray, actions: np.ndarray, tasks: np.ndarray, noise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Compute one step. A row of the result may depend on the same row of the arguments only.

        :param states: The states, shape (k, *initial_state.shape); do not change them
        :param actions: The actions, shape (k, *action_space.shape)
        :param tasks: The tasks, shape (k, *task_space.shape)
        :param noise: The noise that ``draw_noise`` drew, shape (k, noise_size); empty if ``noise_size`` is 0
        :return: The next states, rewards (k,) in float64, terminations (k,)
        """

    @abstractmethod
    def observe(self, states: np.ndarray) -> np.ndarray:
        """
        Compute the observations of states.

        :param states: The states, shape (k, *initial_state.shape)
        :return: The observations, shape (k, *observation_space.shape), in the dtype of ``observation_space``
        """

    def draw_noise(self, rng: np.random.Generator, out: np.ndarray) -> None:
        """
        Draw noise for some steps. The default is uniform on [0, 1).

        :param rng: The generator of the episode
        :param out: The array to fill, shape (noise_size, number of steps)
        """
        rng.random(out=out)

    @abstractmethod
    def draw(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """
        Draw a picture of a state.

        :param state: One state
        :param task: One task
        :return: An RGB image, shape (height, width, 3), dtype uint8
        """


class _Noise:
    """The noise of n episodes, drawn in blocks, because a call of a generator costs more than a step of an episode."""

    def __init__(self, family: ArrayFamily, n: int):
        self.family = family
        self.blocks = np.zeros((n, family.noise_size, _NOISE_STEPS))
        self.used = np.full(n, _NOISE_STEPS)

    def discard(self, columns: Columns) -> None:
        self.used[columns] = _NOISE_STEPS

    def take(self, columns: Columns, rng_of: Callable[[int], np.random.Generator]) -> np.ndarray:
        """
        Take the noise of one step.

        :param columns: The columns to step
        :param rng_of: The generator of a column, given its index
        :return: The noise for one step of each, shape (k, noise_size)
        """
        if self.family.noise_size == 0:
            return _NO_NOISE
        indices = np.arange(len(self.used))[columns]
        for column in indices[self.used[columns] == _NOISE_STEPS].tolist():
            self.family.draw_noise(rng_of(column), self.blocks[column])
            self.used[column] = 0
        noise = self.blocks[indices, :, self.used[columns]]
        self.used[columns] += 1
        return noise


class ArrayTaskEnv(TaskMixin, gym.Env):
    """
    The single environment of an array family.

    :param family: The family
    :param render_mode: The render mode, ``None`` or "rgb_array"
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    family: ArrayFamily

    def __init__(self, family: ArrayFamily, render_mode: str | None = None):
        _check_render_mode(render_mode)
        self._init_tasks(family)
        self.observation_space = family.observation_space
        self.action_space = family.action_space
        self.render_mode = render_mode
        self._noise = _Noise(family, 1)
        self._states = family.initial_state[None]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """
        Begin an episode of the current task.

        :param seed: The seed of the random generator; ``None`` keeps the existing generator
        :param options: The options, which are ignored
        :return: The first observation and an empty dictionary
        """
        super().reset(seed=seed)
        self._states = self.family.initial_state[None]
        self._noise.discard(slice(None))
        return self.family.observe(self._states)[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        Apply an action.

        :param action: An element of the action space
        :return: The observation, reward, terminated, truncated (always false), and an empty dictionary
        """
        noise = self._noise.take(slice(None), lambda _: self.np_random)
        self._states, rewards, terminated = self.family.transition(self._states, np.asarray(action)[None], self.tasks, noise)
        return self.family.observe(self._states)[0], float(rewards[0]), bool(terminated[0]), False, {}

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """
        Render the state.

        :return: An RGB image, or ``None`` without a render mode
        """
        return None if self.render_mode is None else self.family.draw(self._states[0], self.tasks[0])


class ArrayTaskVectorEnv(TaskVectorEnv):
    """
    The batched environment of an array family.

    :param num_envs: The number of columns
    :param family: The family
    :param max_episode_steps: The number of steps after which an episode is truncated; ``None`` for no limit
    :param render_mode: The render mode, ``None`` or "rgb_array"
    """

    family: ArrayFamily

    def __init__(self, num_envs: int, family: ArrayFamily, max_episode_steps: int | None, render_mode: str | None = None):
        super().__init__(num_envs, family, family.observation_space, family.action_space, max_episode_steps, render_mode)
        self._noise = _Noise(family, num_envs)
        self._states = np.repeat(family.initial_state[None], num_envs, axis=0)

    def _reset_columns(self, columns: np.ndarray) -> np.ndarray:
        self._states[columns] = self.family.initial_state
        self._noise.discard(columns)
        return self.family.observe(self._states[columns])

    def _step_columns(self, columns: Columns, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        noise = self._noise.take(columns, self.column_rng)
        states, tasks = take_columns(self._states, columns), take_columns(self.tasks, columns)
        states, rewards, terminated = self.family.transition(states, actions, tasks, noise)
        self._states[columns] = states
        return self.family.observe(states), rewards, terminated

    def _render_column(self, column: int) -> np.ndarray:
        return self.family.draw(self._states[column], self.tasks[column])


def _check_render_mode(render_mode: str | None) -> None:
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"`render_mode` must be None or 'rgb_array', got {render_mode!r}.")

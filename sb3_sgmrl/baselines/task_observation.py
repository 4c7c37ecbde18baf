"""Show the task to a policy, for an oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_sgmrl.vec_env.task_workers import ask

_CATEGORIES = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class TaskInObservation(VecEnvWrapper):
    """
    Append the task of each worker to its observations.

    Tasks must be numbers or arrays of numbers of one shape, and observations vectors or categories, which become one-hot.

    :param venv: The workers, which take tasks
    :raises ValueError: When tasks are no numbers, or observations are neither vectors nor categories
    """

    def __init__(self, venv: VecEnv) -> None:
        size = len(task_numbers(ask(venv, "sample_tasks", 1, 0, indices=0)[0][0]))
        self._longer = LongerObservations(venv.observation_space, size)
        super().__init__(venv, self._longer.space)
        self._tasks = np.zeros((venv.num_envs, size), np.float32)

    def reset(self) -> np.ndarray:  # type: ignore[override]
        """
        Begin new episodes.

        :return: The observations with the tasks, shape (num_envs, obs_size + task_size)
        """
        observations = self.venv.reset()
        self._note_tasks(range(self.num_envs))
        return self._longer.batch(observations, self._tasks)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:  # type: ignore[override]
        """
        Play the step.

        :return: The observations with the tasks, rewards, dones and infos
        """
        observations, rewards, dones, infos = self.venv.step_wait()
        ended = np.flatnonzero(dones)
        for worker in ended:
            last = self._longer.one(infos[worker]["terminal_observation"], self._tasks[worker])
            infos[worker] = {**infos[worker], "terminal_observation": last}
        self._note_tasks(ended.tolist())
        return self._longer.batch(observations, self._tasks), rewards, dones, infos

    def _note_tasks(self, workers: Sequence[int]) -> None:
        for worker in workers:
            task = self.venv.reset_infos[worker].get("task")
            if task is not None:  # an idle worker keeps its task
                self._tasks[worker] = task_numbers(task)


def task_numbers(task: Any) -> np.ndarray:
    """
    Describe a task by its numbers.

    :param task: A number or an array of numbers
    :return: The numbers, shape (n,)
    :raises ValueError: When the task is anything else
    """
    try:
        numbers = np.asarray(task)
    except ValueError:  # the parts have different shapes
        numbers = np.empty(0, dtype=object)
    if numbers.dtype.kind not in "biuf":
        raise ValueError(f"`env` must have tasks that are numbers or arrays of numbers for an oracle, got the task {task!r}.")
    return numbers.astype(np.float32).ravel()


def as_vectors(space: spaces.Space, batch: Any) -> np.ndarray:
    """
    Flatten each observation or action of a batch, categories to one-hot.

    :param space: The space of one of them: a Box or categories
    :param batch: The observations or actions, shape (n, \\*shape)
    :return: The vectors, shape (n, size)
    """
    if isinstance(space, spaces.Box):
        return batch.reshape(len(batch), -1)
    return np.stack([np.asarray(spaces.flatten(space, one)) for one in batch])


class LongerObservations:
    """
    Append numbers to observations.

    :param space: The space of the observations: vectors, or categories, which become one-hot
    :param size: The number of appended numbers
    :ivar space: The space of the longer observations
    :raises ValueError: When observations are neither vectors nor categories
    """

    def __init__(self, space: spaces.Space, size: int) -> None:
        if not isinstance(space, _CATEGORIES) and not (isinstance(space, spaces.Box) and len(space.shape) <= 1):
            raise ValueError(
                f"`env` must have vectors or categories as observations for this baseline, which appends numbers, got {space}."
            )
        flat, more = spaces.flatten_space(space), np.full(size, np.inf)
        assert isinstance(flat, spaces.Box)
        low, high = np.concatenate([flat.low, -more]), np.concatenate([flat.high, more])
        self.space = spaces.Box(low.astype(np.float32), high.astype(np.float32))
        self._short = space

    def batch(self, observations: Any, numbers: np.ndarray) -> np.ndarray:
        """
        Append to the observations of all workers.

        :param observations: The observations, shape (n, \\*obs_shape)
        :param numbers: The numbers, shape (n, size)
        :return: The longer observations, shape (n, obs_size + size)
        """
        return np.concatenate([as_vectors(self._short, observations), numbers], axis=1, dtype=np.float32)

    def one(self, observation: Any, numbers: np.ndarray) -> np.ndarray:
        """
        Append to one observation.

        :param observation: The observation, shape obs_shape
        :param numbers: The numbers, shape (size,)
        :return: The longer observation, shape (obs_size + size,)
        """
        return self.batch(np.asarray(observation)[None], numbers[None])[0]

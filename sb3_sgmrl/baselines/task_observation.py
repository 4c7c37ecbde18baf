"""Show the task to a policy, for an oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_sgmrl.vec_env.task_workers import ask


class TaskInObservation(VecEnvWrapper):
    """
    Append the task of each worker to its observations.

    Tasks must be numbers or arrays of numbers of one shape, and observations must be vectors.

    :param venv: The workers, which take tasks
    :raises ValueError: When tasks are no numbers, or observations are no vectors
    """

    def __init__(self, venv: VecEnv) -> None:
        size = len(task_numbers(ask(venv, "sample_tasks", 1, 0, indices=0)[0][0]))
        space = vector_space(venv.observation_space)
        unbounded = np.full(size, np.inf)
        low, high = np.concatenate([space.low.ravel(), -unbounded]), np.concatenate([space.high.ravel(), unbounded])
        super().__init__(venv, spaces.Box(low.astype(np.float32), high.astype(np.float32)))
        self._tasks = np.zeros((venv.num_envs, size), np.float32)

    def reset(self) -> np.ndarray:  # type: ignore[override]
        """
        Begin new episodes.

        :return: The observations with the tasks, shape (num_envs, obs_size + task_size)
        """
        observations = self.venv.reset()
        self._note_tasks(range(self.num_envs))
        return self._with_tasks(observations)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:  # type: ignore[override]
        """
        Play the step.

        :return: The observations with the tasks, rewards, dones and infos
        """
        observations, rewards, dones, infos = self.venv.step_wait()
        ended = np.flatnonzero(dones)
        for worker in ended:
            last = np.ravel(infos[worker]["terminal_observation"])
            infos[worker] = {**infos[worker], "terminal_observation": np.concatenate([last, self._tasks[worker]])}
        self._note_tasks(ended.tolist())
        return self._with_tasks(observations), rewards, dones, infos

    def _note_tasks(self, workers: Sequence[int]) -> None:
        for worker in workers:
            task = self.venv.reset_infos[worker].get("task")
            if task is not None:  # an idle worker keeps its task
                self._tasks[worker] = task_numbers(task)

    def _with_tasks(self, observations: Any) -> np.ndarray:
        return np.concatenate([observations.reshape(self.num_envs, -1), self._tasks], axis=1, dtype=np.float32)


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


def vector_space(space: spaces.Space) -> spaces.Box:
    """
    Check that observations are vectors, to which a baseline appends numbers.

    :param space: The observation space
    :return: The same space
    :raises ValueError: When it is not a Box of at most one axis
    """
    if not isinstance(space, spaces.Box) or len(space.shape) > 1:
        raise ValueError(f"`env` must have vectors as observations for this baseline, which appends numbers, got {space}.")
    return space

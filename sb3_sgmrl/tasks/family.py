"""Task families, whose tasks the single and the batched form share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces


class TaskFamily:
    """
    The tasks of a family, shared by its single and its batched form.

    Every task is a float64 array. Tasks are uniform on ``task_space`` by default; override ``sample_tasks`` to change that.

    :param task_space: The space of one task; its bounds are enforced
    :param default_task: The task of a new environment
    """

    def __init__(self, task_space: spaces.Box, default_task: Any):
        self.task_space = task_space
        self.default_task = np.array(default_task, dtype=np.float64)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[np.ndarray]:
        """
        Draw independent tasks.

        :param n: The number of tasks
        :param rng: The only source of randomness
        :return: The list of ``n`` arrays with the shape of ``task_space``
        """
        return list(rng.uniform(self.task_space.low, self.task_space.high, size=(n, *self.task_space.shape)))

    def check_tasks(self, tasks: Sequence[Any]) -> np.ndarray:
        """
        Validate and stack tasks. A task of one number may be a float, and any task may be a (nested) list.

        :param tasks: The tasks
        :return: A new float64 array of shape (len(tasks), *task_space.shape)
        :raises ValueError: When a task has the wrong size or lies outside ``task_space``
        """
        space = self.task_space
        try:
            stacked = np.array(tasks, dtype=np.float64).reshape(len(tasks), *space.shape)
        except (TypeError, ValueError):
            raise ValueError(f"`task` must be an array of shape {space.shape}, got {_brief(tasks)}.") from None
        valid = (stacked >= space.low) & (stacked <= space.high)
        if np.count_nonzero(valid) < valid.size:
            wrong = stacked[~valid.reshape(len(tasks), -1).all(axis=1)]
            raise ValueError(f"`task` must lie in {space}, got {_brief(wrong)}.")
        return stacked


class TaskMixin:
    """
    The task methods of a single environment.

    Declare ``class Env(TaskMixin, gym.Env)`` and call ``_init_tasks`` in its constructor. The task in force is
    ``self.tasks[0]``, so that functions of the batched form work with a batch of one.
    """

    family: TaskFamily
    tasks: np.ndarray
    task_space: spaces.Box

    def _init_tasks(self, family: TaskFamily) -> None:
        self.family = family
        self.task_space = family.task_space
        self.tasks = family.default_task[None].copy()

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[np.ndarray]:
        """
        Draw independent tasks of the family.

        :param n: The number of tasks
        :param rng: The only source of randomness
        :return: The list of ``n`` tasks
        """
        return self.family.sample_tasks(n, rng)

    def set_task(self, task: Any) -> None:
        """
        Set the task. It stays until the next call; ``reset`` does not change it.

        :param task: An array, a list, or a float for a task of one number
        :raises ValueError: When the task has the wrong size or is out of range
        """
        self.tasks = self.family.check_tasks([task])

    def get_task(self) -> np.ndarray:
        """
        Return the task in force.

        :return: A copy of the task in force
        """
        return self.tasks[0].copy()


def _brief(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 200 else text[:200] + " ..."

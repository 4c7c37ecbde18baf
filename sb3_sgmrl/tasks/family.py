"""What a task family is: its tasks, shared by the single and the batched form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces


class TaskFamily:
    """
    The tasks of a family, shared by its single and its batched form. Every task is a float64 array.

    Unless ``sample_tasks`` is overridden, tasks are uniform on ``task_space``.

    :param task_space: the space of one task; its bounds are enforced
    :param default_task: the task of a fresh environment
    """

    def __init__(self, task_space: spaces.Box, default_task: Any):
        self.task_space = task_space
        self.default_task = np.array(default_task, dtype=np.float64)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[np.ndarray]:
        """
        Draw independent tasks.

        :param n: number of tasks
        :param rng: the only source of randomness
        :return: ``n`` arrays of the shape of ``task_space``
        """
        return list(rng.uniform(self.task_space.low, self.task_space.high, size=(n, *self.task_space.shape)))

    def check_tasks(self, tasks: Sequence[Any]) -> np.ndarray:
        """
        Validate and stack tasks. A task of one number may be given as a float, any task as a (nested) list.

        :param tasks: the tasks
        :return: a new float64 array of shape (len(tasks), *task_space.shape)
        :raises ValueError: if a task has the wrong size or lies outside of ``task_space``
        """
        space = self.task_space
        try:
            stacked = np.array(tasks, dtype=np.float64).reshape(len(tasks), *space.shape)
        except (TypeError, ValueError):
            raise ValueError(f"task must be an array of shape {space.shape}, got {_brief(tasks)}.") from None
        valid = (stacked >= space.low) & (stacked <= space.high)
        if np.count_nonzero(valid) < valid.size:
            wrong = stacked[~valid.reshape(len(tasks), -1).all(axis=1)]
            raise ValueError(f"task must lie in {space}, got {_brief(wrong)}.")
        return stacked


class TaskMixin:
    """
    The task methods of a single environment, ``class Env(TaskMixin, gym.Env)``; call ``_init_tasks`` in its constructor.
    The task in force is ``self.tasks[0]``, so that functions of the batched form can be used with a batch of one.
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

        :param n: number of tasks
        :param rng: the only source of randomness
        :return: ``n`` tasks
        """
        return self.family.sample_tasks(n, rng)

    def set_task(self, task: Any) -> None:
        """
        Set the task. It stays until the next call; ``reset`` does not change it.

        :param task: an array, list or (for a task of one number) float
        :raises ValueError: if the task has the wrong size or is out of range
        """
        self.tasks = self.family.check_tasks([task])

    def get_task(self) -> np.ndarray:
        """
        :return: a copy of the task in force
        """
        return self.tasks[0].copy()


def _brief(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 200 else text[:200] + " ..."

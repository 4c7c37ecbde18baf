"""Answer questions about the tasks of an environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_sgmrl.tasks.distribution import Split, Task, TaskDistribution
from sb3_sgmrl.tasks.sources import labels_of


class DrawsTasks(gym.Wrapper):
    """A wrapper that has a distribution of tasks."""

    _distribution: TaskDistribution
    _set_task: Any  # the callable that sets a task, or None for the environment's own

    @property
    def task_space(self) -> spaces.Space | None:
        """The space in which training tasks lie, if known."""
        return self._distribution.space

    @property
    def task_labels(self) -> list[str] | None:
        """
        The label of each number of a task, if known: the environment's own ``task_labels``, or the attributes that
        ``set_task`` names.
        """
        return labels_of(self.env, self._set_task) if isinstance(self.task_space, (spaces.Box, type(None))) else None

    @property
    def has_free_numbers(self) -> bool:
        """Whether tasks are drawn from a box, so that each of their numbers varies independently."""
        return self._distribution.is_uniform_on_box

    @property
    def has_test_tasks(self) -> bool:
        """Whether some tasks are kept for testing."""
        return self._distribution.has_test_tasks

    def sample_tasks(
        self, n: int, rng: np.random.Generator | int | Sequence[int] | None = None, split: Split = "train"
    ) -> list[Task]:
        """
        Draw independent tasks.

        From an unweighted list of test tasks, every task is drawn once before any task is drawn twice.

        :param n: The number of tasks
        :param rng: The generator, or the seed of a new one; the default is ``np_random``
        :param split: Either ``"train"`` or ``"test"``; without test tasks, ``"test"`` draws training tasks
        :return: The list of ``n`` tasks
        :raises ValueError: When ``n`` is not a positive integer or ``split`` is unknown
        """
        generator = self.np_random if rng is None else np.random.default_rng(rng)
        return self._distribution.sample(n, generator, split)

    def check_task(self, task: Task) -> Task:
        """
        Validate a task. Numbers and lists are converted where the task is an array.

        :param task: The task
        :return: A copy of the task
        :raises ValueError: When the task has the wrong shape, is not finite, or is not one of the tasks
        """
        return self._distribution.check(task)

    def task_problem(self, task: Task) -> str | None:
        """
        Return the error of :meth:`check_task` as text, because an exception would end the process of a worker.

        :param task: The task
        :return: One sentence, or ``None`` for a valid task
        """
        try:
            self.check_task(task)
        except ValueError as error:
            return str(error)
        return None

    def task_features(self, task: Task) -> np.ndarray:
        """
        Describe a task by numbers, for a regression on tasks.

        Gymnasium flattens a task that lies in a space, so that a discrete task becomes one-hot. Other numeric tasks are
        raveled. Any other listed task becomes the one-hot code of its position in the list.

        :param task: The task
        :return: The float64 array of shape (n_features,)
        :raises ValueError: When the task is not valid, or has no such description
        """
        return self._distribution.features(task)

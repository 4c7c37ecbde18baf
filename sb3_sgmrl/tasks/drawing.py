"""What may be asked about the tasks of an environment."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_sgmrl.tasks.distribution import Task, TaskDistribution


class DrawsTasks(gym.Wrapper):
    """A wrapper with a distribution of tasks."""

    _distribution: TaskDistribution

    @property
    def task_space(self) -> spaces.Space | None:
        """The space in which training tasks lie, if known."""
        return self._distribution.space

    @property
    def has_free_numbers(self) -> bool:
        """Whether tasks are drawn from a box, so that each of their numbers varies by itself."""
        return self._distribution.is_uniform_on_box

    @property
    def has_test_tasks(self) -> bool:
        """Whether some tasks are kept for testing."""
        return self._distribution.has_test_tasks

    def sample_tasks(
        self, n: int, rng: np.random.Generator | int | Sequence[int] | None = None, split: str = "train"
    ) -> list[Task]:
        """
        Draw tasks. They are independent, except that of an unweighted list of test tasks each is drawn once before any is
        drawn twice.

        :param n: number of tasks
        :param rng: generator, or what seeds a new one; ``np_random`` if not given
        :param split: ``"train"``, or ``"test"``, which means the training tasks when none are kept for testing
        :return: ``n`` tasks
        :raises ValueError: when ``n`` is not a positive integer or ``split`` is unknown
        """
        generator = self.np_random if rng is None else np.random.default_rng(rng)
        return self._distribution.sample(n, generator, split)

    def check_task(self, task: Task) -> Task:
        """
        Validate a task. Numbers and lists are converted where the task is an array.

        :param task: the task
        :return: a copy of the task
        :raises ValueError: when the task has the wrong shape, is not finite, or is not one of the tasks
        """
        return self._distribution.check(task)

    def task_problem(self, task: Task) -> str | None:
        """
        What :meth:`check_task` finds, without an error, which would end the process of a worker.

        :param task: the task
        :return: one sentence, or ``None`` for a valid task
        """
        try:
            self.check_task(task)
        except ValueError as error:
            return str(error)
        return None

    def task_features(self, task: Task) -> np.ndarray:
        """
        A description of a task by numbers, for a regression on tasks.

        :param task: the task
        :return: float64 array of shape (n_features,): tasks of a space are flattened as Gymnasium does it (so discrete ones
            become one-hot), other numeric tasks raveled, listed tasks of any other kind one-hot codes of their place
        :raises ValueError: when the task is not valid, or there is no such description
        """
        return self._distribution.features(task)

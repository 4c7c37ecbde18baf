"""What is asked of a MuJoCo robot: directions, velocities and places, and the reward for each, for many columns at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_sgmrl.envs.vector import TaskFamily

Range = tuple[float, float]


class MujocoTasks(TaskFamily):
    """
    A family of tasks that differ in the reward for moving.

    :param low: lower bounds of a task, shape (k,)
    :param high: upper bounds of a task, shape (k,)
    :param default_task: the task of a fresh environment
    """

    def __init__(self, low: Sequence[float], high: Sequence[float], default_task: Sequence[float]):
        super().__init__(spaces.Box(np.array(low), np.array(high), dtype=np.float64), default_task)

    def reward(self, tasks: np.ndarray, velocities: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """
        :param tasks: the tasks in force, shape (n, k)
        :param velocities: mean velocities over the step in m/s, x first, shape (n, 1) or (n, 2)
        :param positions: positions after the step in m, of the shape of ``velocities``
        :return: rewards, shape (n,)
        """
        raise NotImplementedError


class Direction(MujocoTasks):
    """Run forward (+1) or backward (-1): the reward is g * v."""

    def __init__(self) -> None:
        super().__init__([-1.0], [1.0], [1.0])

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[np.ndarray]:
        return list(rng.choice([-1.0, 1.0], size=(n, 1)))

    def check_tasks(self, tasks: Sequence[Any]) -> np.ndarray:
        checked = super().check_tasks(tasks)
        wrong = np.abs(checked) != 1.0
        if wrong.any():
            raise ValueError(f"task must be a direction, -1 or +1, got {checked[wrong][0]}.")
        return checked

    def reward(self, tasks: np.ndarray, velocities: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return tasks[:, 0] * velocities[:, 0]


class Velocity(MujocoTasks):
    """
    Move forward at a given velocity: the reward is -\\|v - g\\|.

    :param task_range: lowest and highest goal velocity in m/s
    """

    def __init__(self, task_range: Range = (0.0, 3.0)):
        low, high = task_range
        super().__init__([low], [high], [(low + high) / 2])

    def reward(self, tasks: np.ndarray, velocities: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return -np.abs(velocities[:, 0] - tasks[:, 0])


class WrongSignVelocity(Velocity):
    """``Velocity`` with the reward +\\|v - g\\|: the sign error of the published Swimmer program, to reproduce its numbers."""

    def reward(self, tasks: np.ndarray, velocities: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return -super().reward(tasks, velocities, positions)


class Angle(MujocoTasks):
    """
    Run in a direction of the plane, given by its angle to the x axis: the reward is cos(g) * v_x + sin(g) * v_y.

    :param task_range: lowest and highest angle in radians
    """

    def __init__(self, task_range: Range = (0.0, 2 * math.pi)):
        low, high = task_range
        super().__init__([low], [high], [low])

    def reward(self, tasks: np.ndarray, velocities: np.ndarray, positions: np.ndarray) -> np.ndarray:
        # One by one: NumPy's vectorised cos and sin may round differently in arrays of different lengths.
        angles = tasks[:, 0].tolist()
        cos, sin = np.array([math.cos(angle) for angle in angles]), np.array([math.sin(angle) for angle in angles])
        return cos * velocities[:, 0] + sin * velocities[:, 1]


class Goal(MujocoTasks):
    """
    Go to a place and stay: the reward is -(\\|x - g_x\\| + \\|y - g_y\\|), as in ProMP and PEARL.

    :param task_range: smallest and greatest distance of a goal from the origin in m; sampled goals are uniform on that disc
        or ring, and the coordinates of any goal are bounded by the greatest distance
    """

    def __init__(self, task_range: Range = (0.0, 3.0)):
        self._radii = task_range
        far = task_range[1]
        super().__init__([-far, -far], [far, far], [far, 0.0])

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[np.ndarray]:
        near, far = self._radii
        angles = rng.uniform(0.0, 2 * np.pi, size=n)
        radii = np.sqrt(rng.uniform(near**2, far**2, size=n))
        return list(np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1))

    def reward(self, tasks: np.ndarray, velocities: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return -(np.abs(positions[:, 0] - tasks[:, 0]) + np.abs(positions[:, 1] - tasks[:, 1]))


TASKS: dict[str, Callable[..., MujocoTasks]] = {
    "direction": Direction,
    "velocity": Velocity,
    "velocity_wrong_sign": WrongSignVelocity,
    "angle": Angle,
    "goal": Goal,
}


def make_tasks(task: str, task_range: Range | None = None) -> MujocoTasks:
    """
    :param task: what is asked of the robot, a key of ``TASKS``
    :param task_range: see the class in ``TASKS``; ``None`` for its default
    :return: the family of tasks
    :raises ValueError: if there is no such task, it has no range, or the range is empty
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {list(TASKS)}, got {task!r}.")
    if task_range is None:
        return TASKS[task]()
    if task == "direction":
        raise ValueError(f"task_range must be None for the task 'direction', got {task_range}.")
    low, high = task_range
    if not low < high:
        raise ValueError(f"task_range must be (low, high) with low < high, got {task_range}.")
    return TASKS[task]((float(low), float(high)))

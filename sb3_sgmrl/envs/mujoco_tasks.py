"""The tasks of MuJoCo robots: directions, velocities, goals and dynamics, with their rewards for many columns at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from gymnasium import spaces

from sb3_sgmrl.tasks.family import TaskFamily
from sb3_sgmrl.util.validation import check_choice

Range = tuple[float, float]


class MujocoTasks(TaskFamily):
    """
    A family of tasks that differ in the reward for moving, or in the robot itself.

    :param low: The lower bounds of a task, shape (k,)
    :param high: The upper bounds of a task, shape (k,)
    :param default_task: The task of a fresh environment
    """

    def __init__(self, low: Sequence[float], high: Sequence[float], default_task: Sequence[float]):
        super().__init__(spaces.Box(np.array(low), np.array(high), dtype=np.float64), default_task)

    def reward(self, tasks: np.ndarray, velocities: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """
        Reward a step.

        :param tasks: The current tasks, shape (n, k)
        :param velocities: The mean velocities over the step in m/s, x first, shape (n, 1) or (n, 2)
        :param positions: The positions after the step in m, of the shape of ``velocities``
        :return: The rewards, shape (n,)
        """
        raise NotImplementedError

    def model_values(self, tasks: np.ndarray) -> dict[str, np.ndarray]:
        """
        Compute the model fields in which tasks differ.

        :param tasks: The tasks, shape (n, k)
        :return: The fields of MjModel by name, shape (n, ...); they take effect when an episode begins
        """
        return {}


class Direction(MujocoTasks):
    """Tasks to run forward (+1) or backward (-1). The reward is g * v."""

    def __init__(self) -> None:
        super().__init__([-1.0], [1.0], [1.0])

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[np.ndarray]:
        return list(rng.choice([-1.0, 1.0], size=(n, 1)))

    def check_tasks(self, tasks: Sequence[Any]) -> np.ndarray:
        checked = super().check_tasks(tasks)
        wrong = np.abs(checked) != 1.0
        if wrong.any():
            raise ValueError(f"`task` must be a direction, -1 or +1, got {checked[wrong][0]}.")
        return checked

    def reward(self, tasks: np.ndarray, velocities: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return tasks[:, 0] * velocities[:, 0]


class Velocity(MujocoTasks):
    """
    Tasks to move forward at a velocity g. The reward is -\\|v - g\\|.

    :param task_range: The lowest and highest goal velocity in m/s
    """

    def __init__(self, task_range: Range = (0.0, 3.0)):
        low, high = task_range
        super().__init__([low], [high], [(low + high) / 2])

    def reward(self, tasks: np.ndarray, velocities: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return -np.abs(velocities[:, 0] - tasks[:, 0])


class WrongSignVelocity(Velocity):
    """``Velocity`` with the reward +\\|v - g\\|, the sign error of the published Swimmer program, to reproduce its numbers."""

    def reward(self, tasks: np.ndarray, velocities: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return -super().reward(tasks, velocities, positions)


class Angle(MujocoTasks):
    """
    Tasks to run in a direction of the plane with angle g to the x axis. The reward is cos(g) * v_x + sin(g) * v_y.

    :param task_range: The lowest and highest angle in radians
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
    Tasks to go to a goal and stay there. The reward is -(\\|x - g_x\\| + \\|y - g_y\\|), as in ProMP and PEARL.

    :param task_range: The smallest and greatest distance of a goal from the origin in m. Sampled goals are uniform on that
        disc or ring. The greatest distance bounds the coordinates of any goal
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


class Dynamics(MujocoTasks):
    """
    Tasks to run forward with unobserved dynamics. The reward is v.

    A task holds factors of body masses (with inertias), joint damping and geom friction, in this order. Each
    factor is log-uniform, as in the parameter randomisation of ProMP and PEARL.

    :param task_range: The smallest and greatest factor
    :param model: The robot
    """

    def __init__(self, task_range: Range = (1.5**-3, 1.5**3), *, model: Any):
        self._sizes = model.nbody - 1, model.nv, model.ngeom
        size = sum(self._sizes)
        super().__init__([task_range[0]] * size, [task_range[1]] * size, [1.0] * size)
        names = ("body_mass", "body_inertia", "dof_damping", "geom_friction")
        self._original = {name: getattr(model, name).copy() for name in names}

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[np.ndarray]:
        low, high = np.log(self.task_space.low), np.log(self.task_space.high)
        factors = np.exp(rng.uniform(low, high, size=(n, sum(self._sizes))))
        return list(np.clip(factors, self.task_space.low, self.task_space.high))

    def reward(self, tasks: np.ndarray, velocities: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return velocities[:, 0]

    def model_values(self, tasks: np.ndarray) -> dict[str, np.ndarray]:
        masses, dampings, frictions = np.split(tasks, np.cumsum(self._sizes)[:-1], axis=1)
        masses = np.concatenate([np.ones((len(tasks), 1)), masses], axis=1)  # the world body
        return {
            "body_mass": self._original["body_mass"] * masses,
            "body_inertia": self._original["body_inertia"] * masses[..., None],
            "dof_damping": self._original["dof_damping"] * dampings,
            "geom_friction": self._original["geom_friction"] * frictions[..., None],
        }


TaskName = Literal["direction", "velocity", "velocity_wrong_sign", "angle", "goal", "dynamics"]

TASKS: dict[TaskName, Callable[..., MujocoTasks]] = {
    "direction": Direction,
    "velocity": Velocity,
    "velocity_wrong_sign": WrongSignVelocity,
    "angle": Angle,
    "goal": Goal,
    "dynamics": Dynamics,
}


def make_tasks(task: TaskName, task_range: Range | None, model: Any) -> MujocoTasks:
    """
    Make a family of tasks by its name.

    :param task: The kind of task, a key of ``TASKS``
    :param task_range: The range of the tasks, see the class in ``TASKS``; ``None`` for its default
    :param model: The robot
    :return: The family of tasks
    :raises ValueError: When there is no such task, it has no range, or the range is empty
    """
    check_choice("task", task, get_args(TaskName))
    of_robot = {"model": model} if task == "dynamics" else {}
    if task_range is None:
        return TASKS[task](**of_robot)
    if task == "direction":
        raise ValueError(f"`task_range` must be None for the task 'direction', got {task_range}.")
    low, high = task_range
    if not low < high:
        raise ValueError(f"`task_range` must be (low, high) with low < high, got {task_range}.")
    if task == "dynamics" and not low > 0:
        raise ValueError(f"`task_range` must hold positive factors for the task 'dynamics', got {task_range}.")
    return TASKS[task]((float(low), float(high)), **of_robot)

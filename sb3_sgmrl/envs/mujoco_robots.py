"""Gymnasium's MuJoCo robots (v5) as families, with rewards that depend on a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv
from gymnasium.envs.mujoco.swimmer_v5 import SwimmerEnv
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv

from sb3_sgmrl.envs.mujoco_batch import MujocoTaskVectorEnv
from sb3_sgmrl.envs.mujoco_family import MujocoFamily
from sb3_sgmrl.envs.mujoco_single import MujocoTaskEnv
from sb3_sgmrl.envs.mujoco_state import MujocoState
from sb3_sgmrl.envs.mujoco_tasks import Range, TaskName, make_tasks
from sb3_sgmrl.util.mujoco_warnings import quiet_compiler


class RobotFamily(MujocoFamily):
    """
    A robot of Gymnasium (v5) whose reward depends on a task.

    Dynamics, observations, resets and ends of episodes are Gymnasium's. The reward of a step is

        forward_reward_weight * (reward of the task) + healthy_reward * (is healthy) - ctrl_cost_weight * |control|^2

    where the control is the action after clipping to the action space.

    :param task: The kind of task: "direction", "velocity", "velocity_wrong_sign", "angle", "goal" or "dynamics"
    :param task_range: The range of the tasks, see ``sb3_sgmrl.envs.mujoco_tasks``; ``None`` for the default
    :param action_bound: The bound of the action space, which is mapped linearly onto the simulator's, as by Gymnasium's
        ``RescaleAction``
    :param kwargs: The arguments of Gymnasium's environment, such as ``ctrl_cost_weight`` or ``healthy_reward``
    :raises ValueError: When there is no such task, the range is empty or ``action_bound`` is not positive
    """

    current_fields = False
    gymnasium_class: ClassVar[type[MujocoEnv]]
    # Arguments of Gymnasium's environment that users cannot choose.
    fixed_kwargs: ClassVar[dict[str, Any]] = {}
    # Whether Gymnasium's resets draw velocities from a normal distribution, as for some robots, or from a uniform one.
    normal_velocity_noise = False
    # Gymnasium clips the observed velocities of some robots.
    velocity_limit = np.inf
    # The number of world coordinates, the first of qpos, which Gymnasium hides from the policy.
    n_world_coordinates = 2

    def __init__(
        self, task: TaskName = "direction", task_range: Range | None = None, action_bound: float | None = None, **kwargs: Any
    ):
        with quiet_compiler():
            gymnasium_env: Any = self.gymnasium_class(**self.fixed_kwargs, **kwargs)
        model = gymnasium_env.model
        self._asked = make_tasks(task, task_range, model)
        super().__init__(
            model,
            gymnasium_env.frame_skip,
            task_space=self._asked.task_space,
            default_task=self._asked.default_task,
            reset_noise=gymnasium_env._reset_noise_scale,
            action_bound=action_bound,
        )
        self.default_camera_config = gymnasium_env.mujoco_renderer.default_cam_config
        self._forward_reward_weight = gymnasium_env._forward_reward_weight
        self._ctrl_cost_weight = gymnasium_env._ctrl_cost_weight
        self._healthy_reward = getattr(gymnasium_env, "_healthy_reward", 0.0)
        self._terminate_when_unhealthy = getattr(gymnasium_env, "_terminate_when_unhealthy", False)
        self._n_hidden = self.n_world_coordinates if gymnasium_env._exclude_current_positions_from_observation else 0
        self._healthy_ranges: dict[str, Range] = {
            name: getattr(gymnasium_env, f"_healthy_{name}_range")
            for name in ("z", "angle", "state")
            if hasattr(gymnasium_env, f"_healthy_{name}_range")
        }
        gymnasium_env.close()

    # -- the tasks -------------------------------------------------------------------------------------------------

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[np.ndarray]:
        """See ``MujocoTasks``."""
        return self._asked.sample_tasks(n, rng)

    def check_tasks(self, tasks: Sequence[Any]) -> np.ndarray:
        """See ``MujocoTasks``."""
        return self._asked.check_tasks(tasks)

    def model_values(self, tasks: np.ndarray) -> dict[str, np.ndarray]:
        """See ``MujocoTasks``."""
        return self._asked.model_values(tasks)

    # -- the robot -------------------------------------------------------------------------------------------------

    def position(self, state: MujocoState) -> np.ndarray:
        """
        Compute the position whose change is the velocity in Gymnasium.

        :param state: The state
        :return: The position in m, x first, shape (n, 1) or (n, 2)
        """
        return state.qpos[:, : self.n_world_coordinates]

    def healthy(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """
        Check which robots have not fallen.

        :param qpos: The generalised positions, shape (n, nq)
        :param qvel: The generalised velocities, shape (n, nv)
        :return: Whether each robot has not fallen, shape (n,), dtype bool
        """
        return np.ones(len(qpos), dtype=bool)

    def remember(self, state: MujocoState) -> np.ndarray:
        """See ``MujocoFamily``."""
        return self.position(state)

    def observe(self, state: MujocoState) -> np.ndarray:
        """See ``MujocoFamily``."""
        limit = self.velocity_limit
        qvel = np.clip(state.qvel, -limit, limit) if np.isfinite(limit) else state.qvel
        return np.concatenate([state.qpos[:, self._n_hidden :], qvel], axis=1)

    def reward(self, state: MujocoState, controls: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        """See ``MujocoFamily``."""
        positions = self.position(state)
        velocities = (positions - state.before) / self.dt
        task = self._forward_reward_weight * self._asked.reward(tasks, velocities, positions)
        healthy = state.cache["healthy"] = self.healthy(state.qpos, state.qvel)
        survive = healthy * self._healthy_reward
        cost = self._ctrl_cost_weight * np.square(controls).sum(axis=1)
        state.cache["info"] = {"reward_task": task, "reward_survive": survive, "reward_ctrl": -cost}
        state.cache["motion"] = velocities, positions
        return task + survive - cost

    def terminated(self, state: MujocoState, tasks: np.ndarray) -> np.ndarray:
        """See ``MujocoFamily``."""
        return ~state.cache["healthy"] & self._terminate_when_unhealthy

    def info(self, state: MujocoState, controls: np.ndarray, tasks: np.ndarray) -> dict[str, np.ndarray]:
        """See ``MujocoFamily``. The info holds the velocity, the position and the summands of the reward."""
        velocities, positions = state.cache["motion"]
        return {
            **state.cache["info"],
            **dict(zip(("x_velocity", "y_velocity"), velocities.T, strict=False)),
            **dict(zip(("x_position", "y_position"), positions.T, strict=False)),
        }

    def draw_state(self, rng: np.random.Generator, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See ``MujocoFamily``."""
        if not self.normal_velocity_noise:
            return super().draw_state(rng, task)
        noise = self.reset_noise
        qpos = self.init_qpos + rng.uniform(-noise, noise, self.init_qpos.shape)
        return qpos, self.init_qvel + noise * rng.standard_normal(self.init_qvel.shape)


class HalfCheetah(RobotFamily):
    """Gymnasium's half cheetah."""

    gymnasium_class = HalfCheetahEnv
    normal_velocity_noise = True
    n_world_coordinates = 1


class Swimmer(RobotFamily):
    """Gymnasium's swimmer."""

    gymnasium_class = SwimmerEnv


class Hopper(RobotFamily):
    """Gymnasium's hopper."""

    gymnasium_class = HopperEnv
    velocity_limit = 10.0
    n_world_coordinates = 1

    def healthy(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        low, high = self._healthy_ranges["state"]
        healthy = ((low < qpos[:, 2:]) & (qpos[:, 2:] < high)).all(axis=1) & ((low < qvel) & (qvel < high)).all(axis=1)
        return healthy & _inside(qpos[:, 1], self._healthy_ranges["z"]) & _inside(qpos[:, 2], self._healthy_ranges["angle"])


class Walker2d(RobotFamily):
    """Gymnasium's walker."""

    gymnasium_class = Walker2dEnv
    velocity_limit = 10.0
    n_world_coordinates = 1

    def healthy(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        return _inside(qpos[:, 1], self._healthy_ranges["z"]) & _inside(qpos[:, 2], self._healthy_ranges["angle"])


class Ant(RobotFamily):
    """Gymnasium's ant, without contact forces in the observation and in the reward."""

    gymnasium_class = AntEnv
    fixed_kwargs: ClassVar[dict[str, Any]] = {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}
    normal_velocity_noise = True

    def __init__(self, *args: Any, main_body: int | str = 1, **kwargs: Any):
        super().__init__(*args, main_body=main_body, **kwargs)
        self._main_body = self.model.body(main_body).id

    def position(self, state: MujocoState) -> np.ndarray:
        return state.xpos[:, self._main_body, :2]

    def healthy(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        low, high = self._healthy_ranges["z"]
        finite = np.isfinite(qpos).all(axis=1) & np.isfinite(qvel).all(axis=1)
        return finite & (low <= qpos[:, 2]) & (qpos[:, 2] <= high)


class Humanoid(RobotFamily):
    """Gymnasium's humanoid, which observes positions and velocities only, without contact cost."""

    gymnasium_class = HumanoidEnv
    fixed_kwargs: ClassVar[dict[str, Any]] = {
        "include_cinert_in_observation": False,
        "include_cvel_in_observation": False,
        "include_qfrc_actuator_in_observation": False,
        "include_cfrc_ext_in_observation": False,
        "contact_cost_weight": 0.0,
    }

    def position(self, state: MujocoState) -> np.ndarray:
        return state.subtree_com[:, 0, :2]  # the centre of mass

    def healthy(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        return _inside(qpos[:, 2], self._healthy_ranges["z"])


ROBOTS: dict[str, type[RobotFamily]] = {
    robot.__name__: robot for robot in (HalfCheetah, Swimmer, Hopper, Walker2d, Ant, Humanoid)
}

# Arguments of both forms that concern rendering, not the robot.
_PICTURE = ("width", "height", "camera_id", "camera_name", "default_camera_config", "max_geom", "visual_options")


class RobotTaskEnv(MujocoTaskEnv):
    """
    One robot of Gymnasium with a task.

    :param robot: A key of ``ROBOTS``
    :param render_mode: The render mode, ``None``, "human", "rgb_array", "depth_array" or "rgbd_tuple"
    :param kwargs: The arguments of ``RobotFamily``, and the rendering arguments of ``MujocoTaskEnv``
    """

    def __init__(self, robot: str, render_mode: str | None = None, **kwargs: Any):
        picture = _take_picture(kwargs)
        super().__init__(ROBOTS[robot](**kwargs), render_mode, **picture)


class RobotTaskVectorEnv(MujocoTaskVectorEnv):
    """
    Many robots of Gymnasium, each with its own task.

    :param num_envs: The number of columns
    :param robot: A key of ``ROBOTS``
    :param max_episode_steps: The number of steps after which an episode is truncated; ``None`` for no limit
    :param n_threads: The number of threads that run the simulator; ``None`` for one per CPU
    :param render_mode: The render mode, ``None`` or "rgb_array"
    :param kwargs: The arguments of ``RobotFamily``, and the rendering arguments of ``MujocoTaskEnv``
    """

    def __init__(
        self,
        num_envs: int,
        robot: str,
        max_episode_steps: int | None = 200,
        n_threads: int | None = None,
        render_mode: str | None = None,
        **kwargs: Any,
    ):
        picture = _take_picture(kwargs)
        super().__init__(num_envs, ROBOTS[robot](**kwargs), max_episode_steps, n_threads, render_mode, **picture)


def _take_picture(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: kwargs.pop(name) for name in _PICTURE if name in kwargs}


def _inside(values: np.ndarray, bounds: Range) -> np.ndarray:
    return (bounds[0] < values) & (values < bounds[1])

"""Task families on Gymnasium's MuJoCo robots: one environment at a time, and the logic shared with the batched form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv
from gymnasium.envs.mujoco.swimmer_v5 import SwimmerEnv
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv
from gymnasium.utils import EzPickle

from sb3_sgmrl.envs.mujoco_tasks import MujocoTasks, Range, make_tasks
from sb3_sgmrl.tasks.family import TaskMixin
from sb3_sgmrl.util.mujoco_warnings import quiet_compiler

# Gives a field of MjData by its name, with one row per column.
Fields = Callable[[str], np.ndarray]


class MujocoTaskEnv(TaskMixin, MujocoEnv, EzPickle):
    """
    A robot of Gymnasium (v5) whose reward depends on a task. The reward of a step is

        forward_reward_weight * (reward of the task) + healthy_reward * (is healthy) - ctrl_cost_weight * |control|^2

    where the control is the action that reaches the simulator: actions outside of the action space are clipped.
    Dynamics, observations, resets and the end of an episode are Gymnasium's. The methods that take arrays with one row per
    column are the only place where these things are computed; the batched form calls them, too.

    :param task: "direction", "velocity", "velocity_wrong_sign", "angle", "goal" or "dynamics", see
        ``sb3_sgmrl.envs.mujoco_tasks``
    :param task_range: the range of the tasks, see there; ``None`` for the default
    :param action_bound: if given, the action space is [-action_bound, action_bound] and mapped linearly onto the
        simulator's, as Gymnasium's ``RescaleAction`` does
    :param kwargs: arguments of Gymnasium's environment, such as ``ctrl_cost_weight``, ``healthy_reward`` or ``render_mode``
    :raises ValueError: if there is no such task, the range is empty or ``action_bound`` is not positive
    """

    # Arguments of Gymnasium's environment that are not open to choice.
    fixed_kwargs: ClassVar[dict[str, Any]] = {}
    # Gymnasium's resets draw velocities from a normal distribution for some robots, from a uniform one for others.
    normal_velocity_noise = False
    # Gymnasium clips the observed velocities of some robots.
    velocity_limit = np.inf
    # World coordinates, the first of qpos, which Gymnasium hides from the policy.
    n_world_coordinates = 2
    family: MujocoTasks
    # Set by Gymnasium's environments where they apply.
    _forward_reward_weight: float
    _ctrl_cost_weight: float
    _reset_noise_scale: float
    _exclude_current_positions_from_observation: bool
    _healthy_reward = 0.0
    _terminate_when_unhealthy = False

    def __init__(
        self, task: str = "direction", task_range: Range | None = None, action_bound: float | None = None, **kwargs: Any
    ):
        if action_bound is not None and not action_bound > 0:
            raise ValueError(f"action_bound must be positive or None, got {action_bound}.")
        with quiet_compiler():
            super().__init__(**self.fixed_kwargs, **kwargs)
        family = make_tasks(task, task_range, self.model)
        EzPickle.__init__(self, task, task_range, action_bound, **kwargs)
        self._init_tasks(family)
        self._task_reward = family.reward
        self._control_low, self._control_high = self.model.actuator_ctrlrange.T.copy()
        self._action_bound = action_bound
        if action_bound is not None:
            self.action_space = spaces.Box(-action_bound, action_bound, shape=(self.model.nu,), dtype=np.float32)
        self._n_hidden = self.n_world_coordinates if self._exclude_current_positions_from_observation else 0
        self._qpos, self._qvel = self.data.qpos[None], self.data.qvel[None]  # views
        self._position = self.position(lambda field: getattr(self.data, field)[None])  # a view, too

    # EzPickle makes a new environment from the constructor's arguments; the task has to go with them.
    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "tasks": self.tasks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.tasks = state["tasks"]

    # -- for one or many columns -----------------------------------------------------------------------------------

    def position(self, fields: Fields) -> np.ndarray:
        """
        The position from whose change Gymnasium computes the velocity.

        :param fields: gives a field of MjData by its name, shape (n, ...)
        :return: a view of the position in m, x first, shape (n, 1) or (n, 2)
        """
        return fields("qpos")[:, : self.n_world_coordinates]

    def healthy(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """
        :param qpos: generalised positions, shape (n, nq)
        :param qvel: generalised velocities, shape (n, nv)
        :return: whether the robot has not fallen, shape (n,), dtype bool
        """
        return np.ones(len(qpos), dtype=bool)

    def observe(self, qpos: np.ndarray, qvel: np.ndarray, out: np.ndarray) -> np.ndarray:
        """
        :param qpos: generalised positions, shape (n, nq)
        :param qvel: generalised velocities, shape (n, nv)
        :param out: where to write the observations, shape (n, dimension of the observation space)
        :return: ``out``
        """
        n_positions = qpos.shape[1] - self._n_hidden
        out[:, :n_positions] = qpos[:, self._n_hidden :]
        if np.isfinite(self.velocity_limit):
            np.clip(qvel, -self.velocity_limit, self.velocity_limit, out=out[:, n_positions:])
        else:
            out[:, n_positions:] = qvel
        return out

    def controls(self, actions: np.ndarray) -> np.ndarray:
        """
        :param actions: shape (n, nu)
        :return: what reaches the simulator, shape (n, nu), dtype float64
        """
        controls = np.array(actions, dtype=np.float64)
        if self._action_bound is None:
            return np.clip(controls, self._control_low, self._control_high, out=controls)
        controls += self._action_bound
        controls *= (self._control_high - self._control_low) / (2 * self._action_bound)
        controls += self._control_low
        return np.clip(controls, self._control_low, self._control_high, out=controls)

    def outcome(
        self, tasks: np.ndarray, controls: np.ndarray, velocities: np.ndarray, positions: np.ndarray, healthy: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """
        Reward a step.

        :param tasks: the tasks in force, shape (n, k)
        :param controls: what reached the simulator, shape (n, nu)
        :param velocities: mean velocities over the step in m/s, shape (n, 1) or (n, 2)
        :param positions: positions after the step in m, of the shape of ``velocities``
        :param healthy: whether the robot has not fallen, shape (n,)
        :return: rewards and terminations, shape (n,), and the summands of the rewards by name
        """
        task = self._forward_reward_weight * self._task_reward(tasks, velocities, positions)
        survive = healthy * self._healthy_reward
        cost = self._ctrl_cost_weight * np.square(controls).sum(axis=1)
        terminated = ~healthy & self._terminate_when_unhealthy
        return task + survive - cost, terminated, {"reward_task": task, "reward_survive": survive, "reward_ctrl": -cost}

    def draw_state(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """
        Draw where an episode begins.

        :param rng: the generator of the column
        :return: generalised positions (nq,) and velocities (nv,)
        """
        noise = self._reset_noise_scale
        qpos = self.init_qpos + rng.uniform(low=-noise, high=noise, size=self.init_qpos.shape)
        if self.normal_velocity_noise:
            return qpos, self.init_qvel + noise * rng.standard_normal(self.init_qvel.shape)
        return qpos, self.init_qvel + rng.uniform(low=-noise, high=noise, size=self.init_qvel.shape)

    # -- one environment -------------------------------------------------------------------------------------------

    def reset_model(self) -> np.ndarray:
        if values := self.family.model_values(self.tasks):
            for name, value in values.items():
                getattr(self.model, name)[:] = value[0]
            mujoco.mj_setConst(self.model, self.data)
            mujoco.mj_resetData(self.model, self.data)
        self.set_state(*self.draw_state(self.np_random))
        return self._get_obs()

    def _get_obs(self) -> np.ndarray:
        shape = (1, self._qpos.shape[1] - self._n_hidden + self._qvel.shape[1])
        return self.observe(self._qpos, self._qvel, np.empty(shape))[0]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:  # type: ignore[override]
        """
        Apply an action for ``frame_skip`` steps of the simulator.

        :param action: shape (nu,)
        :return: observation, reward, termination, ``False`` and an info with the velocity and the summands of the reward
        """
        before = self._position.copy()
        controls = self.controls(np.asarray(action)[None])
        self.do_simulation(controls[0], self.frame_skip)
        velocities = (self._position - before) / self.dt
        healthy = self.healthy(self._qpos, self._qvel)
        reward, terminated, terms = self.outcome(self.tasks, controls, velocities, self._position, healthy)
        info: dict[str, Any] = {name: float(value[0]) for name, value in terms.items()}
        info.update(zip(("x_velocity", "y_velocity"), velocities[0].tolist(), strict=False))
        info.update(zip(("x_position", "y_position"), self._position[0].tolist(), strict=False))
        if self.render_mode == "human":
            self.render()
        return self._get_obs(), float(reward[0]), bool(terminated[0]), False, info


class HalfCheetahTaskEnv(MujocoTaskEnv, HalfCheetahEnv):
    """Gymnasium's half cheetah with a task."""

    normal_velocity_noise = True
    n_world_coordinates = 1


class SwimmerTaskEnv(MujocoTaskEnv, SwimmerEnv):
    """Gymnasium's swimmer with a task."""


class HopperTaskEnv(MujocoTaskEnv, HopperEnv):
    """Gymnasium's hopper with a task."""

    velocity_limit = 10.0
    n_world_coordinates = 1

    def healthy(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        low, high = self._healthy_state_range
        healthy = ((low < qpos[:, 2:]) & (qpos[:, 2:] < high)).all(axis=1) & ((low < qvel) & (qvel < high)).all(axis=1)
        return healthy & _inside(qpos[:, 1], self._healthy_z_range) & _inside(qpos[:, 2], self._healthy_angle_range)


class Walker2dTaskEnv(MujocoTaskEnv, Walker2dEnv):
    """Gymnasium's walker with a task."""

    velocity_limit = 10.0
    n_world_coordinates = 1

    def healthy(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        return _inside(qpos[:, 1], self._healthy_z_range) & _inside(qpos[:, 2], self._healthy_angle_range)


class AntTaskEnv(MujocoTaskEnv, AntEnv):
    """Gymnasium's ant with a task, without contact forces in the observation and in the reward."""

    fixed_kwargs: ClassVar[dict[str, Any]] = {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}
    normal_velocity_noise = True

    def position(self, fields: Fields) -> np.ndarray:
        return fields("xpos")[:, self.model.body(self._main_body).id, :2]

    def healthy(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        low, high = self._healthy_z_range
        finite = np.isfinite(qpos).all(axis=1) & np.isfinite(qvel).all(axis=1)
        return finite & (low <= qpos[:, 2]) & (qpos[:, 2] <= high)


class HumanoidTaskEnv(MujocoTaskEnv, HumanoidEnv):
    """
    Gymnasium's humanoid with a task; it observes positions and velocities only, and there is no contact cost.
    """

    fixed_kwargs: ClassVar[dict[str, Any]] = {
        "include_cinert_in_observation": False,
        "include_cvel_in_observation": False,
        "include_qfrc_actuator_in_observation": False,
        "include_cfrc_ext_in_observation": False,
        "contact_cost_weight": 0.0,
    }

    def position(self, fields: Fields) -> np.ndarray:
        return fields("subtree_com")[:, 0, :2]  # the centre of mass

    def healthy(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        return _inside(qpos[:, 2], self._healthy_z_range)


def _inside(values: np.ndarray, bounds: Range) -> np.ndarray:
    return (bounds[0] < values) & (values < bounds[1])

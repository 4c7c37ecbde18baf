"""The single environment of a MuJoCo family."""

from __future__ import annotations

from copy import deepcopy
from functools import cached_property
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

from sb3_sgmrl.envs.mujoco_family import MujocoFamily
from sb3_sgmrl.envs.mujoco_state import frozen
from sb3_sgmrl.tasks.family import TaskMixin

_SIZE = 480


class MujocoTaskEnv(TaskMixin, gym.Env):
    """
    The single environment of a MuJoCo family, stepped by MuJoCo itself.

    :param family: The family
    :param render_mode: The render mode, ``None``, "human", "rgb_array", "depth_array" or "rgbd_tuple"
    :param width: The width of pictures in pixels
    :param height: The height of pictures in pixels
    :param camera: The further arguments of Gymnasium's ``MujocoRenderer``, such as ``camera_name`` or
        ``default_camera_config``
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"]}  # noqa: RUF012
    family: MujocoFamily

    def __init__(
        self, family: MujocoFamily, render_mode: str | None = None, width: int = _SIZE, height: int = _SIZE, **camera: Any
    ):
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"`render_mode` must be None or one of {self.metadata['render_modes']}, got {render_mode!r}.")
        self._init_tasks(family)
        self.metadata = {**self.metadata, "render_fps": round(1 / family.dt)}
        self.observation_space = family.observation_space
        self.action_space = family.action_space
        self.render_mode = render_mode
        self._picture = {"width": width, "height": height, **camera}
        self.model = deepcopy(family.model)
        if render_mode is not None:
            view = self.model.vis.global_
            view.offwidth, view.offheight = max(view.offwidth, width), max(view.offheight, height)
        self.data = mujoco.MjData(self.model)
        self._views = {name: frozen(getattr(self.data, name)[None]) for name in family.fields - {"time"}}
        self._state = family.make_state(self._field)
        vars(self._state).update(self._views)  # attributes are faster than calls

    # A copy is constructed again and receives the task.
    def __getstate__(self) -> dict[str, Any]:
        arguments = {"family": self.family, "render_mode": self.render_mode, **self._picture}
        return {"arguments": arguments, "tasks": self.tasks, "spec": self.spec}

    def __setstate__(self, state: dict[str, Any]) -> None:
        MujocoTaskEnv.__init__(self, **state["arguments"])
        self.tasks, self.spec = state["tasks"], state["spec"]

    @property
    def dt(self) -> float:
        """The seconds per step."""
        return self.family.dt

    @property
    def frame_skip(self) -> int:
        """The number of simulator steps per step."""
        return self.family.frame_skip

    @property
    def task_labels(self) -> list[str]:
        """The label of each number of a task."""
        return self.family.task_labels

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Begin an episode of the current task.

        :param seed: The seed of the random generator; ``None`` keeps the existing generator
        :param options: The options, which are ignored
        :return: The first observation and an empty dictionary
        """
        super().reset(seed=seed)
        self.family.put_in_force(self.model, self.data, self.tasks)
        self.data.qpos[:], self.data.qvel[:] = self.family.first_state(self.np_random, self.tasks[0])
        mujoco.mj_forward(self.model, self.data)
        self._state.before = None
        self._state.cache.clear()
        if self.render_mode == "human":
            self.render()
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Apply an action for ``frame_skip`` steps of the simulator.

        :param action: The action, shape (nu,)
        :return: The observation, reward, termination, ``False`` and the family's ``info``
        """
        family, state, tasks = self.family, self._state, frozen(self.tasks)
        state.cache.clear()
        before = family.remember(state)
        state.before = None if before is None else np.array(before)
        controls = family.controls(np.asarray(action)[None])
        self.data.ctrl[:] = controls[0]
        mujoco.mj_step(self.model, self.data, nstep=family.frame_skip)
        if family.refreshes:
            mujoco.mj_step1(self.model, self.data)
        rewards, terminated = family.outcome(state, controls, tasks)
        info = {name: _plain(value) for name, value in family.info(state, controls, tasks).items()}
        if self.render_mode == "human":
            self.render()
        return self._observe(), float(rewards[0]), bool(terminated[0]), False, info

    def render(self) -> Any:
        """
        Render the state.

        :return: The picture, or ``None`` without a render mode
        """
        return None if self.render_mode is None else self.mujoco_renderer.render(self.render_mode)

    def close(self) -> None:
        """Close the windows."""
        if "mujoco_renderer" in vars(self):
            self.mujoco_renderer.close()

    @cached_property
    def mujoco_renderer(self) -> Any:
        """Gymnasium's renderer, made at the first access. It follows a robot that moves through the world."""
        from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

        camera = self.family.default_camera_config
        if self._picture.keys() & {"default_camera_config", "camera_id", "camera_name"}:
            picture = dict(self._picture)
            return MujocoRenderer(self.model, self.data, picture.pop("default_camera_config", camera), **picture)
        body = _moving_body(self.model)
        if body is not None:
            camera = {"trackbodyid": body, **(camera or {}), "type": mujoco.mjtCamera.mjCAMERA_TRACKING}
        renderer = MujocoRenderer(self.model, self.data, camera, **self._picture)
        track = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
        # Gymnasium would choose a free camera, which does not move; None keeps the camera of the configuration
        renderer.camera_id = track if track >= 0 else None if body is not None else renderer.camera_id
        return renderer

    def _field(self, name: str) -> np.ndarray:
        if name not in self.family.fields:
            raise self.family.unread(name)
        return np.array([self.data.time]) if name == "time" else self._views[name]

    def _observe(self) -> np.ndarray:
        return np.array(self.family.observations(self._state, 1)[0])


def _moving_body(model: mujoco.MjModel) -> int | None:
    """Find the first body that moves through the world; None where all are fixed to it."""
    moves = (int(mujoco.mjtJoint.mjJNT_FREE), int(mujoco.mjtJoint.mjJNT_SLIDE))
    joints = [int(model.jnt_bodyid[i]) for i in range(model.njnt) if model.jnt_type[i] in moves]
    return next((body for body in joints if model.body_parentid[body] == 0), None)


def _plain(value: np.ndarray) -> Any:
    return value.item() if value.ndim == 1 else value[0].copy()

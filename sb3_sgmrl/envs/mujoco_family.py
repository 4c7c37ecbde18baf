"""Task families on a MuJoCo model: what they are made of. The single and the batched environment follow from it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from typing import Any, ClassVar

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces

from sb3_sgmrl.envs.mujoco_model import (
    ModelFields,
    compile_model,
    control_ranges,
    find_keyframe,
    read_bounds,
    set_model_field,
)
from sb3_sgmrl.envs.mujoco_state import MujocoState, check_field, find_place, frozen, is_computed
from sb3_sgmrl.tasks.family import TaskFamily

_FLOAT, _BOOL = np.dtype(np.float64), np.dtype(bool)


class MujocoFamily(TaskFamily):
    """
    Tasks on a MuJoCo model of your own. Derive from it and write ``reward``; the other methods have defaults.

    The numbers of a task are those of ``task_space`` first, then those of ``factors``, then those of ``values``. Bounds of a
    field are a pair (low, high) or a ``Box``, for one number, for one per row, or for all numbers of the field. A dictionary
    from names to bounds selects rows instead: ``{"body_mass": {"payload": (0.1, 2.0)}}``. Inertias follow the masses unless
    ``body_inertia`` is named, too. Fields are put in force when an episode begins, with all constants that MuJoCo derives
    from them.

    In all methods n is the number of episodes played side by side; a row of a result may depend on the same row of the
    arguments only.

    :param model: an XML file, its text, or an ``MjModel``, which is copied
    :param frame_skip: steps of the simulator per step of the environment
    :param task_space: what ``reward`` is about, a ``Box`` of shape (k,) with finite bounds
    :param factors: model fields that are multiplied by numbers of the task, with the bounds of these numbers
    :param values: model fields that are numbers of the task, with their bounds
    :param default_task: the task of a fresh environment; if not given, factors of 1, the model's own values and the middle of
        ``task_space``
    :param sensors: names of the sensors that ``observe`` appends
    :param reset_noise: positions and velocities of a first state are uniform within this distance of the model's
    :param keyframe: name of the model's keyframe in which episodes begin, instead of ``qpos0`` at rest
    :param action_bound: if given, the action space is [-action_bound, action_bound] and mapped linearly onto the ranges of
        the actuators
    :raises ValueError: if an argument does not fit the model, or there are no tasks
    """

    #: Camera of Gymnasium's ``MujocoRenderer``, such as {"distance": 3.0}; ``None`` for MuJoCo's free camera.
    default_camera_config: dict[str, Any] | None = None
    #: Whether what is computed from positions and velocities, such as ``site_xpos``, is of the state after the step. If not,
    #: it is one step of the simulator behind, as in Gymnasium's environments. Forces are always those of the last such step.
    current_fields: ClassVar[bool] = True

    def __init__(
        self,
        model: str | os.PathLike[str] | mujoco.MjModel,
        frame_skip: int = 1,
        *,
        task_space: spaces.Box | None = None,
        factors: Mapping[str, Any] | None = None,
        values: Mapping[str, Any] | None = None,
        default_task: Any = None,
        sensors: Sequence[str] = (),
        reset_noise: float = 0.0,
        keyframe: str | None = None,
        action_bound: float | None = None,
    ):
        if isinstance(frame_skip, bool) or not isinstance(frame_skip, (int, np.integer)) or frame_skip < 1:
            raise ValueError(f"`frame_skip` must be a positive integer, got {frame_skip!r}.")
        if not 0 <= reset_noise < np.inf:
            raise ValueError(f"`reset_noise` must be a finite number of at least 0, got {reset_noise!r}.")
        if action_bound is not None and not 0 < action_bound < np.inf:
            raise ValueError(f"`action_bound` must be positive or None, got {action_bound!r}.")
        self.model = compile_model(model)
        self.frame_skip = int(frame_skip)
        self.reset_noise = reset_noise
        self.keyframe = -1 if keyframe is None else find_keyframe(self.model, keyframe)
        self.sensors = tuple(sensors)
        self._ids: dict[Any, Any] = {}
        for name in self.sensors:
            find_place(self.model, mujoco.mjtObj.mjOBJ_SENSOR, "sensor", name)
        self._fields = ModelFields(self.model, factors, values)
        low, high = (np.empty(0), np.empty(0)) if task_space is None else _task_bounds(task_space)
        self._n_own = len(low)
        space = spaces.Box(np.append(low, self._fields.low), np.append(high, self._fields.high), dtype=np.float64)
        if not space.shape[0]:
            raise ValueError(f"{type(self).__name__} has no tasks: pass `task_space`, `factors` or `values`.")
        super().__init__(space, np.append((low + high) / 2, self._fields.default))
        if default_task is not None:
            self.default_task = self.check_tasks([default_task])[0]
        self.init_qpos, self.init_qvel = self.model.qpos0.copy(), np.zeros(self.model.nv)
        if self.keyframe >= 0:
            self.init_qpos, self.init_qvel = (
                self.model.key_qpos[self.keyframe].copy(),
                self.model.key_qvel[self.keyframe].copy(),
            )
        self._control_low, self._control_high = control_ranges(self.model)
        self._action_bound = action_bound
        bounds = (self._control_low, self._control_high) if action_bound is None else (-action_bound, action_bound)
        low, high = (np.broadcast_to(np.float32(side), (self.model.nu,)) for side in bounds)
        self.action_space = spaces.Box(low, high, dtype=np.float32)

    # -- to be written by a family ---------------------------------------------------------------------------------

    def reward(self, state: MujocoState, controls: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        """
        Reward a step.

        :param state: the state after the step
        :param controls: what reached the actuators, shape (n, nu)
        :param tasks: the tasks in force, shape (n, numbers of a task)
        :return: rewards, shape (n,), dtype float64
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method reward(state, controls, tasks).")

    def observe(self, state: MujocoState) -> np.ndarray:
        """
        What the policy sees: positions, velocities and ``sensors``, unless overridden.

        :param state: the state
        :return: observations, shape (n, size), dtype float64 or float32
        """
        return np.concatenate([state.qpos, state.qvel, *map(state.sensor, self.sensors)], axis=1)

    def terminated(self, state: MujocoState, tasks: np.ndarray) -> np.ndarray:
        """
        Which episodes end; none, unless overridden.

        :param state: the state after the step
        :param tasks: the tasks in force, shape (n, numbers of a task)
        :return: shape (n,), dtype bool
        """
        return np.zeros(len(tasks), dtype=bool)

    def draw_state(self, rng: np.random.Generator, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Draw where one episode begins: the model's first state with ``reset_noise``, unless overridden.

        :param rng: the generator of the episode
        :param task: its task
        :return: generalised positions (nq,) and velocities (nv,)
        """
        noise = self.reset_noise
        qpos = self.init_qpos + rng.uniform(-noise, noise, self.init_qpos.shape)
        return qpos, self.init_qvel + rng.uniform(-noise, noise, self.init_qvel.shape)

    def remember(self, state: MujocoState) -> np.ndarray | None:
        """
        What ``reward`` needs of the state before the step, where it finds it as ``state.before``.

        :param state: the state before the step
        :return: shape (n, ...), or ``None`` for nothing
        """
        return None

    def info(self, state: MujocoState, controls: np.ndarray, tasks: np.ndarray) -> dict[str, np.ndarray]:
        """
        What the single environment tells of a step beside the reward; nothing, unless overridden.

        :param state: the state after the step
        :param controls: what reached the actuators, shape (n, nu)
        :param tasks: the tasks in force, shape (n, numbers of a task)
        :return: arrays of shape (n, ...) by name
        """
        return {}

    def model_values(self, tasks: np.ndarray) -> dict[str, np.ndarray]:
        """
        What the model is made of, where tasks differ in that.

        :param tasks: tasks, shape (n, numbers of a task)
        :return: fields of MjModel by name, shape (n, ...)
        """
        return self._fields.arrays(tasks[:, self._n_own :]) if len(self._fields.low) else {}

    # -- what follows from it --------------------------------------------------------------------------------------

    @cached_property
    def dt(self) -> float:
        """Seconds per step of the environment."""
        return self.model.opt.timestep * self.frame_skip

    @property
    def task_labels(self) -> list[str]:
        """What each number of a task is: ``task[0]``, or a field, with the name and the place in it."""
        return [f"task[{i}]" for i in range(self._n_own)] + self._fields.labels

    @cached_property
    def observation_space(self) -> spaces.Box:
        """The space of what ``observe`` returns, without bounds."""
        observations = self._probe[1]
        return spaces.Box(-np.inf, np.inf, observations.shape[1:], observations.dtype.type)

    @property
    def fields(self) -> frozenset[str]:
        """Names of the fields of MjData that the functions read."""
        return self._probe[0]

    @cached_property
    def refreshes(self) -> bool:
        """Whether positions and velocities of bodies, sites and sensors are computed anew after a step."""
        return self.current_fields and any(map(is_computed, self.fields))

    def register(self, env_id: str, max_episode_steps: int) -> None:
        """
        Register the family with Gymnasium, the single and the batched form under one id.

        :param env_id: such as "MyArm-v0"; a family that has it already is replaced
        :param max_episode_steps: steps after which an episode is truncated
        :raises ValueError: if something else has this id, or a function of the family returns what does not fit
        """
        if (
            isinstance(max_episode_steps, bool)
            or not isinstance(max_episode_steps, (int, np.integer))
            or max_episode_steps < 1
        ):
            raise ValueError(f"`max_episode_steps` must be a positive integer, got {max_episode_steps!r}.")
        spec = gym.registry.get(env_id)
        if spec is not None and not isinstance(spec.kwargs.get("family"), MujocoFamily):
            raise ValueError(f"`env_id` must be one that is not registered for something else, got {env_id!r}.")
        _ = self.observation_space  # functions that do not fit are found now
        gym.registry.pop(env_id, None)
        gym.register(
            env_id,
            entry_point="sb3_sgmrl.envs.mujoco_single:MujocoTaskEnv",
            vector_entry_point="sb3_sgmrl.envs.mujoco_batch:MujocoTaskVectorEnv",
            max_episode_steps=int(max_episode_steps),
            kwargs={"family": self},
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> MujocoFamily:
        # Gymnasium copies the arguments of an environment many times; a family does not change.
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(self.task_labels[:6])}{', ...' if len(self.task_labels) > 6 else ''}>"

    # -- for the two forms -----------------------------------------------------------------------------------------

    def make_state(self, field: Callable[[str], np.ndarray]) -> MujocoState:
        """
        :param field: gives the rows of a field of MjData by its name
        :return: what the functions read
        """
        return MujocoState(self.model, field, self._ids)

    def unread(self, name: str) -> AttributeError:
        """
        :param name: of a field of MjData that the functions did not read when they were tried
        :return: the error
        """
        return AttributeError(f"{type(self).__name__} must read {name!r} in every state or in none, not in some.")

    def controls(self, actions: np.ndarray) -> np.ndarray:
        """
        :param actions: shape (n, nu)
        :return: what reaches the actuators, shape (n, nu), dtype float64
        :raises ValueError: if the actions have another shape
        """
        controls = np.array(actions, dtype=np.float64)
        if controls.shape[1:] != self._control_low.shape:
            raise ValueError(f"An action must have the shape {self._control_low.shape}, got {controls.shape[1:]}.")
        if self._action_bound is not None:
            controls += self._action_bound
            controls *= (self._control_high - self._control_low) / (2 * self._action_bound)
            controls += self._control_low
        np.maximum(controls, self._control_low, out=controls)  # quicker than np.clip
        return np.minimum(controls, self._control_high, out=controls)

    def observations(self, state: MujocoState, n: int) -> np.ndarray:
        """
        :param state: the state
        :param n: number of rows
        :return: what ``observe`` returns
        :raises ValueError: if that does not fit
        """
        _, observations = self._probe
        return self._checked("observe", self.observe(state), (n, observations.shape[1]), observations.dtype)

    def first_state(self, rng: np.random.Generator, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        :param rng: the generator of the episode
        :param task: its task
        :return: what ``draw_state`` returns
        :raises ValueError: if that does not fit
        """
        drawn = self.draw_state(rng, frozen(task))
        if not (isinstance(drawn, tuple) and [np.shape(part) for part in drawn] == [(self.model.nq,), (self.model.nv,)]):
            got = [np.shape(part) for part in drawn] if isinstance(drawn, tuple) else drawn
            raise ValueError(
                f"`draw_state` must return positions of shape ({self.model.nq},) and velocities of shape ({self.model.nv},), "
                f"got {got}."
            )
        return drawn

    def outcome(self, state: MujocoState, controls: np.ndarray, tasks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        :param state: the state after the step
        :param controls: what reached the actuators, shape (n, nu)
        :param tasks: the tasks in force, shape (n, numbers of a task)
        :return: what ``reward`` and ``terminated`` return
        :raises ValueError: if that does not fit
        """
        n = len(tasks)
        rewards = self._checked("reward", self.reward(state, controls, tasks), (n,), _FLOAT)
        return rewards, self._checked("terminated", self.terminated(state, tasks), (n,), _BOOL)

    def put_in_force(self, model: mujoco.MjModel, data: mujoco.MjData, tasks: np.ndarray) -> None:
        """
        Give a model the fields of a task, and reset its data.

        :param model: a copy of the family's model
        :param data: of that model
        :param tasks: one task, shape (1, numbers of a task)
        """
        if values := self.model_values(tasks):
            for name, value in values.items():
                set_model_field(model, name, value[0])
            mujoco.mj_setConst(model, data)
        mujoco.mj_resetData(model, data) if self.keyframe < 0 else mujoco.mj_resetDataKeyframe(model, data, self.keyframe)

    @cached_property
    def _probe(self) -> tuple[frozenset[str], np.ndarray]:
        """Names of the fields that the functions read, and observations of one state in several rows."""
        n = self.model.nq + self.model.nv + self.model.nu + len(self.default_task) + 2  # like no other length
        model = deepcopy(self.model)
        data = mujoco.MjData(model)
        read: set[str] = set()

        def field(name: str) -> np.ndarray:
            check_field(data, name)
            read.add(name)
            return frozen(np.repeat(np.asarray(getattr(data, name))[None], n, axis=0))

        tasks = frozen(np.repeat(self.default_task[None], n, axis=0))
        self.put_in_force(model, data, tasks[:1])
        data.qpos[:], data.qvel[:] = self.first_state(np.random.default_rng(0), self.default_task)
        mujoco.mj_forward(model, data)
        state = self.make_state(field)
        observations = np.asarray(self.observe(state))
        if observations.ndim != 2 or len(observations) != n or observations.dtype not in (np.float64, np.float32):
            raise ValueError(
                f"`observe` of {type(self).__name__} must return an array of shape ({n}, size) for {n} episodes and of dtype "
                f"float64 or float32, got {observations.shape} and {observations.dtype}."
            )
        state.before = self.remember(state)
        controls = np.repeat((self._control_low + self._control_high)[None] / 2, n, axis=0)
        self.outcome(state, controls, tasks)
        for name, told in self.info(state, controls, tasks).items():
            if not isinstance(told, np.ndarray) or told.shape[:1] != (n,):
                raise ValueError(
                    f"`info` of {type(self).__name__} must hold arrays of {n} rows for {n} episodes, got {name!r}."
                )
        return frozenset(read), observations

    def _checked(self, name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        array = np.asarray(value)
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(
                f"`{name}` of {type(self).__name__} must return an array of shape {shape} for {shape[0]} episodes and of "
                f"dtype {dtype}, got {array.shape} and {array.dtype}."
            )
        return array


def _task_bounds(space: Any) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"`task_space` must be a Box of shape (k,), got {space!r}.")
    return read_bounds("`task_space`", space)

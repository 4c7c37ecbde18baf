"""Task families on a MuJoCo model. A family defines the single and the batched environment."""

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
    names_of,
    read_bounds,
    set_model_field,
)
from sb3_sgmrl.envs.mujoco_state import MujocoState, check_field, frozen, is_computed
from sb3_sgmrl.tasks.family import TaskFamily

_FLOAT, _BOOL = np.dtype(np.float64), np.dtype(bool)


class MujocoFamily(TaskFamily):
    """
    Tasks on a MuJoCo model of your own. Derive from it and write ``reward``; the other methods have defaults.

    A task holds the numbers of ``task_space``, then those of ``factors``, then those of ``values``. The bounds of a field
    are a pair (low, high) or a ``Box``: for one number, for one per row, or for all numbers of the field. A dictionary
    from names to bounds selects rows instead: ``{"body_mass": {"payload": (0.1, 2.0)}}``. Inertias follow the masses, except
    when you name ``body_inertia``, too. Fields take effect when an episode begins, with all constants that MuJoCo derives
    from them.

    In all methods, n is the number of parallel episodes. A row of a result may depend on the same row of the arguments
    only.

    :param model: An XML file, its text, or an ``MjModel``, which is copied
    :param frame_skip: The number of simulator steps per environment step
    :param task_space: The space of the numbers that ``reward`` uses, a ``Box`` of shape (k,) with finite bounds
    :param factors: The model fields to multiply by numbers of the task, with the bounds of these numbers
    :param values: The model fields to set to numbers of the task, with their bounds
    :param default_task: The task of a fresh environment; the default has factors of 1, the model's own values and the middle
        of ``task_space``
    :param sensors: The name or names of the sensors that ``observe`` appends
    :param reset_noise: The greatest distance of initial positions and velocities from the model's; they are drawn uniformly
    :param keyframe: The name of the model's keyframe in which episodes begin; the default is ``qpos0`` at rest
    :param action_bound: The bound of the action space [-action_bound, action_bound], which is mapped linearly onto the
        actuator ranges
    :raises ValueError: When an argument does not fit the model, or there are no tasks
    """

    #: Camera of Gymnasium's ``MujocoRenderer``, such as {"distance": 3.0}; ``None`` for MuJoCo's free camera.
    default_camera_config: dict[str, Any] | None = None
    #: Whether fields computed from positions and velocities, such as ``site_xpos``, belong to the state after the step. If
    #: not, they are one simulator step behind, as in Gymnasium's environments. Forces are always those of the last such step.
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
        self.sensors = (sensors,) if isinstance(sensors, str) else tuple(sensors)
        self._ids: dict[Any, Any] = {}
        known = names_of(self.model, mujoco.mjtObj.mjOBJ_SENSOR)
        if not set(self.sensors) <= set(known):
            raise ValueError(f"`sensors` must name sensors of the model, which has {known}, got {list(self.sensors)}.")
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
        low, high = (np.broadcast_to(np.asarray(side, np.float32), (self.model.nu,)) for side in bounds)
        self.action_space = spaces.Box(low, high, dtype=np.float32)

    # -- methods that a family overrides ---------------------------------------------------------------------------

    def reward(self, state: MujocoState, controls: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        """
        Reward a step.

        :param state: The state after the step
        :param controls: The controls that reached the actuators, shape (n, nu)
        :param tasks: The current tasks, shape (n, numbers of a task)
        :return: The rewards, shape (n,), dtype float64
        """
        raise NotImplementedError(f"{type(self).__name__} must have a method `reward(state, controls, tasks)`.")

    def observe(self, state: MujocoState) -> np.ndarray:
        """
        Compute observations. The default returns positions, velocities and ``sensors``.

        :param state: The state
        :return: The observations, shape (n, size), dtype float64 or float32
        """
        return np.concatenate([state.qpos, state.qvel, *map(state.sensor, self.sensors)], axis=1)

    def terminated(self, state: MujocoState, tasks: np.ndarray) -> np.ndarray:
        """
        Decide which episodes end. The default ends none.

        :param state: The state after the step
        :param tasks: The current tasks, shape (n, numbers of a task)
        :return: Whether each episode ends, shape (n,), dtype bool
        """
        return np.zeros(len(tasks), dtype=bool)

    def draw_state(self, rng: np.random.Generator, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Draw the initial state of an episode. The default adds ``reset_noise`` to the model's initial state.

        :param rng: The generator of the episode
        :param task: The task of the episode
        :return: The generalised positions (nq,) and velocities (nv,)
        """
        noise = self.reset_noise
        qpos = self.init_qpos + rng.uniform(-noise, noise, self.init_qpos.shape)
        return qpos, self.init_qvel + rng.uniform(-noise, noise, self.init_qvel.shape)

    def remember(self, state: MujocoState) -> np.ndarray | None:
        """
        Store what ``reward`` needs of the state before the step; ``reward`` reads it as ``state.before``.

        :param state: The state before the step
        :return: An array of shape (n, ...), or ``None``
        """
        return None

    def info(self, state: MujocoState, controls: np.ndarray, tasks: np.ndarray) -> dict[str, np.ndarray]:
        """
        Compute the ``info`` of a step in the single environment. The default is empty.

        :param state: The state after the step
        :param controls: The controls that reached the actuators, shape (n, nu)
        :param tasks: The current tasks, shape (n, numbers of a task)
        :return: The arrays of shape (n, ...) by name
        """
        return {}

    def model_values(self, tasks: np.ndarray) -> dict[str, np.ndarray]:
        """
        Compute the model fields in which tasks differ.

        :param tasks: The tasks, shape (n, numbers of a task)
        :return: The fields of MjModel by name, shape (n, ...)
        """
        return self._fields.arrays(tasks[:, self._n_own :]) if len(self._fields.low) else {}

    # -- properties and registration -------------------------------------------------------------------------------

    @cached_property
    def dt(self) -> float:
        """Seconds per step of the environment."""
        return self.model.opt.timestep * self.frame_skip

    @property
    def task_labels(self) -> list[str]:
        """The label of each number of a task: ``task[0]``, or a field with the name and the place in it."""
        return [f"task[{i}]" for i in range(self._n_own)] + self._fields.labels

    @cached_property
    def observation_space(self) -> spaces.Box:
        """The space of the observations of ``observe``, without bounds."""
        observations = self._probe[1]
        return spaces.Box(-np.inf, np.inf, observations.shape[1:], observations.dtype.type)

    @property
    def fields(self) -> frozenset[str]:
        """The names of the fields of MjData that the functions read."""
        return self._probe[0]

    @cached_property
    def refreshes(self) -> bool:
        """Whether positions and velocities of bodies, sites and sensors are recomputed after a step."""
        return self.current_fields and any(map(is_computed, self.fields))

    def register(self, env_id: str, max_episode_steps: int) -> None:
        """
        Register the family with Gymnasium, the single and the batched form under one id.

        :param env_id: The id, such as "MyArm-v0"; an existing family of this id is replaced
        :param max_episode_steps: The number of steps after which an episode is truncated
        :raises ValueError: When the id belongs to something else, or a function of the family returns a wrong shape or dtype
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
        _ = self.observation_space  # raises errors of the family's functions now
        gym.registry.pop(env_id, None)
        gym.register(
            env_id,
            entry_point="sb3_sgmrl.envs.mujoco_single:MujocoTaskEnv",
            vector_entry_point="sb3_sgmrl.envs.mujoco_batch:MujocoTaskVectorEnv",
            max_episode_steps=int(max_episode_steps),
            kwargs={"family": self},
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> MujocoFamily:
        # Gymnasium copies the arguments of an environment often, and a family never changes.
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(self.task_labels[:6])}{', ...' if len(self.task_labels) > 6 else ''}>"

    # -- for the two forms -----------------------------------------------------------------------------------------

    def make_state(self, field: Callable[[str], np.ndarray]) -> MujocoState:
        """
        Make the state that the family's functions read.

        :param field: The function that returns the rows of a field of MjData by name
        :return: The state that the functions read
        """
        return MujocoState(self.model, field, self._ids)

    def unread(self, name: str) -> AttributeError:
        """
        Make the error for a field that only some states read.

        :param name: The name of a field of MjData that the functions did not read in the probe
        :return: The error
        """
        return AttributeError(f"{type(self).__name__} must read {name!r} in every state or in none, not in some.")

    def controls(self, actions: np.ndarray) -> np.ndarray:
        """
        Map actions to controls.

        :param actions: The actions, shape (n, nu)
        :return: The controls that reach the actuators, shape (n, nu), dtype float64
        :raises ValueError: When the actions have another shape
        """
        controls = np.array(actions, dtype=np.float64)
        if controls.shape[1:] != self._control_low.shape:
            raise ValueError(f"`action` must have the shape {self._control_low.shape}, got {controls.shape[1:]}.")
        if self._action_bound is not None:
            controls += self._action_bound
            controls *= (self._control_high - self._control_low) / (2 * self._action_bound)
            controls += self._control_low
        np.maximum(controls, self._control_low, out=controls)  # faster than np.clip
        return np.minimum(controls, self._control_high, out=controls)

    def observations(self, state: MujocoState, n: int) -> np.ndarray:
        """
        Call ``observe`` and check its result.

        :param state: The state
        :param n: The number of rows
        :return: The observations, as ``observe`` returns them
        :raises ValueError: When their shape or dtype is wrong
        """
        _, observations = self._probe
        return self._checked("observe", self.observe(state), (n, observations.shape[1]), observations.dtype)

    def first_state(self, rng: np.random.Generator, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Call ``draw_state`` and check its result.

        :param rng: The generator of the episode
        :param task: The task of the episode
        :return: The positions (nq,) and velocities (nv,), as ``draw_state`` returns them
        :raises ValueError: When their shape or dtype is wrong
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
        Call ``reward`` and ``terminated`` and check their results.

        :param state: The state after the step
        :param controls: The controls that reached the actuators, shape (n, nu)
        :param tasks: The current tasks, shape (n, numbers of a task)
        :return: The results of ``reward`` and ``terminated``
        :raises ValueError: When their shape or dtype is wrong
        """
        n = len(tasks)
        rewards = self._checked("reward", self.reward(state, controls, tasks), (n,), _FLOAT)
        return rewards, self._checked("terminated", self.terminated(state, tasks), (n,), _BOOL)

    def put_in_force(self, model: mujoco.MjModel, data: mujoco.MjData, tasks: np.ndarray) -> None:
        """
        Set the model fields of a task, and reset the data.

        :param model: A copy of the family's model
        :param data: The data of that model
        :param tasks: One task, shape (1, numbers of a task)
        """
        if values := self.model_values(tasks):
            for name, value in values.items():
                set_model_field(model, name, value[0])
            mujoco.mj_setConst(model, data)
        mujoco.mj_resetData(model, data) if self.keyframe < 0 else mujoco.mj_resetDataKeyframe(model, data, self.keyframe)

    @cached_property
    def _probe(self) -> tuple[frozenset[str], np.ndarray]:
        """The names of the fields that the functions read, and observations of one state in several rows."""
        n = self.model.nq + self.model.nv + self.model.nu + len(self.default_task) + 2  # different from every other length
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

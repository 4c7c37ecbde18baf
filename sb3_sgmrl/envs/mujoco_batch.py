"""The batched environment of a MuJoCo family, on a thread pool."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import mujoco
import numpy as np

from sb3_sgmrl.envs.mujoco_family import MujocoFamily
from sb3_sgmrl.envs.mujoco_single import MujocoTaskEnv
from sb3_sgmrl.envs.mujoco_state import MujocoState, frozen
from sb3_sgmrl.util.threads import n_processors, under_torchrun
from sb3_sgmrl.vec_env.task_vector_env import Columns, TaskVectorEnv, take_columns


class MujocoTaskVectorEnv(TaskVectorEnv):
    """
    The batched environment of a MuJoCo family, stepped by ``mujoco.batch.Batch``. Observations, rewards and terminations
    equal those of the single environment to the bit, whatever the number of threads.

    :param num_envs: The number of columns
    :param family: The family
    :param max_episode_steps: The number of steps after which an episode is truncated; ``None`` for no limit
    :param n_threads: The number of threads that run the simulator; ``None`` for one per CPU
    :param render_mode: The render mode, ``None`` or "rgb_array"
    :param picture: The arguments of the single environment for rendering, such as ``width`` or ``camera_name``
    :raises ImportError: When MuJoCo is older than 3.17, the first version with ``mujoco.batch``
    :raises ValueError: When an argument is out of range
    """

    family: MujocoFamily

    def __init__(
        self,
        num_envs: int,
        family: MujocoFamily,
        max_episode_steps: int | None = None,
        n_threads: int | None = None,
        render_mode: str | None = None,
        **picture: Any,
    ):
        if n_threads is not None and n_threads < 1:
            raise ValueError(f"`n_threads` must be at least 1 or None, got {n_threads}.")
        super().__init__(num_envs, family, family.observation_space, family.action_space, max_episode_steps, render_mode)
        self._n_threads = n_threads
        self._picture = picture
        self._stage = mujoco.mjtStage.mjSTAGE_VEL if family.refreshes else mujoco.mjtStage.mjSTAGE_NONE
        self._before: np.ndarray | None = None
        self._make_batch()

    def _make_batch(self) -> None:
        try:
            from mujoco.batch import Batch
        except ImportError as error:
            raise ImportError(
                f"The batched form of {type(self.family).__name__} needs mujoco>=3.17, but mujoco {mujoco.__version__} is"
                " installed."
            ) from error
        self._batch = Batch(
            self.family.model, self.num_envs, nthread=self._n_threads or (n_processors() if under_torchrun() else 0)
        )
        self._qpos, self._qvel, self._ctrl = (self._batch.bind(name) for name in ("qpos", "qvel", "ctrl"))
        self._views = {name: frozen(self._batch.bind(name)) for name in self.family.fields}
        values = self.family.model_values(self.family.default_task[None])
        self._model_fields = {name: self._batch.expand(name) for name in values}

    # The rows of a Batch's state can be pickled, but not the Batch itself.
    def __getstate__(self) -> dict[str, Any]:
        made = ("_batch", "_qpos", "_qvel", "_ctrl", "_views", "_model_fields", "_viewer")
        return {
            **{name: value for name, value in vars(self).items() if name not in made},
            "rows": self._batch.state.copy(),
            "values": {name: value.copy() for name, value in self._model_fields.items()},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        rows, values = state.pop("rows"), state.pop("values")
        vars(self).update(state)
        self._make_batch()
        self._set_model(np.arange(self.num_envs), values)
        self._batch.state[:] = rows

    def _set_model(self, columns: np.ndarray, values: dict[str, np.ndarray]) -> None:
        for name, value in values.items():
            self._model_fields[name][columns] = value
        if values:
            self._batch.set_const(columns)

    def _state(self, columns: Columns) -> MujocoState:
        def field(name: str) -> np.ndarray:
            if name not in self._views:
                raise self.family.unread(name)
            return take_columns(self._views[name], columns)

        return self.family.make_state(field)

    def _remember(self, columns: Columns, state: MujocoState) -> None:
        # Stored, because pickling keeps the state but not the values computed from it.
        if (remembered := self.family.remember(state)) is not None:
            if self._before is None:
                self._before = np.zeros((self.num_envs, *remembered.shape[1:]), remembered.dtype)
            self._before[columns] = remembered

    def _reset_columns(self, columns: np.ndarray) -> np.ndarray:
        drawn = [
            self.family.first_state(self.column_rng(column), task)
            for column, task in zip(columns.tolist(), self.tasks[columns], strict=True)
        ]
        self._set_model(columns, self.family.model_values(self.tasks[columns]))
        self._batch.reset(columns, keyframe=self.family.keyframe, stage=mujoco.mjtStage.mjSTAGE_NONE)
        self._qpos[columns], self._qvel[columns] = (np.stack(part) for part in zip(*drawn, strict=True))
        self._batch.forward(columns)
        state = self._state(columns)
        self._remember(columns, state)
        return self.family.observations(state, len(columns))

    def _step_columns(self, columns: Columns, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        family = self.family
        controls = family.controls(actions)
        self._ctrl[columns] = controls
        self._batch.step(columns if isinstance(columns, np.ndarray) else None, nstep=family.frame_skip, stage=self._stage)
        state = self._state(columns)
        if self._before is not None:
            state.before = take_columns(self._before, columns)
        rewards, terminations = family.outcome(state, controls, frozen(take_columns(self.tasks, columns)))
        observations = family.observations(state, len(controls))
        self._remember(columns, state)
        return observations, rewards, terminations

    @cached_property
    def _viewer(self) -> MujocoTaskEnv:
        return MujocoTaskEnv(self.family, self.render_mode, **self._picture)

    def _render_column(self, column: int) -> np.ndarray:
        self._batch.get_data(column, self._viewer.data)
        mujoco.mj_forward(self._viewer.model, self._viewer.data)
        return self._viewer.render()

    def close_extras(self, **kwargs: Any) -> None:
        if "_viewer" in vars(self):
            self._viewer.close()

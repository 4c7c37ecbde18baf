"""Task families on Gymnasium's MuJoCo robots: many environments at a time, on a thread pool."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from sb3_sgmrl.envs.mujoco_single import (
    AntTaskEnv,
    HalfCheetahTaskEnv,
    HopperTaskEnv,
    HumanoidTaskEnv,
    MujocoTaskEnv,
    SwimmerTaskEnv,
    Walker2dTaskEnv,
)
from sb3_sgmrl.vec_env.task_vector_env import Columns, TaskVectorEnv


class MujocoTaskVectorEnv(TaskVectorEnv):
    """
    Many robots, each with its own task, stepped by ``mujoco.batch.Batch``. Positions, velocities, rewards and terminations
    equal those of the single environment to the bit, whatever the number of threads.

    :param num_envs: number of columns
    :param max_episode_steps: steps after which an episode is truncated, ``None`` for never
    :param n_threads: threads that run the simulator, ``None`` for one per CPU
    :param kwargs: arguments of the single environment, ``MujocoTaskEnv``
    :raises ImportError: if MuJoCo is older than 3.17, which brought ``mujoco.batch``
    :raises ValueError: if an argument is out of range
    """

    single_class: type[MujocoTaskEnv]

    def __init__(self, num_envs: int, max_episode_steps: int | None = 200, n_threads: int | None = None, **kwargs: Any):
        if n_threads is not None and n_threads < 1:
            raise ValueError(f"n_threads must be at least 1 or None, got {n_threads}.")
        # Holds the model and what is computed from it; its own simulation is used for rendering only.
        self._single = self.single_class(**kwargs)
        super().__init__(
            num_envs,
            self._single.family,
            self._single.observation_space,
            self._single.action_space,
            max_episode_steps,
            self._single.render_mode,
        )
        self._n_threads = n_threads
        self._make_batch()
        self._before = np.zeros(self._position.shape)
        self._buffer = np.empty_like(self._observations)

    def _make_batch(self) -> None:
        try:
            from mujoco.batch import Batch
        except ImportError as error:
            raise ImportError(
                f"The batched form of {self.single_class.__name__} needs mujoco>=3.17, but mujoco {mujoco.__version__} is"
                " installed."
            ) from error
        self._batch = Batch(self._single.model, self.num_envs, nthread=self._n_threads or 0)
        self._qpos, self._qvel, self._ctrl = (self._batch.bind(field) for field in ("qpos", "qvel", "ctrl"))
        self._position = self._single.position(self._batch.bind)
        self._model_fields = {
            name: self._batch.expand(name) for name in self._single.family.model_values(self._single.family.default_task[None])
        }

    # A Batch cannot be pickled, but the rows of its state can.
    def __getstate__(self) -> dict[str, Any]:
        views = ("_batch", "_qpos", "_qvel", "_ctrl", "_position", "_model_fields")
        return {
            **{name: value for name, value in vars(self).items() if name not in views},
            "rows": self._batch.state.copy(),
            "fields": {name: value.copy() for name, value in self._model_fields.items()},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        rows, fields = state.pop("rows"), state.pop("fields")
        vars(self).update(state)
        self._make_batch()
        self._set_model(np.arange(self.num_envs), fields)
        self._batch.state[:] = rows

    def _set_model(self, columns: np.ndarray, values: dict[str, np.ndarray]) -> None:
        for name, value in values.items():
            self._model_fields[name][columns] = value
        if values:
            self._batch.set_const(columns)

    def _reset_columns(self, columns: np.ndarray) -> np.ndarray:
        qpos = np.empty((len(columns), self._qpos.shape[1]))
        qvel = np.empty((len(columns), self._qvel.shape[1]))
        for row, column in enumerate(columns.tolist()):
            qpos[row], qvel[row] = self._single.draw_state(self.column_rng(column))
        self._set_model(columns, self._single.family.model_values(self.tasks[columns]))
        self._batch.reset(columns, stage=mujoco.mjtStage.mjSTAGE_NONE)
        self._qpos[columns], self._qvel[columns] = qpos, qvel
        self._batch.forward(columns)
        self._before[columns] = self._position[columns]
        return self._single.observe(qpos, qvel, self._buffer[: len(columns)])

    def _step_columns(self, columns: Columns, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        single = self._single
        controls = single.controls(actions)
        self._ctrl[columns] = controls
        self._batch.step(columns if isinstance(columns, np.ndarray) else None, nstep=single.frame_skip)
        qpos, qvel, positions = self._qpos[columns], self._qvel[columns], self._position[columns]
        velocities = (positions - self._before[columns]) / single.dt
        self._before[columns] = positions
        healthy = single.healthy(qpos, qvel)
        rewards, terminations, _ = single.outcome(self.tasks[columns], controls, velocities, positions, healthy)
        return single.observe(qpos, qvel, self._buffer[: len(controls)]), rewards, terminations

    def _render_column(self, column: int) -> np.ndarray:
        self._batch.get_data(column, self._single.data)
        mujoco.mj_forward(self._single.model, self._single.data)
        return self._single.render()

    def close_extras(self, **kwargs: Any) -> None:
        self._single.close()


class HalfCheetahTaskVectorEnv(MujocoTaskVectorEnv):
    """Many half cheetahs."""

    single_class = HalfCheetahTaskEnv


class SwimmerTaskVectorEnv(MujocoTaskVectorEnv):
    """Many swimmers."""

    single_class = SwimmerTaskEnv


class HopperTaskVectorEnv(MujocoTaskVectorEnv):
    """Many hoppers."""

    single_class = HopperTaskEnv


class Walker2dTaskVectorEnv(MujocoTaskVectorEnv):
    """Many walkers."""

    single_class = Walker2dTaskEnv


class AntTaskVectorEnv(MujocoTaskVectorEnv):
    """Many ants."""

    single_class = AntTaskEnv


class HumanoidTaskVectorEnv(MujocoTaskVectorEnv):
    """Many humanoids."""

    single_class = HumanoidTaskEnv

"""Use the batched form of a task family as a VecEnv of Stable-Baselines3."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from sb3_sgmrl.data import streams
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv
from sb3_sgmrl.vec_env.task_vector_env import TaskVectorEnv


class TaskVecEnv(VecEnv):
    """
    A VecEnv whose workers are the columns of a batched environment.

    Each worker behaves like ``Monitor(TaskDistEnv(...))``. Infos, however, are empty except at the end of an episode and in
    idle columns.

    A column without a schedule and without a pinned task draws a task at each reset. The template answers every
    ``env_method`` and ``get_attr`` that does not concern the current tasks.

    :param vector_env: The batched environment
    :param template: The single form of the same family, which is never stepped
    :raises ValueError: When the two differ in a space or the time limit, or the template has a custom ``set_task``
    """

    def __init__(self, vector_env: TaskVectorEnv, template: TaskDistEnv):
        for name, ours, theirs in (
            ("observation_space", vector_env.single_observation_space, template.observation_space),
            ("action_space", vector_env.single_action_space, template.action_space),
            ("horizon", vector_env.max_episode_steps, template.horizon),
        ):
            if ours != theirs:
                raise ValueError(f"`template` must have the {name} of `vector_env`, {ours}, got {theirs}.")
        if not template.sets_own_tasks:
            raise ValueError(
                "`template` must use the `set_task` of its family, as the columns do, got a TaskDistEnv(..., set_task=...)."
            )
        self.vector_env = vector_env
        self.template = template
        vector_env.choose_task = self._choose_task
        self._column_methods: dict[str, Callable[..., Any]] = {
            "set_task": self._set_task,
            "get_task": self._get_task,
            "get_pinned_task": self._get_pinned_task,
            "set_schedule": vector_env.set_schedule,
        }
        # Columns inherit a pinned task of the template, like workers that are clones.
        self._pinned: list[Any] = [template.get_pinned_task()] * vector_env.num_envs
        if self._pinned[0] is not None:
            vector_env.set_tasks(self._pinned)
        self._actions: np.ndarray | None = None
        self._returns = np.zeros(vector_env.num_envs)
        self._lengths = np.zeros(vector_env.num_envs, dtype=np.int64)
        self._start_time = time.time()
        # Reuse the dictionaries, because hundreds of new ones per step would cost as much as the policy.
        self._blank_infos: list[dict[str, Any]] = [{} for _ in range(vector_env.num_envs)]
        super().__init__(vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space)
        self.metadata = template.metadata

    # -- playing ---------------------------------------------------------------------------------------------------

    def reset(self) -> np.ndarray:
        """
        Begin a new episode in every column, with the seeds given to ``seed``.

        :return: The observations, shape (num_envs, *observation_space.shape)
        """
        observations, _ = self.vector_env.reset(seed=self._seeds)
        self._reset_seeds()
        self._reset_options()
        self._returns[:] = 0.0
        self._lengths[:] = 0
        self._note_resets(np.arange(self.num_envs))
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """
        Store the actions of the next step.

        :param actions: The actions, shape (num_envs, *action_space.shape)
        """
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """
        Play the step.

        :return: The observations, rewards (float32, as in DummyVecEnv), dones and infos
        """
        assert self._actions is not None, "Call step_async() before step_wait()."
        observations, rewards, terminations, truncations, batch_infos = self.vector_env.step(self._actions)
        if any(self._blank_infos):  # a caller has changed them
            self._blank_infos = [{} for _ in range(self.num_envs)]
        infos = self._blank_infos.copy()
        self._returns += rewards
        self._lengths += 1
        if "idle" in batch_infos:
            for column in np.flatnonzero(batch_infos["idle"]).tolist():
                infos[column] = {"idle": True}
        if "final_obs" not in batch_infos:
            return observations, rewards.astype(np.float32), np.zeros(self.num_envs, dtype=bool), infos
        dones = terminations | truncations
        self._end_episodes(np.flatnonzero(dones), truncations & ~terminations, batch_infos, infos)
        return observations, rewards.astype(np.float32), dones, infos

    def _end_episodes(
        self, columns: np.ndarray, timeouts: np.ndarray, batch_infos: dict[str, Any], infos: list[dict[str, Any]]
    ) -> None:
        seconds = round(time.time() - self._start_time, 6)
        tasks, final_obs = batch_infos["final_info"]["task"], batch_infos["final_obs"]
        returns, lengths, is_timeout = self._returns.tolist(), self._lengths.tolist(), timeouts.tolist()
        for column in columns.tolist():
            infos[column] = {
                "task": tasks[column],
                "terminal_observation": final_obs[column],
                "TimeLimit.truncated": is_timeout[column],
                "episode": {"r": round(returns[column], 6), "l": lengths[column], "t": seconds},
            }
        self._note_resets(columns)
        self._returns[columns] = 0.0
        self._lengths[columns] = 0

    def _note_resets(self, columns: np.ndarray) -> None:
        for column, task in zip(columns.tolist(), self.vector_env.tasks[columns], strict=True):
            self.reset_infos[column] = {"task": task}
        for column in columns[self.vector_env.idle[columns]].tolist():
            self.reset_infos[column]["idle"] = True

    def close(self) -> None:
        """Close the batched environment and the template."""
        self.vector_env.close()
        self.template.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """
        Render the first column only, because hundreds of images are of no use.

        :return: The image of the first column
        """
        images = self.vector_env.render([0])
        return [None] if images is None else images

    # -- tasks of a column -----------------------------------------------------------------------------------------

    def _choose_task(self, column: int, seed: int | None) -> Any:
        if self._pinned[column] is not None:
            return self._pinned[column]
        rng = self.vector_env.column_rng(column) if seed is None else [seed, streams.TASK]
        return self.template.sample_tasks(1, rng)[0]

    def _set_task(self, column: int, task: Any) -> None:
        if task is not None:
            task = self.template.check_task(task)
            if not self.vector_env.has_schedule(column):
                self.vector_env.set_task(column, task)
        self._pinned[column] = task

    def _get_task(self, column: int) -> Any:
        return deepcopy(self.vector_env.tasks[column])

    def _get_pinned_task(self, column: int) -> Any:
        return deepcopy(self._pinned[column])

    # -- VecEnv's access to workers --------------------------------------------------------------------------------

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """
        Call a method of workers.

        :param method_name: The name of the method: ``set_task``, ``get_task`` or ``set_schedule``, or any method of the
            template that does not play
        :param method_args: The arguments of the method
        :param indices: The indices of the workers; ``None`` for all
        :param method_kwargs: The keyword arguments of the method
        :return: One answer per worker
        :raises ValueError: When the method is ``reset`` or ``step``, because the columns are played together
        """
        if method_name in ("reset", "step"):
            raise ValueError(f"`method_name` must not be {method_name!r}: call {method_name}() of the TaskVecEnv.")
        if method_name == "ask_task_dist_env":
            return self._ask(*method_args, indices=indices, **method_kwargs)
        columns = self._get_indices(indices)
        if method_name in self._column_methods:
            column_method = self._column_methods[method_name]
            return [column_method(column, *method_args, **method_kwargs) for column in columns]
        method = self.template.get_wrapper_attr(method_name)
        return [method(*method_args, **method_kwargs) for _ in columns]

    def _ask(self, name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        if name in self._column_methods or callable(getattr(self.template, name)):
            return self.env_method(name, *args, indices=indices, **kwargs)
        return [getattr(self.template, name) for _ in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        Read an attribute of the template.

        :param attr_name: The name of the attribute
        :param indices: The indices of the workers; ``None`` for all
        :return: One answer per worker
        """
        is_ours = attr_name == "render_mode"
        value = self.vector_env.render_mode if is_ours else self.template.get_wrapper_attr(attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        Set an attribute of the template. ``get_attr`` then returns it, but the dynamics do not change.

        :param attr_name: The name of the attribute
        :param value: The new value
        :param indices: The indices of all workers, or ``None``
        :raises ValueError: When ``indices`` covers only some of the workers
        """
        if set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise ValueError(
                f"`indices` must be None or all workers, because all columns share their attributes, got {indices!r}."
            )
        setattr(self.template, attr_name, value)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """
        Check whether workers have a wrapper; all have ``TaskDistEnv`` and ``Monitor``.

        :param wrapper_class: The class of the wrapper
        :param indices: The indices of the workers; ``None`` for all
        :return: Whether each worker has this wrapper
        """
        wrapped = wrapper_class is Monitor or is_wrapped(self.template, wrapper_class)
        return [wrapped for _ in self._get_indices(indices)]

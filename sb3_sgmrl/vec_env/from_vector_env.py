"""Use vector environments of other packages as workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import TimeLimit

from sb3_sgmrl.tasks.distribution import Task
from sb3_sgmrl.tasks.family import TaskFamily
from sb3_sgmrl.tasks.seeds import SeededReset
from sb3_sgmrl.tasks.sources import check_takes
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv
from sb3_sgmrl.vec_env.task_vec_env import TaskVecEnv
from sb3_sgmrl.vec_env.task_vector_env import Columns, TaskVectorEnv

SetColumnTask = Callable[[Any, int, Any], Any]


def from_vector_env(
    vector_env: VectorEnv,
    set_task: SetColumnTask | None = None,
    *,
    max_episode_steps: int | None = None,
    task_space: spaces.Space | None = None,
    tasks: Iterable[Task] | None = None,
    weights: Sequence[float] | None = None,
    test_tasks: spaces.Space | Iterable[Task] | None = None,
    split: float | None = None,
    split_seed: int = 0,
) -> TaskVecEnv:
    """
    Turn the columns of a Gymnasium vector environment into workers that take tasks.

    Pass the result as ``env`` to an algorithm. The arguments on tasks are those of :class:`~sb3_sgmrl.TaskDistEnv`.

    The vector environment must reset a column in the step that ends its episode (``SAME_STEP``). Like Gymnasium's own
    environments, it must reset the columns of ``options["reset_mask"]`` with one seed each.

    A column is reset again after it gets its next task. Without a seed, initial states therefore differ from those of a
    single environment.

    :param vector_env: The vector environment
    :param set_task: A callable that takes the vector environment, the index of a column and a task, called before the
        reset of the column; the default is the environment's own ``set_task(column, task)``
    :param max_episode_steps: The maximum number of steps of an episode; the default is that of the environment's spec
    :param task_space: The space of the tasks; without this and ``tasks``, the environment needs a method
        ``sample_tasks(n, rng)``
    :param tasks: The finite list of training tasks
    :param weights: The non-negative weight of each task of the list
    :param test_tasks: The tasks kept for testing
    :param split: The fraction of the list that is held out, instead of ``test_tasks``
    :param split_seed: The seed that decides which tasks are held out
    :return: The VecEnv
    :raises ValueError: When ``vector_env`` lacks tasks or a time limit, resets in another way, or observes no arrays
    """
    if max_episode_steps is None and vector_env.spec is not None:
        max_episode_steps = vector_env.spec.max_episode_steps
    if max_episode_steps is None:
        raise ValueError("`vector_env` has no known time limit: pass `max_episode_steps`.")
    template = TaskDistEnv(
        TimeLimit(_Unplayed(vector_env), max_episode_steps),
        task_space=task_space,
        tasks=tasks,
        weights=weights,
        test_tasks=test_tasks,
        split=split,
        split_seed=split_seed,
    )
    return wrap_vector_env(vector_env, template, set_task)


def wrap_vector_env(vector_env: VectorEnv, template: TaskDistEnv, set_task: SetColumnTask | None = None) -> TaskVecEnv:
    """
    Turn a vector environment into a VecEnv with the tasks of a template.

    :param vector_env: The vector environment, as for :func:`from_vector_env`
    :param template: The environment that defines the tasks and the time limit
    :param set_task: The setter of the task of a column, as for :func:`from_vector_env`
    :return: The VecEnv
    :raises ValueError: When ``vector_env`` resets in another way, lacks ``set_task`` or observes no arrays
    :raises TypeError: When ``set_task`` takes other arguments
    """
    if vector_env.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
        mode = vector_env.metadata.get("autoreset_mode")
        raise ValueError(f"`vector_env` must have autoreset_mode=AutoresetMode.SAME_STEP, got {mode}.")
    observation_space = vector_env.single_observation_space
    if isinstance(observation_space, (spaces.Dict, spaces.Tuple)):
        raise ValueError(f"`vector_env` must have arrays as observations, got {observation_space}.")
    if set_task is None:
        own = getattr(vector_env.unwrapped, "set_task", None)
        if not callable(own):
            raise ValueError("`vector_env` has no method `set_task(column, task)`: pass `set_task`.")
        check_takes("`set_task` of `vector_env`", own, "column", "task")
        set_task = _own_set_task
    else:
        check_takes("`set_task`", set_task, "vector_env", "column", "task")
    return TaskVecEnv(_ForeignVectorEnv(vector_env, template, set_task, template.horizon), template)


def _own_set_task(vector_env: Any, column: int, task: Any) -> None:
    vector_env.unwrapped.set_task(column, task)


class _Unplayed(gym.Env):
    """Stands for one column where tasks are drawn and checked."""

    def __init__(self, vector_env: VectorEnv):
        self.observation_space = vector_env.single_observation_space
        self.action_space = vector_env.single_action_space
        self.metadata = vector_env.metadata
        for name in ("sample_tasks", "task_space"):
            if hasattr(vector_env.unwrapped, name):
                setattr(self, name, getattr(vector_env.unwrapped, name))

    def set_task(self, task: Any) -> None:
        """Ignore the task, because this environment is never played."""


class _ForeignTasks(TaskFamily):
    """Tasks of any kind, one per cell of an array."""

    def __init__(self, template: TaskDistEnv):
        self.template = template
        self.task_space = template.task_space  # type: ignore[assignment]
        self.default_task = np.array(None, dtype=object)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[Any]:
        return self.template.sample_tasks(n, rng)

    def check_tasks(self, tasks: Sequence[Any]) -> np.ndarray:
        checked = np.empty(len(tasks), dtype=object)
        for i, task in enumerate(tasks):
            checked[i] = self.template.check_task(task)
        return checked


class _ForeignVectorEnv(TaskVectorEnv):
    """Adds schedules, idle columns and seeds of episodes to an environment that supports only resets."""

    def __init__(
        self, vector_env: VectorEnv, template: TaskDistEnv, set_column_task: SetColumnTask, max_episode_steps: int | None
    ) -> None:
        self.vector_env = vector_env
        self._set_column_task = set_column_task
        super().__init__(
            vector_env.num_envs,
            _ForeignTasks(template),
            vector_env.single_observation_space,
            vector_env.single_action_space,
            max_episode_steps,
        )
        self.render_mode = vector_env.render_mode
        self._truncated = np.zeros(self.num_envs, dtype=bool)
        self._seeded_reset = SeededReset()
        # The last observations of the environment, including idle columns.
        self._given: np.ndarray | None = None

    def _reset_columns(self, columns: np.ndarray) -> np.ndarray:
        seeds: list[int | None] = [None] * self.num_envs
        mask = np.zeros(self.num_envs, dtype=bool)
        mask[columns] = True
        for column in columns.tolist():
            if self._rngs[column] is None and self._seeds[column] is not None:
                seeds[column] = self._seeds[column]
                self.column_rng(column)  # marks the seed as used
            if self.tasks[column] is None and self.choose_task is not None:  # the column has nothing to play yet
                self.set_task(column, self.choose_task(column, None))
            self._set_column_task(self.vector_env, column, self.tasks[column])
        options = {"reset_mask": mask}
        observations, _ = self._seeded_reset(lambda some: self.vector_env.reset(seed=some, options=options), seeds)  # type: ignore[arg-type]
        self._check_shape("reset", "observations", observations, self._observations.shape)
        if self._given is not None and not np.array_equal(observations[~mask], self._given[~mask], equal_nan=True):
            raise ValueError(
                f"`reset` of {type(self.vector_env.unwrapped).__name__} must reset the columns of options['reset_mask'] only, "
                "but the observations of other columns changed."
            )
        self._given = np.array(observations)
        return observations[columns]

    def _check_shape(self, method: str, what: str, values: Any, shape: tuple[int, ...]) -> None:
        if np.shape(values) != shape:
            name = type(self.vector_env.unwrapped).__name__
            raise ValueError(f"`{method}` of {name} must return {what} of shape {shape}, got {np.shape(values)}.")

    def _step_columns(self, columns: Columns, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        # Idle columns take the action of another column; their results are not used.
        all_actions = np.repeat(actions[:1], self.num_envs, axis=0)
        all_actions[columns] = actions
        observations, rewards, terminations, truncations, infos = self.vector_env.step(all_actions)
        self._check_shape("step", "observations", observations, self._observations.shape)
        for what, values in (("rewards", rewards), ("terminations", terminations), ("truncations", truncations)):
            self._check_shape("step", what, values, (self.num_envs,))
        self._given = np.array(observations)
        self._truncated = truncations
        dones = np.flatnonzero(terminations | truncations)
        if len(dones):
            observations = observations.copy()
            for column in dones.tolist():
                observations[column] = infos["final_obs"][column]
        return observations[columns], rewards[columns], terminations[columns]

    def _truncations(self) -> np.ndarray:
        return super()._truncations() | (self._truncated & ~self.idle)

    def render(self, columns: Iterable[int] | None = None) -> tuple[np.ndarray, ...] | None:
        images: Any = self.vector_env.render()
        return None if images is None else tuple(images[i] for i in columns or range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        self.vector_env.close(**kwargs)

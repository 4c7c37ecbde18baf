"""The base class of batched task families, which plays many episodes of different tasks side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from sb3_sgmrl.tasks.family import TaskFamily

# Columns of a batch: a slice of all of them, which makes indexing a free view, or their indices.
Columns = slice | np.ndarray


class TaskVectorEnv(VectorEnv):
    """
    Many independent episodes ("columns") of one task family, each with its own task and random generator.

    With the same task, seed and actions, a column equals the single environment of the family bit for bit. An episode is
    truncated at ``max_episode_steps``. The next one begins in the same step (``AutoresetMode.SAME_STEP``). A column can
    follow a schedule of (task, seed) pairs, see :meth:`set_schedule`.

    A family implements ``_reset_columns`` and ``_step_columns``, and optionally ``_render_column``. These methods read the
    current tasks from ``self.tasks``, an array of shape (num_envs, *task_space.shape). They draw random numbers from
    ``column_rng``.

    :param num_envs: The number of columns
    :param family: The family of tasks
    :param single_observation_space: The observation space of one column
    :param single_action_space: The action space of one column
    :param max_episode_steps: The number of steps after which an episode is truncated; ``None`` for no limit
    :param render_mode: A mode that the family supports, or ``None``
    :raises ValueError: When a number is below 1, or the family does not support ``render_mode``
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int,
        family: TaskFamily,
        single_observation_space: spaces.Space,
        single_action_space: spaces.Space,
        max_episode_steps: int | None,
        render_mode: str | None = None,
    ):
        if num_envs < 1:
            raise ValueError(f"`num_envs` must be at least 1, got {num_envs}.")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"`max_episode_steps` must be at least 1 or None, got {max_episode_steps}.")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"`render_mode` must be None or one of {self.metadata['render_modes']}, got {render_mode!r}.")
        self.num_envs = num_envs
        self.family = family
        self.task_space = family.task_space
        self.max_episode_steps = max_episode_steps
        self.render_mode = render_mode
        self.single_observation_space = single_observation_space
        self.single_action_space = single_action_space
        self.observation_space = batch_space(single_observation_space, num_envs)
        self.action_space = batch_space(single_action_space, num_envs)

        self.tasks = np.repeat(family.default_task[None], num_envs, axis=0)
        self.idle = np.zeros(num_envs, dtype=bool)
        # Chooses the task of an episode without schedule, given the column and the seed of its reset; None keeps the task.
        self.choose_task: Callable[[int, int | None], Any] | None = None
        self._schedules: list[list[tuple[np.ndarray, int]] | None] = [None] * num_envs
        self._seeds: list[int | None] = [None] * num_envs
        self._rngs: list[np.random.Generator | None] = [None] * num_envs
        self._observations = np.zeros((num_envs, *(single_observation_space.shape or ())), single_observation_space.dtype)
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._step_limit = np.iinfo(np.int64).max if max_episode_steps is None else max_episode_steps
        # The columns to step; None before the first reset.
        self._playing: Columns | None = None

    # -- to be written by a family ---------------------------------------------------------------------------------

    def _reset_columns(self, columns: np.ndarray) -> np.ndarray:
        """
        Begin an episode of ``self.tasks[columns]`` in each of the given columns.

        :param columns: The indices, shape (k,)
        :return: The first observations, shape (k, *single_observation_space.shape)
        """
        raise NotImplementedError

    def _step_columns(self, columns: Columns, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Play one step in each of the given columns.

        :param columns: The k columns to step: ``slice(None)`` or ascending indices
        :param actions: The actions, shape (k, *single_action_space.shape)
        :return: The observations, shape (k, *single_observation_space.shape), rewards (k,) and terminations (k,)
        """
        raise NotImplementedError

    def _render_column(self, column: int) -> np.ndarray:
        """
        Render the state of one column.

        :param column: The index of the column
        :return: The RGB image, shape (height, width, 3), dtype uint8
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be rendered: render the single environment instead.")

    # -- tasks, seeds and schedules --------------------------------------------------------------------------------

    def column_rng(self, column: int) -> np.random.Generator:
        """
        Return the random generator of a column.

        The generator is made on first use, because it costs more than many resets.

        :param column: The index of the column
        :return: The generator, equal to ``np_random`` of a single environment that was reset with the same seed
        """
        rng = self._rngs[column]
        if rng is None:
            rng = self._rngs[column] = seeding.np_random(self._seeds[column])[0]
        return rng

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[np.ndarray]:
        """
        Draw independent tasks of the family.

        :param n: The number of tasks
        :param rng: The only source of randomness
        :return: The list of ``n`` tasks
        """
        return self.family.sample_tasks(n, rng)

    def set_tasks(self, tasks: Sequence[Any]) -> None:
        """
        Set the task of every column.

        :param tasks: The tasks, one per column
        :raises ValueError: When the number of tasks is not ``num_envs``, or a task has the wrong size or is out of range
        """
        if len(tasks) != self.num_envs:
            raise ValueError(f"`tasks` must contain one task per column, {self.num_envs} in total, got {len(tasks)}.")
        self.tasks[:] = self.family.check_tasks(tasks)

    def set_task(self, column: int, task: Any) -> None:
        """
        Set the task of one column.

        :param column: The index of the column
        :param task: The task
        :raises ValueError: When the task has the wrong size or is out of range
        """
        self.tasks[column] = self.family.check_tasks([task])[0]

    def set_schedule(self, column: int, schedule: Sequence[tuple[Any, int]] | None) -> None:
        """
        Define the next episodes of a column by (task, seed).

        Each reset takes the next pair; the current episode continues. After the last pair, the column is idle: it keeps its
        observation, gets reward 0 and is never done.

        :param column: The index of the column
        :param schedule: The pairs of task and seed, or ``None`` for ordinary resets with the current task
        :raises ValueError: When a task has the wrong size or is out of range, or a seed is not a non-negative integer
        """
        if schedule is None:
            self._schedules[column] = None
            return
        tasks = self.family.check_tasks([task for task, _ in schedule]) if len(schedule) else ()
        episodes = []
        for task, (_, seed) in zip(tasks, schedule, strict=True):
            if not isinstance(seed, (int, np.integer)) or seed < 0:
                raise ValueError(f"`schedule` must contain non-negative integer seeds, got {seed!r}.")
            episodes.append((task, int(seed)))
        self._schedules[column] = episodes

    def has_schedule(self, column: int) -> bool:
        """
        Check whether a column has a schedule.

        :param column: The index of the column
        :return: Whether a schedule is in force, even an exhausted one
        """
        return self._schedules[column] is not None

    # -- Gymnasium's interface -------------------------------------------------------------------------------------

    def reset(  # type: ignore[override]  # several seeds, as Gymnasium's own vector environments
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Begin a new episode in every column. Columns with a schedule ignore their seed.

        :param seed: One seed per column, ``None``, or an integer that seeds column i with ``seed + i``
        :param options: The options, which are not used
        :return: The observations, shape (num_envs, *single_observation_space.shape), and an empty dictionary
        :raises ValueError: When the number of seeds is not ``num_envs``
        """
        if seed is None or isinstance(seed, (int, np.integer)):
            seeds = [None if seed is None else int(seed) + column for column in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(
                f"`seed` must be an integer or one seed per column, {self.num_envs} in total, got {len(seeds)} seeds."
            )
        self._begin_episodes(np.arange(self.num_envs), seeds)
        return self._observations.copy(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """
        Play one step in every column that is not idle.

        When an episode ends, ``infos`` has its last observation in ``final_obs`` (mask ``_final_obs``) and its task in
        ``final_info["task"]``. ``observations`` then has the first observation of the next episode.

        :param actions: The actions, shape (num_envs, *single_action_space.shape)
        :return: The observations, rewards (float64), terminations, truncations and infos
        :raises ResetNeeded: When ``reset`` has not been called
        """
        playing = self._playing
        if playing is None:
            raise ResetNeeded("Call `reset` before `step`.")
        infos: dict[str, Any] = {}
        rewards = np.zeros(self.num_envs)
        terminations = np.zeros(self.num_envs, dtype=bool)
        if isinstance(playing, slice) or len(playing):
            self._observations[playing], rewards[playing], terminations[playing] = self._step_columns(
                playing, take_columns(np.asarray(actions), playing)
            )
        self._elapsed += ~self.idle
        truncations = self._truncations()
        dones = terminations | truncations
        if isinstance(playing, np.ndarray):
            infos["idle"] = infos["_idle"] = self.idle.copy()
        if np.count_nonzero(dones):
            ended = np.flatnonzero(dones)
            infos["final_obs"], infos["_final_obs"] = self._rows(self._observations, ended), dones
            infos["final_info"], infos["_final_info"] = {"task": self._rows(self.tasks, ended), "_task": dones}, dones
            self._begin_episodes(ended, [None] * len(ended))
        return self._observations.copy(), rewards, terminations, truncations, infos

    def render(self, columns: Iterable[int] | None = None) -> tuple[np.ndarray, ...] | None:
        """
        Render columns.

        :param columns: The indices of the columns; ``None`` for all
        :return: One RGB image per column, or ``None`` without a render mode
        """
        if self.render_mode is None:
            return None
        return tuple(map(self._render_column, range(self.num_envs) if columns is None else columns))

    # -- internals -------------------------------------------------------------------------------------------------

    def _truncations(self) -> np.ndarray:
        """
        Check which columns have reached the step limit.

        :return: Whether the last step of each column was the last allowed one
        """
        return self._elapsed >= self._step_limit

    def _rows(self, values: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """
        Copy rows to an object array, as in Gymnasium's infos.

        :param values: The values, one row per column of the batch
        :param columns: The indices, shape (k,)
        :return: The copies, an object array of shape (num_envs,)
        """
        rows = np.full(self.num_envs, None, dtype=object)
        for column, row in zip(columns.tolist(), values[columns], strict=True):
            rows[column] = row
        return rows

    def _begin_episodes(self, columns: np.ndarray, seeds: Sequence[int | None]) -> None:
        """
        Take the next (task, seed) of each schedule, then reset all columns that have an episode to play.

        :param columns: The indices of the columns whose episode is over, shape (k,)
        :param seeds: The k seeds of columns without a schedule; ``None`` keeps the current generator
        """
        self.idle[columns] = False
        self._elapsed[columns] = 0
        for column, seed in zip(columns.tolist(), seeds, strict=True):
            schedule = self._schedules[column]
            if schedule is None:
                if self.choose_task is not None:
                    self.set_task(column, self.choose_task(column, seed))
            elif schedule:
                self.tasks[column], seed = schedule.pop(0)
            else:
                self.idle[column] = True
                continue
            if seed is not None:
                self._seeds[column] = int(seed)
                self._rngs[column] = None
        # At the first reset, idle columns need an observation too.
        starting = columns if self._playing is None else columns[~self.idle[columns]]
        if len(starting):
            self._observations[starting] = self._reset_columns(starting)
        self._playing = np.flatnonzero(~self.idle) if self.idle.any() else slice(None)


def take_columns(values: np.ndarray, columns: Columns) -> np.ndarray:
    """
    Take the rows of some or all columns.

    :param values: The values, one row per column of the batch
    :param columns: All columns, or the indices of some
    :return: The rows; a view for all columns
    """
    # Several times faster than indexing if rows are short.
    return values.take(columns, axis=0) if isinstance(columns, np.ndarray) else values

"""Wrap an environment with a distribution of tasks, the only form in which the algorithms see a task family."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.env_util import is_wrapped

from sb3_sgmrl.data import streams
from sb3_sgmrl.tasks.copies import is_heavy, own_copy
from sb3_sgmrl.tasks.distribution import Task, TaskDistribution
from sb3_sgmrl.tasks.drawing import DrawsTasks
from sb3_sgmrl.tasks.idempotence import apply_twice
from sb3_sgmrl.tasks.interface import check_reset, check_signatures, check_step, explain_step
from sb3_sgmrl.tasks.seeds import SeededReset
from sb3_sgmrl.tasks.sources import (
    Attributes,
    EnvLike,
    SetTask,
    find_tasks,
    make_env,
    make_members,
    make_setter,
    own_attribute,
    read_tasks,
    time_limit,
)
from sb3_sgmrl.util.processes import end_with_parent
from sb3_sgmrl.util.validation import check_positive

# Number of tasks that are set twice, to check that the second time changes nothing.
_TASKS_TO_CHECK = 2
# Keys of the last info of an episode that idle steps must not repeat.
_OF_AN_END = ("episode", "terminal_observation", "TimeLimit.truncated")


class TaskDistEnv(DrawsTasks, RecordConstructorArgs):
    """
    An environment whose task is drawn from a distribution.

    By default, every ``reset`` draws a task from ``np_random``. :meth:`set_task` pins a task. :meth:`set_schedule` defines
    the next episodes by (task, seed).

    ``info["task"]`` holds the task of the current episode. A task of more than 64 KiB appears only in ``reset`` and in the
    last step of an episode. A large array is read-only.

    Tasks come from one of

    - the environment's own ``sample_tasks(n, rng)`` and ``set_task(task)``, on the base environment or on a wrapper, with
      an optional ``get_task()`` and attribute ``task_space``;
    - ``task_space`` and ``set_task``;
    - ``tasks``, a finite list, and ``set_task``;
    - a list of environments as ``env``: the task is the index of the environment.

    :param env: An environment, a registered id or a callable that returns an environment; or a list of these, one per task
    :param task_space: The space in which tasks must lie and from which they are drawn; the default is the environment's own
        ``task_space``
    :param set_task: A callable ``(base_env, task)`` that sets the task before ``reset``. If it returns a dict, ``reset``
        gets the dict as ``options``. Alternatively, the name of an attribute of the base environment, or several names that
        share the numbers of an array. The default is the environment's own ``set_task``
    :param tasks: The finite list of training tasks
    :param weights: The non-negative weight of each task of the list (or of each environment); equal by default
    :param test_tasks: The tasks kept for testing: a space or a list
    :param split: The fraction of the finite list that is held out for testing, instead of ``test_tasks``
    :param split_seed: The seed that decides which tasks are held out
    :param horizon: The maximum number of steps of an episode, for an environment without a time limit that Gymnasium knows;
        longer episodes are truncated
    :param env_kwargs: The keyword arguments of ``gymnasium.make`` or of the callable
    :raises ValueError: When there are no tasks, or an argument does not fit the others
    :raises TypeError: When ``env`` neither is nor makes an environment
    """

    def __init__(
        self,
        env: EnvLike | Sequence[EnvLike],
        *,
        task_space: spaces.Space | None = None,
        set_task: SetTask | None = None,
        tasks: Iterable[Task] | None = None,
        weights: Sequence[float] | None = None,
        test_tasks: spaces.Space | Iterable[Task] | None = None,
        split: float | None = None,
        split_seed: int = 0,
        horizon: int | None = None,
        **env_kwargs: Any,
    ):
        if horizon is not None:
            check_positive(horizon=horizon)
        tasks = read_tasks("tasks", tasks)
        test_tasks = test_tasks if isinstance(test_tasks, spaces.Space) else read_tasks("test_tasks", test_tasks)
        # The spec of the environment already records env_kwargs. Copying a set_task that is a method would copy its object.
        RecordConstructorArgs.__init__(
            self,
            _disable_deepcopy=True,
            task_space=task_space,
            set_task=set_task,
            tasks=tasks,
            weights=weights,
            test_tasks=test_tasks,
            split=split,
            split_seed=split_seed,
            horizon=horizon,
        )
        # The environments of a list, and the seeds of their next reset.
        self.members: list[gym.Env] | None = None
        self._member_seeds: dict[int, int] = {}
        sampler, self._set_task = None, None
        if isinstance(env, (list, tuple)):
            if not (task_space is None and set_task is None and tasks is None):
                raise ValueError("`env` is a list, so the task is the index: omit `task_space`, `set_task` and `tasks`.")
            self.members = make_members(env, env_kwargs)
            gym.Wrapper.__init__(self, self.members[0])
            task_space, tasks = spaces.Discrete(len(self.members)), list(range(len(self.members)))
        else:
            gym.Wrapper.__init__(self, make_env(env, env_kwargs))
            sampler, task_space = find_tasks(self.env, task_space, tasks, set_task)
            self._set_task = make_setter(self.env, set_task)
        for made in self.members or [self.env]:
            if is_wrapped(made, TaskDistEnv):
                raise ValueError(f"`env` must be an environment without a TaskDistEnv, got {made}.")
            check_signatures(made)
        self._distribution = TaskDistribution(
            space=task_space,
            tasks=tasks,
            sampler=sampler,
            weights=weights,
            test_tasks=test_tasks,
            split=split,
            split_seed=split_seed,
        )
        self._tasks_to_check = _TASKS_TO_CHECK
        # Called with a task before it is set.
        self.on_task: Callable[[Task], None] | None = None
        if isinstance(self._set_task, Attributes) and sampler is None:
            # Refuse a task that does not fit the attributes here, not at the first reset.
            self._set_task.values(self.unwrapped, self.sample_tasks(1, 0)[0])
        if self.sets_own_tasks and test_tasks is not None:
            self._check_test_tasks(1 if isinstance(test_tasks, spaces.Space) else len(test_tasks))

        self._pinned: Task = None
        self._task: Task = None
        self._schedule: list[tuple[Task, int]] | None = None
        self._idle = False
        self._last_obs: Any = None
        # The infos of the last reset and of the last step.
        self._reset_info: dict[str, Any] = {}
        self._step_info: dict[str, Any] | None = None
        # Steps of the current episode, their limit, and whether its task is too large to appear at every step.
        self._elapsed, self._limit, self._heavy = 0, horizon, False
        self._seeded_reset = SeededReset()
        # Number of scheduled episodes that have started.
        self.n_started = 0

    @property
    def sets_own_tasks(self) -> bool:
        """Whether the environment's own ``set_task`` sets the task."""
        return self.members is None and self._set_task is None

    def set_task(self, task: Task | None) -> None:
        """
        Pin a task for all following episodes.

        The task takes effect at once and again at every reset. A list of environments, or an environment with a schedule,
        changes at the next reset only.

        :param task: The task; ``None`` releases the pinned task
        :raises ValueError: When the task is not valid
        """
        if task is None:
            self._pinned = None
            return
        task = self.check_task(task)
        if self.members is None and self._schedule is None:
            self._apply(task)
            self._task = task
        self._pinned = task

    def get_task(self) -> Task:
        """
        Return the task in force.

        This is the pinned task, else the task of the current episode. Before the first reset, it is the task of the base
        environment.

        :return: The task, or ``None`` when the base environment cannot tell it
        """
        task = self._task if self._pinned is None or self._schedule is not None else self._pinned
        if task is None and callable(own := own_attribute(self.env, "get_task")):
            task = own()
        return own_copy(task)

    def get_pinned_task(self) -> Task | None:
        """
        Return the pinned task.

        :return: The task pinned by ``set_task``, or ``None`` when tasks are drawn
        """
        return own_copy(self._pinned)

    def set_schedule(self, schedule: Sequence[tuple[Task, int]] | None) -> None:
        """
        Define the next episodes by (task, seed).

        Each ``reset`` takes the next pair and resets the base environment with this task and seed. It ignores its own
        argument ``seed``.

        After the last scheduled episode, ``reset`` and ``step`` do not touch the environment. They return the last
        observation, reward 0, not done, and ``info["idle"]`` true.

        :param schedule: The pairs of a task and a non-negative integer; ``None`` returns to pinned or drawn tasks
        :raises ValueError: When a pair is not valid; the current schedule then stays
        """
        if schedule is None:
            self._schedule = None
            return
        checked: list[tuple[Task, int]] = []
        same: dict[int, Task] = {}  # copy an object once, however often the schedule contains it
        for i, (task, seed) in enumerate(schedule):
            if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
                raise ValueError(f"`schedule[{i}]` must be a task and a non-negative integer seed, got the seed {seed!r}.")
            if id(task) not in same:
                same[id(task)] = self.check_task(task)
            checked.append((same[id(task)], int(seed)))
        self._schedule, self.n_started = checked, 0

    @property
    def is_exhausted(self) -> bool:
        """Whether all scheduled episodes have started, so that the next reset idles."""
        return self._schedule is not None and self.n_started == len(self._schedule)

    def ask_task_dist_env(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """
        Read an attribute or call a method of this wrapper.

        ``VecEnv.env_method`` calls this method, because an outer wrapper may have an attribute of the same name.

        :param name: The name of an attribute or a method of this wrapper
        :param args: The arguments of the method
        :param kwargs: The keyword arguments of the method
        :return: The attribute, or the result of the method
        """
        value = getattr(self, name)
        return value(*args, **kwargs) if callable(value) else value

    def trust_set_task(self) -> None:
        """Stop setting the first tasks twice to check that the second time changes nothing."""
        self._tasks_to_check = 0

    def end_with_parent(self) -> None:
        """End the process of a worker when its parent process ends, even while the environment hangs."""
        end_with_parent()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """
        Begin an episode of the scheduled, the pinned or a newly drawn task.

        :param seed: The seed of the environment and of the drawn task
        :param options: The options of the base environment; options from ``set_task`` are added
        :return: The observation and info, with ``info["task"]``
        """
        if self.is_exhausted:
            return self._reset_idle()
        if self._schedule is not None:
            task, seed = self._schedule[self.n_started]
            self.n_started += 1
        elif self._pinned is not None:
            task = self._pinned
        else:
            task = self.sample_tasks(1, None if seed is None else [seed, streams.TASK])[0]
        if self.members is not None:
            seed = self._member_seed(task, seed)
        task_options = self._apply(task)
        self._task, self._idle, self._heavy, self._elapsed = task, False, is_heavy(task), 0
        self._last_obs, info = self._reset_base(seed, {**(options or {}), **task_options} or options)
        if isinstance(self._set_task, Attributes):
            self._set_task.verify(self.unwrapped, task)
        info["task"] = own_copy(task)
        self._reset_info = info.copy()
        return self._last_obs, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """
        Step the environment, except when its schedule is exhausted.

        :param action: The action
        :return: The observation, reward, terminated, truncated and info, with ``info["task"]``
        :raises TypeError: When the reward is not a number, or the answer does not follow Gymnasium's interface
        :raises ValueError: When the observation does not fit the space
        """
        if self._idle:
            if self._step_info is None:  # the worker never played; outer wrappers may read the info of a step
                generator = self.np_random.bit_generator
                before = generator.state
                self._step_info = self._step_base(action)[4]
                generator.state = before
            return self._last_obs, 0.0, False, False, self._idle_info(self._step_info)
        self._last_obs, reward, terminated, truncated, info = self._step_base(action)
        self._elapsed += 1
        if self._limit is not None and self._elapsed >= self._limit and not terminated:
            truncated = True
        if not self._heavy or terminated or truncated:
            info["task"] = own_copy(self._task)
        self._step_info = info.copy()
        return self._last_obs, reward, terminated, truncated, info

    def close(self) -> None:
        """Close the environment, or all environments of a list."""
        for env in self.members or [self.env]:
            env.close()

    @property
    def horizon(self) -> int | None:
        """Number of steps after which every episode is truncated; ``None`` without a known time limit."""
        limits = [time_limit(env) for env in self.members or [self.env]]
        known = [limit for limit in limits if limit is not None]
        found = max(known) if len(known) == len(limits) else None
        return min((limit for limit in (found, self._limit) if limit is not None), default=None)

    @property
    def _max_episode_steps(self) -> int | None:
        """The horizon, instead of the attribute of an inner time limit, which belongs to one environment of a list only."""
        return self.horizon

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]  # a property in gymnasium.Wrapper too
        """Specification from which ``gymnasium.make`` makes this environment again; ``None`` for a list of environments."""
        return None if self.members is not None else super().spec

    def _check_test_tasks(self, n: int) -> None:
        """Check that the environment accepts the test tasks, which may lie outside its own range."""
        own = own_attribute(self.env, "get_task")
        before = deepcopy(own()) if callable(own) else None
        try:
            for task in self.sample_tasks(n, 0, split="test"):
                self._apply(task)
        except ValueError as error:
            raise ValueError(f"`test_tasks` must be tasks that the environment accepts: {error}") from error
        finally:
            if before is not None:
                self._apply(before)

    def _apply(self, task: Task) -> dict[str, Any]:
        """Set a task; return the options for the next reset of the environment."""
        if self.on_task is not None:
            self.on_task(task)
        if self.members is not None:
            self.env = self.members[task]
            return {}
        if self._tasks_to_check == 0:
            return self._put_in_force(task)
        self._tasks_to_check -= 1
        return apply_twice(self.env, lambda: self._put_in_force(task))

    def _put_in_force(self, task: Task) -> dict[str, Any]:
        if self._set_task is None:
            self.env.get_wrapper_attr("set_task")(own_copy(task))
            return {}
        options = self._set_task(self.unwrapped, own_copy(task))
        return dict(options) if isinstance(options, Mapping) else {}

    def _reset_base(self, seed: int | None, options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        answer = self._seeded_reset(lambda seeds: self.env.reset(seed=seeds[0], options=options), [seed])
        return check_reset(self.env, answer)

    def _member_seed(self, index: int, seed: int | None) -> int | None:
        """Derive the seed of one environment of a list; its own seed also seeds the others at their next reset."""
        if seed is None:
            return self._member_seeds.pop(index, None)
        if self._schedule is None:
            seeds = np.random.SeedSequence([seed, streams.TASK, 1]).generate_state(len(self.members or ()))
            self._member_seeds = {i: int(s) for i, s in enumerate(seeds) if i != index}
        return seed

    def _step_base(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        try:
            answer = self.env.step(action)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            if problem := explain_step(self.env, action):
                raise TypeError(problem) from error
            raise
        return check_step(self.env, answer)

    def _reset_idle(self) -> tuple[Any, dict[str, Any]]:
        if self._last_obs is None:  # an empty schedule before the first reset still needs an observation
            self._last_obs, self._reset_info = self._reset_base(None, None)
        self._idle = True
        return self._last_obs, self._idle_info(self._reset_info)

    def _idle_info(self, told: dict[str, Any]) -> dict[str, Any]:
        """Build the info of an idle step from the last info of the environment, because outer wrappers may read it."""
        told = {key: value for key, value in told.items() if key not in _OF_AN_END}
        return {**told, "idle": True, "task": own_copy(self._task)}

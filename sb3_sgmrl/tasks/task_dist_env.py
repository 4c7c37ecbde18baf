"""An environment with a distribution of tasks: the one form in which the algorithms meet a task family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.env_util import is_wrapped

from sb3_sgmrl.data import streams
from sb3_sgmrl.tasks.distribution import Task, TaskDistribution
from sb3_sgmrl.tasks.sources import (
    Attributes,
    EnvLike,
    SetTask,
    check_reset,
    find_tasks,
    make_env,
    make_members,
    make_setter,
    own_attribute,
    read_tasks,
    time_limit,
)


class TaskDistEnv(gym.Wrapper, RecordConstructorArgs):
    """
    An environment whose task is drawn from a distribution.

    Un-pinned, every ``reset`` draws a task from ``np_random``; :meth:`set_task` pins one; :meth:`set_schedule` names the
    following episodes by (task, seed). The task of the running episode is ``info["task"]``.

    Tasks come from one of

    - the environment's own ``sample_tasks(n, rng)`` and ``set_task(task)`` (``get_task()`` and the attribute ``task_space``
      are used when they are there), on the base environment or on a wrapper;
    - ``task_space`` and ``set_task``;
    - ``tasks``, a finite list, and ``set_task``;
    - a list of environments as ``env``: the task is the index of the environment.

    :param env: an environment, a registered id or a callable returning an environment; or a list of these, one per task
    :param task_space: space from which tasks are drawn by the space's own ``sample``, and in which tasks must lie; the
        environment's own ``task_space`` if not given
    :param set_task: how a task is put in force: a callable ``(base_env, task)``, called before ``reset``; if it returns a
        dict, that is passed to ``reset`` as ``options``. Or the name of an attribute of the base environment, or several
        names over which an array is spread. The environment's own ``set_task`` if not given
    :param tasks: finite list of training tasks
    :param weights: one non-negative weight per task of the list (or per environment); equal if not given
    :param test_tasks: tasks kept for testing: a space or a list
    :param split: instead of ``test_tasks``, the fraction of the finite list that is held out for testing
    :param split_seed: seed that decides which tasks are held out
    :param env_kwargs: passed to ``gymnasium.make`` or to the callable
    :raises ValueError: when there are no tasks, or an argument does not fit the others; one sentence says which
    :raises TypeError: when ``env`` neither is nor makes an environment
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
        **env_kwargs: Any,
    ):
        tasks = read_tasks("tasks", tasks)
        test_tasks = test_tasks if isinstance(test_tasks, spaces.Space) else read_tasks("test_tasks", test_tasks)
        # env_kwargs are left out: they are recorded in the spec of the environment they made. A set_task that is a method
        # must not be copied together with its object.
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
        )
        # The environments of a list, and the seeds they take over at their next reset.
        self.members: list[gym.Env] | None = None
        self._member_seeds: dict[int, int] = {}
        sampler, self._set_task = None, None
        if isinstance(env, (list, tuple)):
            if not (task_space is None and set_task is None and tasks is None):
                raise ValueError(
                    "With a list of environments the task is the index: leave out task_space, set_task and tasks."
                )
            self.members = make_members(env, env_kwargs)
            gym.Wrapper.__init__(self, self.members[0])
            task_space, tasks = spaces.Discrete(len(self.members)), list(range(len(self.members)))
        else:
            gym.Wrapper.__init__(self, make_env(env, env_kwargs))
            sampler, task_space = find_tasks(self.env, task_space, tasks, set_task)
            self._set_task = make_setter(self.env, set_task)
        for made in self.members or [self.env]:
            if is_wrapped(made, TaskDistEnv):
                raise ValueError(f"env must not be a TaskDistEnv already, got {made}.")
        self._distribution = TaskDistribution(
            space=task_space,
            tasks=tasks,
            sampler=sampler,
            weights=weights,
            test_tasks=test_tasks,
            split=split,
            split_seed=split_seed,
        )
        if isinstance(self._set_task, Attributes) and sampler is None:
            # A task that does not fit the attributes is found here and not at the first reset.
            self._set_task.values(self.unwrapped, self.sample_tasks(1, 0)[0])
        if self.sets_own_tasks and test_tasks is not None:
            self._check_test_tasks(1 if isinstance(test_tasks, spaces.Space) else len(test_tasks))

        self._pinned: Task = None
        self._task: Task = None
        self._schedule: list[tuple[Task, int]] | None = None
        self._n_started = 0
        self._idle = False
        self._last_obs: Any = None

    # Tasks

    @property
    def task_space(self) -> spaces.Space | None:
        """The space in which training tasks lie, if known."""
        return self._distribution.space

    @property
    def has_test_tasks(self) -> bool:
        """Whether some tasks are kept for testing."""
        return self._distribution.has_test_tasks

    @property
    def sets_own_tasks(self) -> bool:
        """Whether a task is put in force by the environment's own ``set_task``."""
        return self.members is None and self._set_task is None

    def sample_tasks(
        self, n: int, rng: np.random.Generator | int | Sequence[int] | None = None, split: str = "train"
    ) -> list[Task]:
        """
        Draw tasks. They are independent, except that of an unweighted list of test tasks each is drawn once before any is
        drawn twice.

        :param n: number of tasks
        :param rng: generator, or what seeds a new one; ``np_random`` if not given
        :param split: ``"train"``, or ``"test"``, which means the training tasks when none are kept for testing
        :return: ``n`` tasks
        :raises ValueError: when ``n`` is not a positive integer or ``split`` is unknown
        """
        generator = self.np_random if rng is None else np.random.default_rng(rng)
        return self._distribution.sample(n, generator, split)

    def check_task(self, task: Task) -> Task:
        """
        Validate a task. Numbers and lists are converted where the task is an array.

        :param task: the task
        :return: a copy of the task
        :raises ValueError: when the task has the wrong shape, is not finite, or is not one of the tasks
        """
        return self._distribution.check(task)

    def task_problem(self, task: Task) -> str | None:
        """
        What :meth:`check_task` finds, without an error, which would end the process of a worker.

        :param task: the task
        :return: one sentence, or ``None`` for a valid task
        """
        try:
            self.check_task(task)
        except ValueError as error:
            return str(error)
        return None

    def task_features(self, task: Task) -> np.ndarray:
        """
        A description of a task by numbers, for a regression on tasks.

        :param task: the task
        :return: float64 array of shape (n_features,): tasks of a space are flattened as Gymnasium does it (so discrete ones
            become one-hot), other numeric tasks raveled, listed tasks of any other kind one-hot codes of their place
        :raises ValueError: when the task is not valid, or there is no such description
        """
        return self._distribution.features(task)

    def set_task(self, task: Task | None) -> None:
        """
        Pin a task for all following episodes. It acts on the base environment at once and again at every reset, except that
        a list of environments, or an environment under a schedule, changes at the next reset.

        :param task: the task; ``None`` releases the pinned one
        :raises ValueError: when the task is not valid
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
        The task in force.

        :return: the pinned task; else that of the running episode; else, before the first reset, that of the base
            environment if it can tell, or ``None``
        """
        task = self._task if self._pinned is None or self._schedule is not None else self._pinned
        if task is None and callable(own := own_attribute(self.env, "get_task")):
            task = own()
        return deepcopy(task)

    def get_pinned_task(self) -> Task | None:
        """
        :return: the task that ``set_task`` pinned, or ``None`` when tasks are drawn
        """
        return deepcopy(self._pinned)

    def set_schedule(self, schedule: Sequence[tuple[Task, int]] | None) -> None:
        """
        Name the following episodes by (task, seed). Each following ``reset`` takes the next pair and resets the base
        environment with that task and seed, whatever seed it is called with. When all are played, ``reset`` and ``step``
        return the last observation, reward 0, not done, and ``info["idle"]`` true, without touching the environment.

        :param schedule: pairs of a task and a non-negative integer; ``None`` goes back to pinned or drawn tasks
        :raises ValueError: when a pair is not valid; the schedule in force then stays
        """
        if schedule is None:
            self._schedule = None
            return
        checked = []
        for i, (task, seed) in enumerate(schedule):
            if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
                raise ValueError(f"schedule[{i}] must be a task and a non-negative integer seed, got the seed {seed!r}.")
            checked.append((self.check_task(task), int(seed)))
        self._schedule, self._n_started = checked, 0

    # The environment

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """
        Begin an episode of the scheduled, the pinned or a newly drawn task.

        :param seed: seeds the environment and the draw of the task
        :param options: passed on, together with those that ``set_task`` asks for
        :return: observation and info, with ``info["task"]``
        """
        if self._schedule is not None:
            if self._n_started == len(self._schedule):
                return self._reset_idle(), {"idle": True, "task": deepcopy(self._task)}
            task, seed = self._schedule[self._n_started]
            self._n_started += 1
        elif self._pinned is not None:
            task = self._pinned
        else:
            task = self.sample_tasks(1, None if seed is None else [seed, streams.TASK])[0]
        if self.members is not None:
            seed = self._member_seed(task, seed)
        task_options = self._apply(task)
        self._task, self._idle = task, False
        answer = self.env.reset(seed=seed, options={**(options or {}), **task_options} or options)
        self._last_obs, info = check_reset(self.env, answer)
        if isinstance(self._set_task, Attributes):
            self._set_task.verify(self.unwrapped, task)
        info["task"] = deepcopy(task)
        return self._last_obs, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """
        Step the environment, unless its schedule is exhausted.

        :param action: the action
        :return: observation, reward, terminated, truncated and info, with ``info["task"]``
        :raises TypeError: when the reward is not a number
        """
        if self._idle:
            return self._last_obs, 0.0, False, False, {"idle": True, "task": deepcopy(self._task)}
        self._last_obs, reward, terminated, truncated, info = self.env.step(action)
        try:
            float(reward)
        except TypeError:
            raise TypeError(f"The reward of {type(self.unwrapped).__name__} must be a number, got {reward!r}.") from None
        info["task"] = deepcopy(self._task)
        return self._last_obs, reward, terminated, truncated, info

    def close(self) -> None:
        """Close the environment, or all of a list."""
        for env in self.members or [self.env]:
            env.close()

    @property
    def horizon(self) -> int | None:
        """Number of steps after which every episode is truncated; ``None`` if no time limit is found."""
        limits = [time_limit(env) for env in self.members or [self.env]]
        known = [limit for limit in limits if limit is not None]
        return max(known) if len(known) == len(limits) else None

    @property
    def _max_episode_steps(self) -> int | None:
        """Found in place of the attribute of a time limit below, which with a list is that of one environment only."""
        return self.horizon

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]  # a property in gymnasium.Wrapper too
        """Specification from which ``gymnasium.make`` makes this environment again; a list of environments has none."""
        return None if self.members is not None else super().spec

    # Inside

    def _check_test_tasks(self, n: int) -> None:
        """The environment may refuse tasks that lie outside its own range."""
        own = own_attribute(self.env, "get_task")
        before = deepcopy(own()) if callable(own) else None
        try:
            for task in self.sample_tasks(n, 0, split="test"):
                self._apply(task)
        except ValueError as error:
            raise ValueError(f"`test_tasks` must be tasks the environment takes: {error}") from error
        finally:
            if before is not None:
                self._apply(before)

    def _apply(self, task: Task) -> dict[str, Any]:
        """Put a task in force; return the options with which the environment is to be reset."""
        if self.members is not None:
            self.env = self.members[task]
        elif self._set_task is None:
            self.env.get_wrapper_attr("set_task")(deepcopy(task))
        else:
            options = self._set_task(self.unwrapped, deepcopy(task))
            if isinstance(options, Mapping):
                return dict(options)
        return {}

    def _member_seed(self, index: int, seed: int | None) -> int | None:
        """A seed given to one of the environments seeds the others too, when their turn comes."""
        if seed is None:
            return self._member_seeds.pop(index, None)
        if self._schedule is None:
            seeds = np.random.SeedSequence([seed, streams.TASK, 1]).generate_state(len(self.members or ()))
            self._member_seeds = {i: int(s) for i, s in enumerate(seeds) if i != index}
        return seed

    def _reset_idle(self) -> Any:
        if self._last_obs is None:  # an empty schedule before the first reset: some observation is needed
            self._last_obs, _ = self.env.reset()
        self._idle = True
        return self._last_obs

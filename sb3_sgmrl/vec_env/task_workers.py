"""What every vectorised environment of tasks must be able to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv
from sb3_sgmrl.vec_env.task_vec_env import TaskVecEnv


def ask(env: VecEnv, name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
    """
    Ask the :class:`TaskDistEnv` of workers. ``env_method`` and ``get_attr`` would take the first attribute of this name that a
    wrapper above has.

    :param env: workers that take tasks
    :param name: of an attribute or a method
    :param args: arguments of the method
    :param indices: the workers, None for all
    :param kwargs: keyword arguments of the method
    :return: one answer per worker
    """
    return env.env_method("ask_task_dist_env", name, *args, indices=indices, **kwargs)


def check_task_workers(env: VecEnv) -> None:
    """
    :param env: a vectorised environment
    :raises ValueError: when a worker cannot take a task
    """
    if not all(env.env_is_wrapped(TaskDistEnv)):
        raise ValueError(
            "`env` must be a TaskDistEnv, or a VecEnv whose workers are each wrapped in one, so that they can be given a "
            "task: make_vec_env(lambda: TaskDistEnv(...), n_envs)."
        )
    if isinstance(env.unwrapped, SubprocVecEnv):
        ask(env, "end_with_parent")


def check_tasks(env: VecEnv, tasks: Sequence[Any]) -> None:
    """
    :param env: workers that take tasks
    :param tasks: tasks a person gave
    :raises ValueError: for the first that does not fit
    """
    for task in tasks:
        # an error in a worker process would be the end of it, so it is handed over instead of raised
        problem = ask(env, "task_problem", task, indices=0)[0]
        if problem is not None:
            raise ValueError(problem)


def find_horizon(env: VecEnv) -> int | None:
    """
    Longest possible episode of any worker, from their time limits.

    :param env: a vectorised environment of tasks
    :return: number of steps, None when no time limit is known
    """
    limits = [ask(env, "horizon")]
    # time limits outside the TaskDistEnv
    if env.has_attr("_max_episode_steps"):
        limits.append(env.get_attr("_max_episode_steps"))
    if env.has_attr("spec"):
        limits.append([None if spec is None else spec.max_episode_steps for spec in env.get_attr("spec")])
    known = [[int(limit) for limit in of_worker if limit is not None] for of_worker in zip(*limits, strict=True)]
    return max(map(min, known)) if all(known) else None


def known_horizon(env: VecEnv) -> int:
    """
    :param env: a vectorised environment of tasks
    :return: as :func:`find_horizon`
    :raises ValueError: when no time limit is known
    """
    horizon = find_horizon(env)
    if horizon is None:
        raise ValueError(
            "`env` has no time limit that is known: pass TaskDistEnv(..., horizon=n_steps), wrap it in "
            "gymnasium.wrappers.TimeLimit(env, n_steps) or register it with max_episode_steps."
        )
    return horizon


def check_started(env: VecEnv, n_expected: Sequence[int]) -> None:
    """
    :param env: workers with a schedule
    :param n_expected: scheduled episodes that each should have begun
    :raises ValueError: when a wrapper kept a reset from the :class:`TaskDistEnv`, or made one of its own
    """
    if isinstance(env.unwrapped, TaskVecEnv):  # columns have no wrappers
        return
    for worker, (found, expected) in enumerate(zip(ask(env, "n_started"), n_expected, strict=True)):
        if found != expected:
            raise ValueError(
                f"Worker {worker} of `env` began {found} episodes where {expected} were asked for: a wrapper above "
                "TaskDistEnv resets by itself or not at every reset, and must stand below TaskDistEnv instead."
            )


@contextmanager
def early_resets_allowed(env: VecEnv) -> Iterator[None]:
    """
    Within a ``with`` statement, a ``Monitor(allow_early_resets=False)`` above :class:`TaskDistEnv` lets workers begin a phase:
    what they leave is no episode of the training.

    :param env: workers that take tasks
    """
    strict: list[int] = []
    if any(env.env_is_wrapped(Monitor)) and env.has_attr("allow_early_resets"):
        strict = np.flatnonzero([not allowed for allowed in env.get_attr("allow_early_resets")]).tolist()
    if not strict:
        yield
        return
    env.env_method("set_wrapper_attr", "allow_early_resets", True, indices=strict)
    try:
        yield
    finally:
        env.env_method("set_wrapper_attr", "allow_early_resets", False, indices=strict)

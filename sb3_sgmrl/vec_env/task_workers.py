"""Ask and check the workers of a vectorised environment of tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv
from sb3_sgmrl.vec_env.answers import answers_in_time
from sb3_sgmrl.vec_env.task_vec_env import TaskVecEnv

# without a known time limit, the number of steps of an episode at which sampling stops
LONGEST_EPISODE = 10_000


def ask(env: VecEnv, name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
    """
    Ask the :class:`TaskDistEnv` of workers.

    ``env_method`` and ``get_attr`` would use the first attribute with this name on any outer wrapper.

    :param env: The workers, which take tasks
    :param name: The name of an attribute or a method
    :param args: The arguments of the method
    :param indices: The indices of the workers; ``None`` for all
    :param kwargs: The keyword arguments of the method
    :return: One answer per worker
    """
    with answers_in_time(env):
        return env.env_method("ask_task_dist_env", name, *args, indices=indices, **kwargs)


def check_task_workers(env: VecEnv) -> None:
    """
    Check that every worker can take a task.

    :param env: The vectorised environment
    :raises ValueError: When a worker cannot take a task
    """
    if not all(env.env_is_wrapped(TaskDistEnv)):
        raise ValueError(
            "`env` must be a TaskDistEnv, or a VecEnv whose workers are each wrapped in a TaskDistEnv: pass "
            "make_vec_env(lambda: TaskDistEnv(...), n_envs)."
        )
    if isinstance(env.unwrapped, SubprocVecEnv):
        ask(env, "end_with_parent")


def check_tasks(env: VecEnv, tasks: Sequence[Any]) -> None:
    """
    Check that the workers accept the tasks of the user.

    :param env: The workers, which take tasks
    :param tasks: The tasks passed by the user
    :raises ValueError: When a task does not fit
    """
    for task in tasks:
        # Return the error as text, because an exception would end the worker process.
        problem = ask(env, "task_problem", task, indices=0)[0]
        if problem is not None:
            raise ValueError(problem)


def find_horizon(env: VecEnv) -> int | None:
    """
    Find the longest possible episode of any worker from the time limits.

    :param env: The vectorised environment of tasks
    :return: The number of steps, or ``None`` when no time limit is known
    """
    limits = [ask(env, "horizon")]
    # Add the time limits outside the TaskDistEnv.
    if env.has_attr("_max_episode_steps"):
        limits.append(env.get_attr("_max_episode_steps"))
    if env.has_attr("spec"):
        limits.append([None if spec is None else spec.max_episode_steps for spec in env.get_attr("spec")])
    known = [[int(limit) for limit in of_worker if limit is not None] for of_worker in zip(*limits, strict=True)]
    return max(map(min, known)) if all(known) else None


def known_horizon(env: VecEnv) -> int:
    """
    Return the horizon of the workers, which must be known.

    :param env: The vectorised environment of tasks
    :return: The number of steps, as in :func:`find_horizon`
    :raises ValueError: When no time limit is known
    """
    horizon = find_horizon(env)
    if horizon is None:
        raise ValueError(
            "`env` has no known time limit: pass TaskDistEnv(..., horizon=n_steps), wrap it in "
            "gymnasium.wrappers.TimeLimit(env, n_steps) or register it with max_episode_steps."
        )
    return horizon


def likely_horizon(env: VecEnv) -> int:
    """
    Return the horizon of the workers, or play an episode with random actions where none is known.

    :param env: The vectorised environment of tasks, which may be reset
    :return: The number of steps
    """
    horizon, n_steps = find_horizon(env), 0
    if horizon is None:
        with answers_in_time(env):
            env.reset()
            done = np.zeros(env.num_envs, bool)
            while not done.any() and n_steps < LONGEST_EPISODE:
                *_, done, _ = env.step(np.array([env.action_space.sample() for _ in range(env.num_envs)]))
                n_steps += 1
    return n_steps if horizon is None else horizon


def check_started(env: VecEnv, n_expected: Sequence[int]) -> None:
    """
    Check that every worker started its scheduled episodes.

    :param env: The workers, which have a schedule
    :param n_expected: The number of scheduled episodes that each worker should have started
    :raises ValueError: When a wrapper withheld a reset from the :class:`TaskDistEnv`, or added one
    """
    if isinstance(env.unwrapped, TaskVecEnv):  # columns have no wrappers
        return
    for worker, (found, expected) in enumerate(zip(ask(env, "n_started"), n_expected, strict=True)):
        if found != expected:
            raise ValueError(
                f"Worker {worker} of `env` began {found} episodes instead of the {expected} scheduled ones: move the outer "
                "wrapper that adds or skips resets inside TaskDistEnv."
            )


@contextmanager
def early_resets_allowed(env: VecEnv) -> Iterator[None]:
    """
    Let workers begin a phase despite ``Monitor(allow_early_resets=False)``, within a ``with`` statement.

    This concerns a ``Monitor`` outside :class:`TaskDistEnv`. The unfinished episodes do not belong to the training.

    :param env: The workers, which take tasks
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

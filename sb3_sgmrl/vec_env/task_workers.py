"""What every vectorised environment of tasks must be able to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv


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


def check_tasks(env: VecEnv, tasks: Sequence[Any]) -> None:
    """
    :param env: workers that take tasks
    :param tasks: tasks a person gave
    :raises ValueError: for the first that does not fit
    """
    for task in tasks:
        # an error in a worker process would be the end of it, so it is handed over instead of raised
        problem = env.env_method("task_problem", task, indices=0)[0]
        if problem is not None:
            raise ValueError(problem)


def find_horizon(env: VecEnv) -> int:
    """
    Longest possible episode of any worker, from their time limits.

    :param env: a vectorised environment of tasks
    :return: number of steps
    :raises ValueError: when no time limit is known
    """
    limits = [env.get_attr("horizon")]
    # time limits outside the TaskDistEnv
    if env.has_attr("_max_episode_steps"):
        limits.append(env.get_attr("_max_episode_steps"))
    if env.has_attr("spec"):
        limits.append([None if spec is None else spec.max_episode_steps for spec in env.get_attr("spec")])
    known = [[int(limit) for limit in of_worker if limit is not None] for of_worker in zip(*limits, strict=True)]
    if not all(known):
        raise ValueError(
            "`env` has no time limit, so an episode might never end: wrap it in gymnasium.wrappers.TimeLimit(env, n_steps) or "
            "register it with max_episode_steps."
        )
    return max(map(min, known))

"""Test copies of an environment before training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from itertools import chain, repeat
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import data_equivalence

from sb3_sgmrl.tasks.copies import is_heavy
from sb3_sgmrl.tasks.interface import layers
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv
from sb3_sgmrl.util.generators import generators_kept
from sb3_sgmrl.util.user_warnings import warn_user

_SEED, _OTHER_SEED = 12345, 54321
_STEPS = 10
# Number of steps that show whether a task matters.
_MANY_STEPS = 50
_MOST_TASKS = 5
_MOST_NUMBERS = 8
# Copies that share a simulator: closing or deleting one might disconnect the user's environment.
_kept: list[gym.Env] = []

Record = list[list[np.ndarray]]


def find_task_env(env: gym.Env) -> TaskDistEnv | None:
    """
    Find the :class:`TaskDistEnv` among the wrappers of an environment.

    :param env: The environment
    :return: The :class:`TaskDistEnv`, or ``None`` if there is none
    """
    return next((layer for layer in layers(env) if isinstance(layer, TaskDistEnv)), None)


def copies_problem(copy: gym.Env, load: Callable[[], gym.Env]) -> str | None:
    """
    Play in two copies of an environment alternately, and warn when the task makes no difference.

    :param copy: A copy, which is closed unless that would close the environment itself
    :param load: A callable that makes another copy
    :return: How copies disturb each other; ``None`` when they do not
    """
    with generators_kept():
        first = _Player(copy)
        alone = first.play(0)
        if not _same(alone, first.play(0)):
            warn_user(
                "`env` plays different episodes with the same task, seed and actions, so results are not reproducible: draw "
                "noise from `self.np_random`, and let `set_task` and `reset` always begin from the same state.",
            )
            first.env.close()
            return None
        _warn_of_large(first.tasks[0])
        _warn_without_effect(first)
        second = _Player(load())
        try:
            together = first.play(0, meanwhile=second.steps(1, _OTHER_SEED))
        except Exception as error:
            together = []
            problem = f"one copy fails while another one plays: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        else:
            problem = "what one copy plays changes another one, as if both used the same simulator"
        if not _same(alone, together):
            _kept.extend((first.env, second.env))
            return problem
        second.env.close()
        try:
            afterwards = first.play(0)
        except Exception:
            afterwards = []
        if not _same(alone, afterwards):
            _kept.extend((first.env, second.env))
            return "closing one copy closes another one"
        first.env.close()
        return None


class _Player:
    """Plays the same actions in every episode."""

    def __init__(self, env: gym.Env) -> None:
        self.env = env
        self.task_env = find_task_env(env)
        self.tasks: list[Any] = [None]
        if self.task_env is not None:
            self.tasks = _different(self.task_env.sample_tasks(_MOST_TASKS, 0))
        space = deepcopy(env.action_space)
        space.seed(_SEED)
        self.actions = [space.sample() for _ in range(_MANY_STEPS)]

    def play(self, task: int, meanwhile: Iterator[Any] | None = None) -> Record:
        """Play a few steps of a task, and advance ``meanwhile`` after each of them."""
        record = []
        steps = self.steps(task, _SEED)
        for _, answer in zip(range(_STEPS + 1), steps, strict=False):
            record.append(answer)
            if meanwhile is not None:
                with generators_kept():
                    next(meanwhile, None)
        return record

    def steps(self, task: int, seed: int) -> Iterator[list[np.ndarray]]:
        """Play one episode of a task, step by step."""
        return self.steps_of(self.tasks[task % len(self.tasks)], seed)

    def steps_of(self, task: Any, seed: int) -> Iterator[list[np.ndarray]]:
        if self.task_env is not None:
            self.task_env.set_schedule([(task, seed)])
        observation, _ = self.env.reset(seed=seed)
        yield [np.array(leaf) for leaf in _leaves(observation)]
        actions = self.actions if seed == _SEED else reversed(self.actions)
        for action in actions:
            observation, reward, terminated, truncated, _ = self.env.step(action)
            yield [np.array(leaf) for leaf in chain(_leaves(observation), (reward, terminated, truncated))]
            if terminated or truncated:
                return

    def is_different(self, task: Any, record: Record) -> bool:
        """Compare an episode of a task with a record, up to the first different step."""
        others = chain(self.steps_of(task, _SEED), repeat(None))
        return any(other is None or not _same([one], [other]) for one, other in zip(record, others, strict=False))


def _warn_of_large(task: Any) -> None:
    if is_heavy(task) and not isinstance(task, np.ndarray):
        warn_user(
            "Tasks of `env` are large objects that are copied for every episode: use an index or a name as the task, and "
            "look the object up in `set_task`.",
        )


def _warn_without_effect(player: _Player) -> None:
    task_env, tasks = player.task_env, player.tasks
    if task_env is None or len(tasks) < 2:
        return
    long = list(player.steps(0, _SEED))
    n_steps = len(long) - 1
    if not any(player.is_different(task, long) for task in tasks[1:]):
        warn_user(
            f"`set_task` may have no effect: {len(tasks)} tasks gave the same observations and rewards in {n_steps} steps "
            "with the same seed and actions.",
        )
        return
    if not task_env.has_free_numbers:
        return
    one, other = np.asarray(tasks[0]), np.asarray(tasks[1])
    if not 2 <= one.size <= _MOST_NUMBERS:
        return
    idle = []
    for i in range(one.size):
        mixed = one.copy()
        mixed.flat[i] = other.flat[i]
        if not player.is_different(mixed, long):
            idle.append(str(i))
    if idle:
        warn_user(
            f"`set_task` may ignore a part of the task: other values at index {', '.join(idle)} (counted from 0) gave "
            f"the same observations and rewards in {n_steps} steps with the same seed and actions.",
        )


def _different(tasks: list[Any]) -> list[Any]:
    found: list[Any] = []
    for task in tasks:
        if not any(data_equivalence(task, other, exact=True) for other in found):
            found.append(task)
    return found


def _leaves(observation: Any) -> Iterator[Any]:
    if isinstance(observation, Mapping):
        observation = tuple(observation.values())
    if isinstance(observation, tuple):
        for part in observation:
            yield from _leaves(part)
    else:
        yield observation


def _same(one: Record, other: Record) -> bool:
    """Compare two records up to rounding, because simulators start their solvers from earlier solutions."""
    return len(one) == len(other) and all(
        len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True)) for a, b in zip(one, other, strict=True)
    )


def _equal(x: np.ndarray, y: np.ndarray) -> bool:
    if x.dtype.kind in "fc" and x.shape == y.shape:
        return bool(np.allclose(x, y, rtol=1e-5, atol=1e-8, equal_nan=True))
    return np.array_equal(x, y)

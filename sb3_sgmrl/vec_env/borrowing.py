"""Borrow workers: pin tasks and freeze statistics during an evaluation, and restore both afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

from gymnasium import spaces
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from sb3_sgmrl.util.interrupts import undisturbed
from sb3_sgmrl.vec_env.answers import answers_in_time
from sb3_sgmrl.vec_env.normalization import frozen_statistics
from sb3_sgmrl.vec_env.process_vec_env import TIMEOUT
from sb3_sgmrl.vec_env.resting import resting_workers
from sb3_sgmrl.vec_env.task_workers import ask

# The innermost VecEnvs, which several wrappers may share.
_being_played: set[VecEnv] = set()
# The questions for spaces that each of SB3's processes has still to answer, after an interrupt in _drop_answers.
_pending: WeakKeyDictionary[VecEnv, list[int]] = WeakKeyDictionary()


@contextmanager
def being_played(env: VecEnv) -> Iterator[None]:
    """
    Make :func:`tasks_released_afterwards` refuse these workers within a ``with`` statement.

    :param env: The workers, which take tasks
    """
    _being_played.add(env.unwrapped)
    try:
        yield
    finally:
        _being_played.discard(env.unwrapped)


@contextmanager
def tasks_released_afterwards(env: VecEnv) -> Iterator[None]:
    """
    Let the workers draw their own tasks again after a ``with`` statement, even after an error.

    :param env: The workers, which take tasks
    :raises ValueError: When the workers are in the middle of a phase, which would lose its tasks
    """
    if env.unwrapped in _being_played:
        raise ValueError("`env` is being played by learn(): pass another environment.")
    with answers_in_time(env), _without_answers(env.unwrapped), resting_workers(env):
        try:
            yield
        except BaseException:
            # Show the original error, not that a dead worker does not answer.
            with suppress(Exception):
                _drop_answers(env.unwrapped)
                ask(env, "set_schedule", None)
            raise
        ask(env, "set_schedule", None)


@contextmanager
def borrowed_workers(env: VecEnv) -> Iterator[None]:
    """
    Play without training within a ``with`` statement.

    A VecNormalize learns nothing from these episodes. The workers draw their own tasks again afterwards.

    :param env: The workers, which take tasks
    :raises ValueError: When the workers are in the middle of a phase
    """
    with tasks_released_afterwards(env), frozen_statistics(env):
        yield


@contextmanager
def _without_answers(env: VecEnv) -> Iterator[None]:
    if env in _pending:
        with suppress(Exception):  # of a dead worker, which the next question names
            _drop_answers(env)
    yield


def _drop_answers(env: VecEnv) -> None:
    """Empty the pipes of SB3's processes, because an interrupt leaves answers there that the next question would read."""
    if not isinstance(env, SubprocVecEnv):
        return
    pending = _pending.setdefault(env, [0] * env.num_envs)
    for i, remote in enumerate(env.remotes):
        with undisturbed():
            remote.send(("get_spaces", None))
            pending[i] += 1
    for i, remote in enumerate(env.remotes):
        while pending[i]:
            remote.poll(TIMEOUT)  # a second interrupt may end this wait
            with undisturbed():
                pending[i] -= _are_spaces(remote.recv())
    env.waiting = False
    del _pending[env]


def _are_spaces(answer: Any) -> bool:
    return isinstance(answer, tuple) and len(answer) == 2 and all(isinstance(part, spaces.Space) for part in answer)

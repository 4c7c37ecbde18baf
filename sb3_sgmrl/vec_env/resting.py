"""Let workers without episodes rest, hidden from the wrappers outside their TaskDistEnv."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_sgmrl.vec_env.probe import find_task_env


@contextmanager
def resting_workers(env: VecEnv) -> Iterator[None]:
    """
    Skip the reset and step of workers without scheduled episodes, within a ``with`` statement.

    This applies to workers of a ``DummyVecEnv`` only.

    :param env: The workers, which take tasks
    """
    with ExitStack() as stack:
        if isinstance(env.unwrapped, DummyVecEnv):
            for worker in env.unwrapped.envs:
                stack.enter_context(resting(worker))
        yield


@contextmanager
def resting(worker: gym.Env) -> Iterator[None]:
    """
    Let one worker rest within a ``with`` statement.

    Its ``step`` and ``reset`` are replaced, not the worker itself, to which others hold references.

    :param worker: The worker with all its wrappers
    """
    if find_task_env(worker) is None or isinstance(getattr(worker.step, "__self__", None), _Resting):
        yield
        return
    before = {name: vars(worker)[name] for name in ("step", "reset") if name in vars(worker)}
    let_rest(worker)
    try:
        yield
    finally:
        del worker.step, worker.reset
        for name, value in before.items():
            setattr(worker, name, value)


def let_rest(worker: gym.Env) -> None:
    """
    Let one worker rest permanently.

    :param worker: The worker with all its wrappers
    """
    if find_task_env(worker) is not None:
        rest = _Resting(worker)
        worker.step, worker.reset = rest.step, rest.reset  # type: ignore[method-assign]


class _Resting:
    def __init__(self, worker: gym.Env) -> None:
        self._task_env: Any = find_task_env(worker)
        self._step, self._reset = worker.step, worker.reset
        self._observation: Any = None
        self._space = worker.observation_space
        self._info: dict[str, Any] | None = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        if self._task_env.is_exhausted:
            self._info = {"idle": True, "task": self._task_env.get_task()}
            if self._observation is None:
                self._observation = _zero(self._space)
            return self._observation, self._info.copy()
        self._info = None
        self._observation, info = self._reset(**kwargs)
        return self._observation, info

    def step(self, action: Any) -> Any:
        if self._info is not None:
            return self._observation, 0.0, False, False, self._info.copy()
        answer = self._step(action)
        self._observation = answer[0]
        return answer


def _zero(space: spaces.Space) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _zero(part) for key, part in space.spaces.items()}
    return np.zeros(space.shape or (), space.dtype)

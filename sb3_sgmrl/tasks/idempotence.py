"""
Check that setting a task twice gives the same environment.

A ``set_task`` that scales the current values compounds at every reset.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_sgmrl.tasks.interface import layers
from sb3_sgmrl.util.generators import generators_kept

Result = TypeVar("Result")

# Tolerate clocks and rounding.
_TOLERANCE = 1e-4
_DEEPEST = 4
_MOST_PARTS = 20_000
_LONGEST_ARRAY = 1_000_000
_NO_STATE = (str, bytes, type, ModuleType, FunctionType, MethodType, BuiltinFunctionType, spaces.Space)


def apply_twice(env: gym.Env, apply: Callable[[], Result]) -> Result:
    """
    Set a task twice, with the random generators in the same state.

    :param env: The environment to change, with its wrappers
    :param apply: A callable that sets the task
    :return: The result of ``apply``
    :raises ValueError: When the second call gave other floating-point numbers than the first
    """
    env.unwrapped.np_random  # noqa: B018  # create the generator before the search
    generators = [part for _, part in _parts(env) if isinstance(part, np.random.Generator)]
    states = [generator.bit_generator.state for generator in generators]
    with generators_kept():
        result = apply()
    once = _numbers(env)
    for generator, state in zip(generators, states, strict=True):
        generator.bit_generator.state = state
    apply()
    twice = _numbers(env)
    for path, value in once.items():
        again = twice.get(path)
        if again is not None and again.shape == value.shape and not _close(value, again):
            place = np.argmax(~np.isclose(value, again, _TOLERANCE, equal_nan=True).ravel())
            raise ValueError(
                "`set_task` must give the same environment when it is called twice with the same task, but changed "
                f"{path} from {value.flat[place]:.6g} to {again.flat[place]:.6g}: compute from values that it does not change."
            )
    return result


def _close(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.allclose(one, other, rtol=_TOLERANCE, equal_nan=True))


def _numbers(env: gym.Env) -> dict[str, np.ndarray]:
    """Copy all floating-point numbers and arrays by name."""
    found = {}
    for path, part in _parts(env):
        if isinstance(part, (float, np.floating)) or (isinstance(part, np.ndarray) and part.dtype.kind == "f"):
            found[path] = np.array(part)
    return found


def _parts(env: gym.Env) -> Iterator[tuple[str, Any]]:
    """Yield the parts of an environment and its wrappers with their paths, as far as Python can access them."""
    seen: dict[int, Any] = {}  # keeps the objects, so that Python does not reuse their ids
    waiting: deque[tuple[str, Any, int]] = deque()
    for layer in layers(env):
        seen[id(layer)] = layer
        waiting.extend((name, part, 1) for name, part in vars(layer).items())
    for _ in range(_MOST_PARTS):
        if not waiting:
            return
        path, part, depth = waiting.popleft()
        if isinstance(part, (float, int, np.generic)) or part is None:
            yield path, part
            continue
        if isinstance(part, _NO_STATE) or id(part) in seen:
            continue
        seen[id(part)] = part
        if isinstance(part, np.ndarray):
            if part.size <= _LONGEST_ARRAY:
                yield path, part
        elif isinstance(part, np.random.Generator):
            yield path, part
        elif type(part).__name__ in ("MjModel", "MjOption"):
            waiting.extend((f"{path}.{name}", value, depth + 1) for name, value in _fields(part))
        elif depth < _DEEPEST:
            waiting.extend((name, value, depth + 1) for name, value in _inside(path, part))


def _inside(path: str, part: Any) -> list[tuple[str, Any]]:
    if isinstance(part, dict):
        return [(f"{path}[{key!r}]", value) for key, value in list(part.items())[:1000]]
    if isinstance(part, (list, tuple)):
        return [(f"{path}[{i}]", value) for i, value in enumerate(part[:1000])]
    return [(f"{path}.{name}", value) for name, value in getattr(part, "__dict__", {}).items()]


def _fields(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the arrays and options of a MuJoCo model, which has no ``__dict__``."""
    for name in dir(model):
        value = None if name.startswith("_") else getattr(model, name)
        if isinstance(value, (np.ndarray, float)) or name == "opt":
            yield name, value

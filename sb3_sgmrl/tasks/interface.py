"""Check the answers of ``reset`` and ``step``, so that nothing is broadcast or cast silently."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces

_ARRAYS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def layers(env: gym.Env) -> Iterator[gym.Env]:
    """
    List an environment and the environments that it wraps.

    :param env: The environment
    :return: The wrappers from the outside to the inside, then the base environment
    """
    yield env
    while isinstance(env, gym.Wrapper):
        env = env.env
        yield env


def check_signatures(env: gym.Env) -> None:
    """
    Check that ``reset`` takes the arguments of Gymnasium's interface.

    :param env: The environment
    :raises TypeError: When the environment, or a wrapper, has the ``reset`` of an old interface
    """
    for layer in layers(env):
        try:
            signature = inspect.signature(layer.reset)
        except (TypeError, ValueError):  # some functions outside Python have no signature
            continue
        try:
            signature.bind(seed=0, options=None)
        except TypeError:
            raise TypeError(
                f"`reset` of {type(layer).__name__} must take the arguments `seed` and `options`, as Gymnasium's does, "
                f"but takes {signature}."
            ) from None


def check_reset(env: gym.Env, answer: Any) -> tuple[Any, dict[str, Any]]:
    """
    Check the answer of ``reset``.

    :param env: The environment
    :param answer: The result of its ``reset``
    :return: The observation and info
    :raises TypeError: When the answer is not an observation and a dictionary
    :raises ValueError: When the observation does not fit the space
    """
    name = f"`reset` of {type(env.unwrapped).__name__}"
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], dict)):
        raise TypeError(f"{name} must return an observation and a dictionary, got {_brief(answer)}.")
    _check_observation(env, name, answer[0])
    return answer


def check_step(env: gym.Env, answer: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
    """
    Check the answer of ``step``.

    :param env: The environment
    :param answer: The result of its ``step``
    :return: The observation, reward, terminated, truncated and info, with arrays of size one converted to scalars
    :raises TypeError: When the answer does not have the five parts of Gymnasium's interface
    :raises ValueError: When the observation does not fit the space
    """
    if problem := _shape_of_step(env, answer):
        raise TypeError(problem)
    observation, reward, terminated, truncated, info = answer
    space = env.observation_space
    if not (  # the fast path of nearly every answer
        type(observation) is np.ndarray and observation.shape == space.shape and observation.dtype == space.dtype
    ):
        _check_observation(env, f"`step` of {type(env.unwrapped).__name__}", observation)
    if not isinstance(reward, (float, int, np.floating, np.integer, np.bool_)):
        reward = _scalar(env, "reward", "a number", reward, "biuf")
    if not isinstance(terminated, (bool, np.bool_)):
        terminated = bool(_scalar(env, "terminated", "True or False", terminated, "biu"))
    if not isinstance(truncated, (bool, np.bool_)):
        truncated = bool(_scalar(env, "truncated", "True or False", truncated, "biu"))
    return observation, reward, bool(terminated), bool(truncated), info


def explain_step(env: gym.Env, action: Any) -> str | None:
    """
    Find out whether a wrapper failed because of the answer of the base environment.

    :param env: An environment whose ``step`` raised an error
    :param action: The action
    :return: One sentence, or ``None`` when the base environment is not the reason
    """
    try:
        answer = env.unwrapped.step(action)
    except Exception:
        return None
    return _shape_of_step(env, answer)


def _shape_of_step(env: gym.Env, answer: Any) -> str | None:
    if isinstance(answer, tuple) and len(answer) == 5 and isinstance(answer[4], dict):
        return None
    wanted = "observation, reward, terminated, truncated and a dictionary"
    if not isinstance(answer, tuple):
        got = _brief(answer)
    elif len(answer) == 5:
        got = f"{_brief(answer[4])} as the last"
    else:
        got = f"{len(answer)} values" + (", as in the interface before Gymnasium" if len(answer) == 4 else "")
    return f"`step` of {type(env.unwrapped).__name__} must return {wanted}, got {got}."


def _check_observation(env: gym.Env, name: str, observation: Any) -> None:
    problem = observation_problem(env.observation_space, observation)
    if problem is not None:
        raise ValueError(f"{name} must return an observation of {problem}.")


def observation_problem(space: spaces.Space, observation: Any) -> str | None:
    """
    Describe why an observation does not fit its space.

    :param space: The observation space
    :param observation: The observation of an environment
    :return: The problem, which begins with the space, or ``None`` when shape and type fit
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(observation, Mapping):
            return f"{_text(space)}, got {_brief(observation)}"
        for key, part in space.spaces.items():
            if key not in observation:
                return f"{_text(space)}, got one without the key {key!r}"
            if problem := observation_problem(part, observation[key]):
                return f"{problem} under the key {key!r}"
        return None
    if not isinstance(space, _ARRAYS):
        return None
    try:
        array = np.asarray(observation)
    except (ValueError, TypeError, RuntimeError):  # nested lists of unequal lengths, tensors with a gradient
        return f"{_text(space)}, got {_brief(observation)}"
    if array.dtype.kind not in "biuf":
        return f"{_text(space)}, got {_brief(observation)}"
    if array.shape != space.shape:
        return f"{_text(space)}, got one of shape {array.shape}"
    assert space.dtype is not None
    if array.dtype != space.dtype and space.dtype.kind != "f":
        with np.errstate(invalid="ignore"):
            if not np.array_equal(array.astype(space.dtype), array):
                return f"{_text(space)}, got one of dtype {array.dtype} whose numbers {space.dtype} cannot hold"
    return None


def _scalar(env: gym.Env, name: str, what: str, value: Any, kinds: str) -> Any:
    try:
        array = np.asarray(value)
        if array.dtype.kind in kinds and array.size == 1:
            return array.item()
    except (ValueError, TypeError, RuntimeError):
        pass
    raise TypeError(f"The `{name}` of {type(env.unwrapped).__name__} must be {what}, got {_brief(value)}.")


def _text(space: spaces.Space) -> str:
    return " ".join(str(space).split())


def _brief(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else text[:97] + "..."

"""Check that SB3's actor-critic policies support the spaces of observations and actions."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    Check that SB3's policies support the spaces of an environment.

    :param observation_space: The observation space of the environment
    :param action_space: The action space of the environment
    :raises ValueError: When a policy of SB3 would crash, or misread an observation or action
    """
    parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {None: observation_space}
    if not parts:
        raise ValueError("`env` must have an observation_space with at least one key, got an empty Dict.")
    for key, part in parts.items():
        name = "observation_space" if key is None else f"observation_space[{key!r}]"
        problem = _problem(part) or _observation_problem(part)
        if problem is not None:
            raise ValueError(f"`env` has the {name} {one_line(part)}, {problem}.")
    problem = _problem(action_space) or _action_problem(action_space)
    if problem is not None:
        raise ValueError(f"`env` has the action_space {one_line(action_space)}, {problem}.")


def _problem(space: Any) -> str | None:
    if not isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return (
            "which SB3's policies do not support: use Box, Discrete, MultiDiscrete or MultiBinary, or a flat Dict of those "
            "for observations"
        )
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and np.any(space.start != 0):
        return "which does not start at 0 as SB3's policies need: shift it with TransformAction or TransformObservation"
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim != 1:
        return "which SB3's policies support with one dimension only: flatten it"
    if 0 in (space.shape or ()):
        return "which has no elements"
    return None


def _observation_problem(space: Any) -> str | None:
    if isinstance(space, spaces.Box) and space.shape == ():
        return "which has no dimension: give it the shape (1,)"
    if isinstance(space, spaces.Box) and space.dtype.kind not in "fiub":
        return "whose dtype SB3's policies do not support: use a float or integer dtype"
    return None


def _action_problem(space: Any) -> str | None:
    if isinstance(space, spaces.Box) and space.dtype.kind != "f":
        return "which would truncate actions to integers: use a float dtype, or Discrete or MultiDiscrete"
    if isinstance(space, spaces.Box) and not space.is_bounded():
        return "which lacks the finite bounds that SB3's policies need: set bounds"
    if isinstance(space, spaces.MultiBinary) and len(space.shape) != 1:
        return "which SB3's policies support with one dimension only: flatten it"
    return None


def one_line(space: spaces.Space) -> str:
    """
    Write a space in one line.

    :param space: The space
    :return: The text
    """
    return " ".join(str(space).split())


def stored_dtype(space: spaces.Space, of_actions: bool = False) -> Any:
    """
    Return the type in which rollouts store the values of a space.

    :param space: The space
    :param of_actions: Whether these are actions. They keep at least the precision of the policy, because the gradient needs
        the exact actions that were drawn
    :return: The dtype
    """
    precise = of_actions and isinstance(space, spaces.Box)
    return np.result_type(space.dtype, np.float32) if precise else space.dtype


def check_values(name: str, values: np.ndarray, space: spaces.Space) -> None:
    """
    Check that logged values have the type of a space, and that categories exist. Floats may lie outside the bounds.

    :param name: The name of the values, for errors
    :param values: The values, shape (n_samples, \\*space.shape)
    :param space: The space
    :raises ValueError: When the type or a category does not fit
    """
    whole = not isinstance(space, spaces.Box) or space.dtype.kind in "iu"
    if whole and values.dtype.kind == "f":
        raise ValueError(f"`episodes` must hold {name} of {one_line(space)}, got {values.dtype} instead of integers.")
    if isinstance(space, spaces.Box):
        low, high = (space.low, space.high) if whole else (-np.inf, np.inf)
    else:
        n_values = 2 if isinstance(space, spaces.MultiBinary) else getattr(space, "nvec", getattr(space, "n", None))
        low, high = np.array(0), np.array(n_values) - 1
    if (values < low).any() or (values > high).any():
        counted = "" if isinstance(space, spaces.Box) else ", counted from 0"
        raise ValueError(f"`episodes` must hold {name} of {one_line(space)}{counted}, got {values.min()} to {values.max()}.")

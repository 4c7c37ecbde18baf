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
            raise ValueError(f"`env` has the {name} {_one_line(part)}, {problem}.")
    problem = _problem(action_space) or _action_problem(action_space)
    if problem is not None:
        raise ValueError(f"`env` has the action_space {_one_line(action_space)}, {problem}.")


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


def _one_line(space: Any) -> str:
    return " ".join(str(space).split())

"""The spaces of observations and actions that SB3's actor-critic policies understand."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    :param observation_space: of an environment
    :param action_space: of an environment
    :raises ValueError: when a policy of SB3 would crash on one of them, or play or see other things than it means
    """
    parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {None: observation_space}
    if not parts:
        raise ValueError("`env` must have an observation_space with something in it, but it is an empty Dict.")
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
            "which policies of SB3 do not know: use Box, Discrete, MultiDiscrete or MultiBinary, or a flat Dict of those for "
            "observations"
        )
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and np.any(space.start != 0):
        return "which does not count from 0 as policies of SB3 do: shift it by TransformAction or TransformObservation"
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim != 1:
        return "which policies of SB3 know with one dimension only: flatten it"
    if 0 in (space.shape or ()):
        return "which has no elements"
    return None


def _observation_problem(space: Any) -> str | None:
    if isinstance(space, spaces.Box) and space.shape == ():
        return "which has no dimension: give it the shape (1,)"
    if isinstance(space, spaces.Box) and space.dtype.kind not in "fiub":
        return "whose numbers policies of SB3 do not know: use a float or integer dtype"
    return None


def _action_problem(space: Any) -> str | None:
    if isinstance(space, spaces.Box) and space.dtype.kind != "f":
        return "which would cut actions off to integers: use a float dtype, or Discrete or MultiDiscrete"
    if isinstance(space, spaces.Box) and not space.is_bounded():
        return "which has no finite bounds as policies of SB3 need them: set bounds"
    if isinstance(space, spaces.MultiBinary) and len(space.shape) != 1:
        return "which policies of SB3 know with one dimension only: flatten it"
    return None


def _one_line(space: Any) -> str:
    return " ".join(str(space).split())

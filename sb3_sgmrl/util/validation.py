"""Check single arguments before anything is sampled."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch as th

# the characters of a value in an error
_SHOWN = 200
# counts above it would be kept in lists that no machine holds
_LARGEST_COUNT = 10**9
# an inner step plays a whole phase of episodes
_MOST_INNER_STEPS = 1000
# seeds of SB3, which seeds numpy's global generator
LARGEST_SEED = 2**32 - 1


def shown(value: Any) -> str:
    """
    Write a value in one line of an error.

    :param value: The value
    :return: Its representation, shortened
    """
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def check_bool(name: str, value: Any) -> None:
    """
    Check that an argument is True or False.

    :param name: The name of the argument
    :param value: The value of the argument
    :raises ValueError: When the value is anything else, such as text
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"`{name}` must be True or False, got {shown(value)}.")


def check_mapping(name: str, value: Any) -> None:
    """
    Check that an argument is a dictionary whose keys are names.

    :param name: The name of the argument
    :param value: The value of the argument
    :raises ValueError: When it is something else
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"`{name}` must be a dictionary of names and values, got {shown(value)}.")


def check_path(name: str, value: Any) -> None:
    """
    Check that an argument is a path.

    :param name: The name of the argument
    :param value: The value of the argument
    :raises ValueError: When it is something else
    """
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise ValueError(f"`{name}` must be a path, got {shown(value)}.")


def check_verbosity(name: str, value: Any) -> None:
    """
    Check that an argument is a level of output.

    :param name: The name of the argument
    :param value: The value of the argument
    :raises ValueError: When it is not a non-negative integer
    """
    if not isinstance(value, (Integral, np.bool_)) or value < 0:
        raise ValueError(f"`{name}` must be 0, 1 or 2, got {shown(value)}.")


def check_device(name: str, value: Any) -> None:
    """
    Check that this machine has a device. SB3 would take the processor for a CUDA device that is missing.

    :param name: The name of the argument
    :param value: The value of the argument
    :raises ValueError: When PyTorch has no such device
    """
    if isinstance(value, str) and value == "auto":
        return
    try:
        device = th.device(value) if isinstance(value, (str, th.device)) else None
        if device is not None and device.type != "cpu":
            th.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):
        device = None
    if device is None:
        raise ValueError(f"`{name}` must be a PyTorch device of this machine, such as auto, cpu or cuda, got {shown(value)}.")


def check_positive(**counts: Any) -> None:
    """
    Check that arguments are positive integers.

    :param counts: The arguments by name
    :raises ValueError: When an argument is not a positive integer
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {shown(value)}.")
        if int(value) > _LARGEST_COUNT:
            raise ValueError(f"`{name}` must be a positive integer of at most {_LARGEST_COUNT}, got {shown(value)}.")


def check_inner_steps(name: str, value: Any) -> None:
    """
    Check a number of inner steps.

    :param name: The name of the argument
    :param value: The value of the argument
    :raises ValueError: When it is not a positive integer, or absurdly large
    """
    check_positive(**{name: value})
    if value > _MOST_INNER_STEPS:
        raise ValueError(f"`{name}` must be a positive integer of at most {_MOST_INNER_STEPS}, got {value!r}.")


def check_names(names: Iterable[str], known: Iterable[str], complaint: str) -> None:
    """
    Check that all names are known, and suggest a similar one.

    :param names: The names passed by the user
    :param known: The known names
    :param complaint: The text after an unknown name, such as "is not an environment"
    :raises ValueError: When a name is unknown
    """
    known = sorted(known)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(known)}."
            raise ValueError(f"{name!r} {complaint}: {hint}")


def check_seed(seed: Any, name: str = "seed") -> None:
    """
    Check that a seed is a non-negative integer.

    :param seed: The value of the argument
    :param name: The name of the argument
    :raises ValueError: When the seed is not a non-negative integer
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"`{name}` must be a non-negative integer, got {shown(seed)}.")


def check_model_seed(name: str, value: Any) -> None:
    """
    Check that the seed of a model is one that SB3 can set.

    :param name: The name of the argument
    :param value: The value of the argument
    :raises ValueError: When it is not an integer from 0 to :data:`LARGEST_SEED`
    """
    check_seed(value, name)
    if value > LARGEST_SEED:
        raise ValueError(f"`{name}` must be at most {LARGEST_SEED}, got {value!r}.")


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """
    Check that an argument is one of the allowed values.

    :param name: The name of the argument
    :param value: The value of the argument
    :param allowed: The allowed values
    :raises ValueError: When the value is not allowed
    """
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {shown(value)}.")


def is_number(value: Any) -> bool:
    """
    Check whether a value is a real number and not a bool.

    :param value: The value
    :return: Whether the value is a number
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def is_positive_and_finite(value: Any) -> bool:
    """
    Check whether a value is a positive, finite number.

    :param value: The value
    :return: Whether the value is positive and finite
    """
    return is_number(value) and math.isfinite(value) and value > 0

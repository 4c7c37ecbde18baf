"""Check single arguments before anything is sampled."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


def check_positive(**counts: Any) -> None:
    """
    Check that arguments are positive integers.

    :param counts: The arguments by name
    :raises ValueError: When an argument is not a positive integer
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")


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
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(known)}."
            raise ValueError(f"{name!r} {complaint}: {hint}")


def check_seed(seed: Any) -> None:
    """
    Check that a seed is a non-negative integer.

    :param seed: The value of ``seed``
    :raises ValueError: When the seed is not a non-negative integer
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"`seed` must be a non-negative integer, got {seed!r}.")


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """
    Check that an argument is one of the allowed values.

    :param name: The name of the argument
    :param value: The value of the argument
    :param allowed: The allowed values
    :raises ValueError: When the value is not allowed
    """
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}.")


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

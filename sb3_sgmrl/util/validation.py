"""Checks of single arguments, raised before anything is sampled."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


def check_positive(**counts: Any) -> None:
    """
    :param counts: arguments by name
    :raises ValueError: for the first that is not a positive integer
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")


def check_names(names: Iterable[str], known: Iterable[str], complaint: str) -> None:
    """
    :param names: what was given
    :param known: what there is
    :param complaint: what to say of a name that is not known, such as "is not an environment"
    :raises ValueError: for the first name that is not known, with the one that may have been meant
    """
    known = sorted(known)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}."
            raise ValueError(f"{name!r} {complaint}: {hint}")


def check_seed(seed: Any) -> None:
    """
    :param seed: what was given as ``seed``
    :raises ValueError: when it is not a non-negative integer
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"`seed` must be a non-negative integer, got {seed!r}.")


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """
    :param name: of the argument
    :param value: what was given
    :param allowed: what may be given
    :raises ValueError: when it is none of them
    """
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}.")


def is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def is_positive_and_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value) and value > 0

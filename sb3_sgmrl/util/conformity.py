"""Check that values have the types that a dataclass declares."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np
import torch as th


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def check_fields(cls: type, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    Check values for the fields of a dataclass.

    :param cls: The dataclass
    :param values: The values by field
    :return: The same values
    :raises ValueError: When a field is missing, unknown, not finite or of another type
    """
    names = {field.name for field in fields(cls)}
    if names != values.keys():
        raise ValueError(f"it must have {', '.join(sorted(names))}")
    for name, value in values.items():
        if not conforms(value, _hints(cls)[name]):
            raise ValueError(f"{name} is not {_hints(cls)[name]}")
    return values


def conforms(value: Any, hint: Any) -> bool:
    """
    Return whether a value has a type and all its numbers are finite.

    :param value: The value
    :param hint: A type, or a container or union of types
    :return: Whether the value has this type and all its numbers are finite
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(conforms(value, argument) for argument in arguments)
    if origin is dict:
        return type(value) is dict and all(conforms(k, arguments[0]) and conforms(v, arguments[1]) for k, v in value.items())
    if origin in (list, Sequence):
        return type(value) is list and all(conforms(item, arguments[0]) for item in value)
    if origin is tuple:
        return type(value) is tuple and len(value) == len(arguments) and all(map(conforms, value, arguments))
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    if hint in (np.ndarray, th.Tensor):
        return isinstance(value, hint) and bool(th.isfinite(th.as_tensor(value)).all())
    return type(value) is hint or (hint is None and value is None)

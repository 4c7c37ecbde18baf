"""Copy tasks so that no caller holds the original, measure their size, and build keys to find them in a list."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np

# Size in bytes above which a task is not copied, shown or sent at every step.
HEAVY = 2**16
_OBJECT = 64  # rough size in bytes of a number or a text


def own_copy(task: Any) -> Any:
    """
    Copy a task so that its owner cannot change the copy.

    The copy of a heavy array is read-only, so that it need not be copied again.

    :param task: The task
    :return: The copy
    """
    if not isinstance(task, np.ndarray) or task.nbytes <= HEAVY or task.dtype.hasobject:
        return deepcopy(task)
    if _is_frozen(task):
        return task
    copied = task.copy()
    copied.flags.writeable = False
    return copied


def _is_frozen(array: Any) -> bool:
    while isinstance(array, np.ndarray) and not array.flags.writeable:
        array = array.base
    return array is None


def is_heavy(task: Any) -> bool:
    """
    Estimate whether a task takes more than 64 KiB.

    :param task: The task
    :return: Whether the task takes more than about 64 KiB
    """
    waiting, left = [task], HEAVY
    while waiting and left >= 0:
        part = waiting.pop()
        left -= part.nbytes if isinstance(part, np.ndarray) else len(part) if isinstance(part, (str, bytes)) else _OBJECT
        if isinstance(part, Mapping):
            waiting.extend(part.values())
        elif isinstance(part, (list, tuple)):
            waiting.extend(part)
        elif hasattr(part, "__dict__") and not isinstance(part, type):
            waiting.extend(vars(part).values())
    return left < 0


def lookup_key(task: Any) -> Any:
    """
    Build a dictionary key that is the same for every copy of a task.

    :param task: The task
    :return: The key
    :raises TypeError: When some part of the task cannot be hashed
    """
    if isinstance(task, np.ndarray) and not task.dtype.hasobject:
        return (task.shape, task.dtype.str, hashlib.blake2b(task.tobytes()).digest())
    if isinstance(task, Mapping):
        return (Mapping, frozenset((key, lookup_key(value)) for key, value in task.items()))
    if isinstance(task, (list, tuple)):
        return (type(task), tuple(lookup_key(part) for part in task))
    kind = type(task)
    # objects that compare by identity, or by their attributes but without a hash, such as dataclasses
    if hasattr(task, "__dict__") and (kind.__hash__ is None or kind.__eq__ is object.__eq__):
        return (kind, lookup_key(vars(task)))
    hash(task)
    return task

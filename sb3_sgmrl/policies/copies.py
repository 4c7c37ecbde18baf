"""Copies of policies that keep tensors of their last call."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import FunctionType, ModuleType
from typing import Any, TypeVar

import torch as th

T = TypeVar("T")


def detached(root: Any) -> dict[int, Any]:
    """
    Make a memo for ``copy.deepcopy`` that replaces every tensor with a graph by its value.

    A policy keeps such tensors of its last call, and ``copy.deepcopy`` refuses them.

    :param root: The object to copy
    :return: The memo: detached values by the ids of the tensors
    """
    found: dict[int, Any] = {}
    seen: dict[int, Any] = {}
    waiting = [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, (type, FunctionType, ModuleType)):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, th.Tensor):
            if not thing.is_leaf:
                found[id(thing)] = thing.detach().clone()
        elif isinstance(thing, Mapping):
            waiting.extend(thing.values())
        elif isinstance(thing, (list, tuple, set, frozenset)):
            waiting.extend(thing)
        elif hasattr(thing, "__dict__"):
            waiting.extend(vars(thing).values())
    return found


def detached_copy(policy: T) -> T:
    """
    Copy a policy deeply, and copy tensors of its last call without their graph.

    :param policy: A policy, used or not
    :return: The copy
    """
    return copy.deepcopy(policy, detached(policy))

"""The classes and functions that a file may name. Any other name is never imported."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common import policies, torch_layers
from stable_baselines3.common.sb2_compat import rmsprop_tf_like
from torch import nn

from sb3_sgmrl.score_terms import names as _  # noqa: F401  # defines all score terms
from sb3_sgmrl.score_terms.base import ScoreTerm

Named = TypeVar("Named", bound=Callable[..., Any])

_registered: dict[str, Callable[..., Any]] = {}


def register(named: Named, name: str | None = None) -> Named:
    """
    Register a class or function of your own, so that model files may name it.

    This can be a policy, a features extractor, an optimiser, an activation or a schedule. Register it where you define it,
    with a call or a decorator. Both the program that saves and the program that loads must register it.

    :param named: The class or function
    :param name: The name in files; when None, the module and the qualified name
    :return: The class or function
    :raises ValueError: When ``named`` is neither, when the name is taken, or for a lambda without ``name``
    """
    if not callable(named) or not hasattr(named, "__qualname__"):
        raise ValueError(f"`named` must be a class or a function, got {named!r}.")
    name = qualified_name(named) if name is None else name
    if "<" in name:
        raise ValueError(f"`name` must be given for {name}, which is defined inside a function.")
    if name in _allowed() or (_registered.get(name, named) is not named and not _is_defined_again(_registered[name], named)):
        raise ValueError(f"`name` must be new, but {name} is {_registered.get(name) or _allowed()[name]!r}.")
    _registered[name] = named
    return named


def _is_defined_again(before: Any, now: Any) -> bool:
    # the user ran a notebook cell again or reloaded a module
    return qualified_name(before) == qualified_name(now)


def qualified_name(named: Any) -> str:
    """
    Return the full name of a class or function.

    :param named: The class or function
    :return: The module and the qualified name, joined by a dot
    """
    return f"{named.__module__}.{named.__qualname__}"


def name_of(named: Any) -> str | None:
    """
    Return the name of a class or function in files.

    :param named: The class or function
    :return: The name in files; None if files may not name it
    """
    for name, known in _registered.items():
        if known is named:
            return name
    return _names().get(named) if _is_hashable(named) else None


def _is_hashable(value: Any) -> bool:
    return getattr(type(value), "__hash__", None) is not None


def class_of(name: str) -> Any:
    """
    Return the class or function for a name in a file.

    :param name: The name in the file
    :return: The class or function; None if files may not name it
    """
    return _registered.get(name) or _allowed().get(name)


def similar(name: str) -> list[str]:
    """
    Return the known name that is closest to a name in a file.

    :param name: The name in the file
    :return: A list with the closest known name, or an empty list
    """
    return difflib.get_close_matches(name, [*_registered, *_allowed()], n=1)


@cache
def _allowed() -> dict[str, Any]:
    return dict(_find_allowed())


@cache
def _names() -> dict[Any, str]:
    # reversed, so that the first name of each class is kept
    return {named: name for name, named in reversed(_allowed().items())}


def _find_allowed() -> Iterator[tuple[str, Any]]:
    yield from _subclasses(policies, policies.ActorCriticPolicy)
    yield from _subclasses(torch_layers, torch_layers.BaseFeaturesExtractor)
    yield from _subclasses(rmsprop_tf_like, th.optim.Optimizer)
    yield from _subclasses(th.optim, th.optim.Optimizer)
    for term in _all_subclasses(ScoreTerm):
        if term.__module__.startswith("sb3_sgmrl."):
            yield f"sb3_sgmrl.score_terms.{term.__name__}", term
    for name in nn.modules.activation.__all__:
        yield f"torch.nn.{name}", getattr(nn, name)
    yield "torch.nn.Identity", nn.Identity


def _all_subclasses(base: Any) -> Iterator[type]:
    for subclass in base.__subclasses__():
        yield subclass
        yield from _all_subclasses(subclass)


def _subclasses(module: ModuleType, base: type) -> Iterator[tuple[str, Any]]:
    """Yield the subclasses that a module defines or, for a package, exposes."""
    for name, found in vars(module).items():
        is_shown = inspect.isclass(found) and found.__module__.startswith(module.__name__)
        if is_shown and issubclass(found, base) and found is not base:
            yield f"{module.__name__}.{name}", found
    if base is policies.ActorCriticPolicy:
        yield f"{module.__name__}.{base.__name__}", base

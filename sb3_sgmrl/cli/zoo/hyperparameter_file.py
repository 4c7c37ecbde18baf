"""Read the YAML of hyperparameters: numbers as people write them, and each name once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import yaml

# YAML 1.1 reads 3e-4 as text, because its numbers with an exponent need a dot and a sign
_NUMBER = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+|[-+]?\.[0-9]+[eE][-+]?[0-9]+")


def with_numbers_and_unique_names(loader: type[yaml.SafeLoader]) -> type[yaml.SafeLoader]:
    """
    Let a loader of YAML read 3e-4 as a number, and refuse a name that a dictionary has twice.

    :param loader: The class of the loader, which changes
    :return: The same class
    """
    loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))
    loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
    return loader


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> Iterator[dict[Any, Any]]:
    # of the file, before merging, whose keys may be overridden
    names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge"]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise yaml.constructor.ConstructorError(None, None, f"{twice!r} occurs twice", node.start_mark)
    mapping: dict[Any, Any] = {}
    yield mapping
    mapping.update(loader.construct_mapping(node))


@with_numbers_and_unique_names
class _Loader(yaml.SafeLoader):
    """The loader of hyperparameters."""


@contextmanager
def read_as_written() -> Iterator[None]:
    """Let RL Zoo read hyperparameters with numbers such as 3e-4, and refuse names that occur twice."""
    from rl_zoo3 import exp_manager

    original = exp_manager.yaml
    exp_manager.yaml = SimpleNamespace(safe_load=lambda file: yaml.load(file, Loader=_Loader))
    try:
        yield
    finally:
        exp_manager.yaml = original

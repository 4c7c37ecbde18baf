"""Tasks as columns of text, and tasks from plain data: dictionaries, dataclasses, strings and numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

import numpy as np

TASK = "task"
_KEY = re.compile(r"[^.]*[^.\d][^.]*")


def is_record(task: Any) -> bool:
    """
    Whether a task has named parts.

    :param task: The task
    :return: Whether it is a dictionary or a dataclass
    """
    return isinstance(task, Mapping) or (is_dataclass(task) and not isinstance(task, type))


def to_columns(task: Any) -> dict[str, str] | None:
    """
    Flatten a dictionary or a dataclass into cells of text.

    :param task: The task
    :return: The cells by column, such as ``task.goal.0``; None when its parts cannot be columns
    """
    cells: dict[str, str] = {}
    return cells if _flatten(TASK, task, cells) else None


def _flatten(name: str, value: Any, cells: dict[str, str]) -> bool:
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping) and value:
        readable = all(isinstance(key, str) and _KEY.fullmatch(key) for key in value)
        return readable and all(_flatten(f"{name}.{key}", part, cells) for key, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0:
        return all(_flatten(f"{name}.{i}", part, cells) for i, part in enumerate(value))
    if isinstance(value, str):
        cells[name] = write_text(value)
        return True
    try:
        cells[name] = json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def write_text(text: str) -> str:
    """
    Write text so that :func:`read_cell` reads it as text.

    :param text: The text
    :return: The same text, in quotes if it could be read as something else
    """
    return text if text and read_cell(text) == text and not _are_numbers(text) else json.dumps(text)


def read_cell(cell: str) -> Any:
    """
    Read a cell: JSON, or else text.

    :param cell: The cell
    :return: The value
    """
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def _are_numbers(text: str) -> bool:
    try:
        return bool([float(number) for number in text.split()])
    except ValueError:
        return False


def from_columns(cells: Mapping[str, str]) -> Any:
    """
    Undo :func:`to_columns`. A dataclass becomes a dictionary, and a tuple or an array becomes a list.

    :param cells: The cells by column; empty cells are left out
    :return: The task
    """
    tree: dict[str, Any] = {}
    for name, cell in cells.items():
        if cell == "":
            continue
        *path, last = name.split(".")[1:]
        place = tree
        for key in path:
            place = place.setdefault(key, {})
        place[last] = read_cell(cell)
    return _with_lists(tree)


def _with_lists(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    parts = {key: _with_lists(part) for key, part in tree.items()}
    return list(parts.values()) if parts and all(key.isdigit() for key in parts) else parts


def numbers_of_record(task: Any) -> list[float]:
    """
    List the numbers of a dictionary or a dataclass; its text is left out.

    :param task: The task
    :return: The numbers, in the order of their columns
    :raises ValueError: When there is none
    """
    return list(labelled_numbers(task).values())


def labelled_numbers(task: Any) -> dict[str, float]:
    """
    Label the numbers of a dictionary or a dataclass by their columns without ``task.``; its text is left out.

    :param task: The task
    :return: The numbers by label, such as ``goal.0``
    :raises ValueError: When there is none
    """
    values = {name: read_cell(cell) for name, cell in (to_columns(task) or {}).items()}
    numbers = {
        name.removeprefix(f"{TASK}."): float(value) for name, value in values.items() if isinstance(value, (int, float))
    }
    if not numbers:
        raise ValueError(f"Task {task} has no numbers.")
    return numbers


def _has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def task_like(value: Any, example: Any) -> Any:
    """
    Turn plain data into a task of the same kind as another task.

    :param value: The data, such as a dictionary from JSON, or a task
    :param example: A task of the family
    :return: The task: a dataclass, array or tuple where the example has one
    :raises ValueError: When the data have other parts, or are of another kind
    """
    if type(value) is type(example) and not isinstance(example, (Mapping, tuple, list, np.ndarray)):
        return value
    if is_record(example):
        names = list(example) if isinstance(example, Mapping) else [field.name for field in fields(example) if field.init]
        optional = set() if isinstance(example, Mapping) else {field.name for field in fields(example) if _has_default(field)}
        if not isinstance(value, Mapping) or not set(names) - optional <= set(value) <= set(names):
            got = f"{', '.join(map(str, value))}" if isinstance(value, Mapping) else repr(value)
            raise ValueError(f"A task must have the parts {', '.join(map(str, names))}, as {example}, got {got}.")
        of_example = example if isinstance(example, Mapping) else {name: getattr(example, name) for name in names}
        parts = {name: task_like(value[name], of_example[name]) for name in names if name in value}
        return parts if isinstance(example, Mapping) else type(example)(**parts)
    if isinstance(example, str):
        raise ValueError(f"A task must be text, such as {example!r}, got {value!r}.")
    is_number = isinstance(example, (int, float, np.generic, np.ndarray)) and not isinstance(example, bool)
    if is_number and (isinstance(value, str) or isinstance(value, Mapping)):
        raise ValueError(f"Task {value!r} is not in the task space, whose tasks are numbers, such as {example}.")
    if isinstance(example, np.ndarray) and not isinstance(value, np.ndarray):
        try:
            return np.asarray(value, dtype=example.dtype)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Task {value!r} is not in the task space, whose tasks are numbers, such as {example}."
            ) from error
    if isinstance(example, tuple) and isinstance(value, (list, tuple)) and len(value) == len(example):
        return tuple(task_like(part, of) for part, of in zip(value, example, strict=True))
    return value

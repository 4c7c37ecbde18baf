"""Encode Python values as JSON and tensors, and decode them. Only the kinds of values listed here can be decoded."""

from __future__ import annotations

import math
import pathlib
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from sb3_sgmrl.common.files.classes import class_of, name_of, qualified_name, similar
from sb3_sgmrl.common.files.schedules import LinearToZero, NamedSchedule
from sb3_sgmrl.gradient.score_weight import SignalWeight, SignalWeights
from sb3_sgmrl.score_terms.control_variates import OuterScale, TaskRegression, VariateScaling
from sb3_sgmrl.score_terms.names import ScoreMemory
from sb3_sgmrl.util.archive import BadFileError
from sb3_sgmrl.util.conformity import check_fields

# the key for the kind of a JSON object; an object without this key is a dictionary
_KIND = "@"
# the state that algorithms learn besides the parameters
_STATES: tuple[Any, ...] = (SignalWeight, SignalWeights, TaskRegression, VariateScaling, OuterScale, ScoreMemory)
# fields that older files lack, which then have their defaults
_ADDED: dict[Any, dict[str, Callable[[], Any]]] = {
    SignalWeight: {"_nonzero_square": float, "_nonzero": float},
    ScoreMemory: {"outer_scale": OuterScale},
}
_PLAIN = (type(None), bool, int, str)


@dataclass(frozen=True)
class _Kind:
    """
    The encoding of one kind of value.

    :param take: The function that splits a value into its parts by name
    :param make: The function that makes the value from its parts
    """

    take: Callable[[Any], dict[str, Any]]
    make: Callable[..., Any]


def _attributes(*names: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {name: getattr(value, name) for name in names}


def _discrete(n: int, start: int, dtype: np.dtype) -> spaces.Discrete:
    # Gymnasium before 1.2.2 has one dtype only.
    other: dict[str, Any] = {} if dtype == np.int64 else {"dtype": dtype}
    return spaces.Discrete(n, start=start, **other)


def _multi_binary(n: Any) -> spaces.MultiBinary:
    return spaces.MultiBinary(tuple(n) if isinstance(n, (tuple, list)) else n)


_KINDS: dict[type, tuple[str, _Kind]] = {
    float: ("number", _Kind(lambda value: {"value": repr(value)}, lambda value: _not_finite(value))),
    tuple: ("tuple", _Kind(lambda value: {"items": list(value)}, lambda items: tuple(items))),
    deque: (
        "deque",
        _Kind(lambda value: {"items": list(value), "maxlen": value.maxlen}, lambda items, maxlen: deque(items, maxlen)),
    ),
    th.dtype: (
        "torch dtype",
        _Kind(lambda value: {"name": str(value).removeprefix("torch.")}, lambda name: _torch_dtype(name)),
    ),
    th.device: ("device", _Kind(lambda value: {"name": str(value)}, lambda name: th.device(name))),
    spaces.Box: ("box", _Kind(_attributes("low", "high"), lambda low, high: spaces.Box(low, high, dtype=low.dtype.type))),
    spaces.Discrete: ("discrete", _Kind(lambda s: {"n": int(s.n), "start": int(s.start), "dtype": s.dtype}, _discrete)),
    spaces.MultiDiscrete: (
        "multi-discrete",
        _Kind(_attributes("nvec", "start"), lambda nvec, start: spaces.MultiDiscrete(nvec, nvec.dtype.type, start=start)),
    ),
    spaces.MultiBinary: ("multi-binary", _Kind(_attributes("n"), _multi_binary)),
    spaces.Dict: (
        "space of dictionaries",
        _Kind(lambda s: {"parts": [list(pair) for pair in s.spaces.items()]}, lambda parts: spaces.Dict(dict(parts))),
    ),
    FloatSchedule: ("schedule", _Kind(_attributes("value_schedule"), lambda value_schedule: FloatSchedule(value_schedule))),
    ConstantSchedule: ("constant", _Kind(_attributes("val"), lambda val: ConstantSchedule(val))),
    LinearSchedule: ("linear", _Kind(_attributes("start", "end", "end_fraction"), LinearSchedule)),
    LinearToZero: ("linear to zero", _Kind(_attributes("initial_value"), LinearToZero)),
    NamedSchedule: ("named schedule", _Kind(_attributes("name", "begin", "end"), lambda **parts: _named_schedule(**parts))),
}
for _state in _STATES:
    _KINDS[_state] = (
        _state.__name__,
        _Kind(
            _attributes(*(field.name for field in fields(_state))),
            lambda _cls=_state, **parts: _cls(**check_fields(_cls, {**_added(_cls), **parts})),
        ),
    )
_BY_NAME = {name: kind for name, kind in _KINDS.values()}
# mappings that have other keys than text, or whose order matters
_MAPPINGS: dict[type, str] = {dict: "dict", OrderedDict: "ordered dict"}


def _added(state: Any) -> dict[str, Any]:
    return {name: make() for name, make in _ADDED.get(state, {}).items()}


def _named_schedule(name: str, begin: float, end: float) -> Any:
    found = class_of(name)
    return NamedSchedule(name, begin, end) if found is None or isinstance(found, type) else found


def _not_finite(text: str) -> float:
    value = float(text)
    if math.isfinite(value):
        raise ValueError("it is finite")
    return value


def _torch_dtype(name: str) -> th.dtype:
    found = getattr(th, name)
    if not isinstance(found, th.dtype):
        raise TypeError("it is no dtype")
    return found


class Encoder:
    """Encode values as JSON, and collect their tensors and arrays."""

    def __init__(self) -> None:
        self.tensors: dict[str, th.Tensor] = {}
        # by position, the name of each class or object that is not data
        self.foreign: dict[str, str] = {}
        self._stored: dict[Any, str] = {}

    def encode(self, value: Any, where: str) -> Any:
        """
        Encode a value.

        :param value: The value
        :param where: The name of the value
        :return: The value as JSON
        """
        if (isinstance(value, _PLAIN) and type(value) in _PLAIN) or (type(value) is float and math.isfinite(value)):
            return value
        if type(value) is list:
            if _stack(value):
                return {**self.encode(np.stack(value), where), _KIND: "arrays"}
            return [self.encode(item, f"{where}.{i}") for i, item in enumerate(value)]
        if type(value) is dict and _KIND not in value and all(type(key) is str for key in value):
            return {key: self.encode(item, f"{where}.{key}") for key, item in value.items()}
        if isinstance(value, (th.Tensor, np.ndarray, np.generic)):
            return self._encode_tensor(value, where)
        if type(value) in _MAPPINGS:
            pairs = [[self.encode(key, where), self.encode(item, f"{where}.{key}")] for key, item in value.items()]
            return {_KIND: _MAPPINGS[type(value)], "items": pairs}
        if type(value) in _KINDS:
            name, kind = _KINDS[type(value)]
            return {_KIND: name, **{part: self.encode(item, f"{where}.{part}") for part, item in kind.take(value).items()}}
        return self._encode_object(value, where)

    def _encode_tensor(self, value: Any, where: str) -> Any:
        kind = "tensor" if isinstance(value, th.Tensor) else "array" if isinstance(value, np.ndarray) else "scalar"
        try:
            tensor = value if kind == "tensor" else th.from_numpy(np.array(value, order="C"))
        except TypeError:  # arrays of text or objects
            return self._encode_object(value, where)
        # shared parameters, such as those of features extractors, are stored once
        shared = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if kind != "tensor" or not tensor.numel() or shared not in self._stored:
            self.tensors[where] = tensor
            self._stored[shared] = where
        return {_KIND: kind, "name": self._stored[shared]}

    def _encode_object(self, value: Any, where: str) -> Any:
        if isinstance(value, np.dtype) and value.kind in "biuf":
            return {_KIND: "dtype", "name": value.name}
        if isinstance(value, pathlib.PurePath):
            return {_KIND: "path", "path": str(value)}
        if type(value).__name__ == "SimpleLinearSchedule" and type(value).__module__ == "rl_zoo3.utils":
            return self.encode(LinearToZero(value.initial_value), where)
        if (name := name_of(value)) is not None:
            return {_KIND: "class", "name": name}
        is_named = isinstance(value, type) or hasattr(value, "__qualname__")
        name = None if is_named else name_of(type(value))
        if name is not None and hasattr(value, "__dict__") and not isinstance(value, th.nn.Module):
            return {_KIND: "object", "class": name, "state": self.encode(dict(vars(value)), where)}
        self.foreign[where] = qualified_name(value if is_named else type(value))
        return {_KIND: "class" if is_named else "object of", "name": self.foreign[where]}


def _stack(items: list[Any]) -> bool:
    """Return whether the items are several arrays that one tensor can hold."""
    return len(items) > 1 and all(
        isinstance(item, np.ndarray)
        and item.dtype.kind in "biuf"
        and (item.shape, item.dtype) == (items[0].shape, items[0].dtype)
        and item.ndim > 0
        for item in items
    )


class Decoder:
    """
    Decode values from JSON and tensors.

    :param tensors: The tensors by name
    """

    def __init__(self, tensors: Mapping[str, th.Tensor]) -> None:
        self.tensors = tensors
        self._used: set[str] = set()

    def decode(self, value: Any, where: str) -> Any:
        """
        Decode a value.

        :param value: The value as JSON
        :param where: The name of the value, for errors
        :return: The value
        :raises BadFileError: When the value is invalid, or names a class that files may not name
        """
        if isinstance(value, list):
            return [self.decode(item, f"{where}.{i}") for i, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if _KIND not in value:
            return {key: self.decode(item, f"{where}.{key}") for key, item in value.items()}
        parts = dict(value)
        kind = parts.pop(_KIND)
        if not isinstance(kind, str):
            raise BadFileError(f"holds an unknown kind of value in `{where}`")
        try:
            if kind in ("tensor", "array", "arrays", "scalar"):
                return self._decode_tensor(kind, **parts)
            if kind in ("class", "object of"):
                return _decode_class(where, kind, **parts)
            if kind in _MAPPINGS.values():
                return self._decode_mapping(kind, where, **parts)
            if kind == "dtype":
                return _dtype(**parts)
            if kind == "path":
                return pathlib.Path(parts["path"])
            if kind == "object":
                return self._decode_object(where, parts["class"], parts["state"])
            found = _BY_NAME[kind]
            return found.make(**{name: self.decode(part, f"{where}.{name}") for name, part in parts.items()})
        except BadFileError:
            raise
        except Exception as error:  # the functions that make values may raise anything for wrong parts
            why = f": {_text(error)}" if isinstance(error, ValueError) else ", whose parts are others"
            raise BadFileError(f"holds no {_text(kind)} in `{where}`{why}") from error

    def _decode_tensor(self, kind: str, name: str) -> Any:
        if name not in self.tensors:
            raise BadFileError(f"lacks the tensor {_text(name)}")
        self._used.add(name)
        if kind == "tensor":
            return self.tensors[name].clone()
        array = self.tensors[name].numpy().copy()
        if kind == "arrays":
            return [part.copy() for part in array]
        return array if kind == "array" else array[()]

    def _decode_mapping(self, kind: str, where: str, items: Any) -> Any:
        keys = [self.decode(key, where) for key, _ in items]
        pairs = [(key, self.decode(item, f"{where}.{key}")) for key, (_, item) in zip(keys, items, strict=True)]
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("a key stands there twice")
        return made if kind == "dict" else OrderedDict(pairs)

    def _decode_object(self, where: str, name: str, state: Any) -> Any:
        found = _decode_class(where, "object of", name)
        made = found.__new__(found)
        vars(made).update(self.decode(state, where))
        return made

    def check_all_used(self) -> None:
        """
        Check that the decoded values used every tensor.

        :raises BadFileError: When a tensor was not used; the error names the first one
        """
        for name in self.tensors:
            if name not in self._used:
                raise BadFileError(f"holds a tensor {_text(name)} that does not belong to it")


def _decode_class(where: str, kind: str, name: str) -> Any:
    found = class_of(name)
    if found is None:
        attribute = where.split(".")[0]
        if hint := similar(name):
            hint = [f"did you mean {hint[0]}?"]
        raise BadFileError(
            f"needs {'the class or function' if kind == 'class' else 'an object of'} {_text(name)} for `{where}`, which no "
            f"file may import: call sb3_sgmrl.register({_text(name).split('.')[-1]}) before, or pass "
            f"custom_objects={{'{attribute}': ...}}"
        )
    return found


def _dtype(name: str) -> np.dtype:
    found = np.dtype(name)
    if found.kind not in "biuf":
        raise TypeError("it is no dtype of numbers")
    return found


def _text(value: Any) -> str:
    return " ".join(str(value).split())[:200].rstrip(".")


def as_schedule(rate: Any) -> Any:
    """
    Return a learning rate in a form that a file can store.

    :param rate: The learning rate of a model
    :return: The learning rate itself if a file can store it, otherwise its :class:`NamedSchedule`
    """
    if not callable(rate):
        return rate
    encoder = Encoder()
    encoder.encode(rate, "learning_rate")
    named = rate if hasattr(rate, "__qualname__") else type(rate)
    return NamedSchedule.of(rate, qualified_name(named)) if encoder.foreign else rate

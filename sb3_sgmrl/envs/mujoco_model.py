"""The MuJoCo model of a family, and the fields that differ between tasks, as numbers of a task and as arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from gymnasium import spaces

from sb3_sgmrl.util.mujoco_warnings import quiet_compiler

# Fields that MuJoCo reads directly, or whose derived constants mj_setConst updates. Sizes and places of geoms are excluded,
# because only the compiler derives masses, inertias and bounding volumes from them. The same holds for lengths of tendons,
# which it derives from the rest pose of springs. Limits are excluded, because a flag may disable them.
_POSITIVE = ("body_mass", "body_inertia")
_NOT_NEGATIVE = (
    "dof_armature",
    "dof_damping",
    "dof_frictionloss",
    "geom_friction",
    "jnt_stiffness",
    "opt.density",
    "opt.viscosity",
    "tendon_damping",
    "tendon_frictionloss",
    "tendon_stiffness",
)
_OF_ANY_SIGN = ("actuator_biasprm", "actuator_gainprm", "actuator_gear", "opt.gravity", "opt.wind")
FIELDS = tuple(sorted(_POSITIVE + _NOT_NEGATIVE + _OF_ANY_SIGN))

# The objects whose names select rows of a field, by the first word of the field.
_OBJECTS = {
    "actuator": mujoco.mjtObj.mjOBJ_ACTUATOR,
    "body": mujoco.mjtObj.mjOBJ_BODY,
    "dof": mujoco.mjtObj.mjOBJ_JOINT,
    "geom": mujoco.mjtObj.mjOBJ_GEOM,
    "jnt": mujoco.mjtObj.mjOBJ_JOINT,
    "tendon": mujoco.mjtObj.mjOBJ_TENDON,
}


@dataclass(frozen=True)
class _Part:
    """Numbers of a task that scale or replace rows of a field. ``low`` and ``high`` have the shape of these numbers."""

    label: str
    field: str
    rows: Any  # the index of the rows; ``...`` for all
    scales: bool
    low: np.ndarray
    high: np.ndarray
    default: np.ndarray


def compile_model(model: Any) -> mujoco.MjModel:
    """
    Compile or copy a model.

    :param model: An XML file, its text, or an ``MjModel``
    :return: The model, or a copy of it
    :raises ValueError: When it is something else, or does not compile
    """
    if isinstance(model, mujoco.MjModel):
        return deepcopy(model)
    if not isinstance(model, (str, os.PathLike)):
        raise ValueError(f"`model` must be an XML file, its text, or an MjModel, got {model!r}.")
    is_text = isinstance(model, str) and model.lstrip().startswith("<")
    if not is_text and not os.path.isfile(model):
        raise ValueError(f"`model` must be an XML file, its text, or an MjModel, but there is no file {os.fspath(model)!r}.")
    try:
        with quiet_compiler():
            if is_text:
                return mujoco.MjModel.from_xml_string(model)
            return mujoco.MjModel.from_xml_path(os.fspath(model))
    except ValueError as error:
        name = "the text given" if is_text else repr(os.fspath(model))
        raise ValueError(
            f"`model` must compile, but MuJoCo rejects {name}: {' '.join(str(error).split()).rstrip('.')}."
        ) from None


def find_keyframe(model: mujoco.MjModel, name: Any) -> int:
    """
    Find a keyframe by its name.

    :param model: A model
    :param name: The name of a keyframe
    :return: The index of the keyframe
    :raises ValueError: When the model has no such keyframe
    """
    index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_KEY, name) if isinstance(name, str) else -1
    if index < 0:
        raise ValueError(f"`keyframe` must be one of {names_of(model, mujoco.mjtObj.mjOBJ_KEY)}, got {name!r}.")
    return index


def control_ranges(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """
    Read the control ranges of the actuators.

    :param model: A model
    :return: The lower and upper bounds of the controls, shape (nu,)
    :raises ValueError: When the model has no actuators, or one without a range
    """
    low, high = model.actuator_ctrlrange.T.copy()
    unlimited = np.flatnonzero(low >= high)
    if model.nu == 0 or len(unlimited):
        which = "it has no actuators" if model.nu == 0 else f"actuator {model.actuator(unlimited[0]).name!r} has none"
        raise ValueError(f"`model` must have actuators with a control range, but {which}: put ctrlrange into the XML.")
    return low, high


class ModelFields:
    """
    Model fields as a part of a task. The numbers of ``factors`` come first, then those of ``values``.

    :param model: The model whose fields differ
    :param factors: The bounds of factors by name of a field, see :class:`~sb3_sgmrl.MujocoFamily`
    :param values: The bounds of values by name of a field
    :raises ValueError: When tasks cannot change a field, or bounds do not fit it
    """

    def __init__(self, model: mujoco.MjModel, factors: Mapping[str, Any] | None, values: Mapping[str, Any] | None):
        self._parts: list[_Part] = []
        self._original: dict[str, np.ndarray] = {}
        for argument, given in (("factors", factors), ("values", values)):
            for field, bounds in _mapping(argument, given).items():
                self._read(model, argument, field, bounds)
        if "body_mass" in self._original and "body_inertia" not in self._original:
            self._original["body_inertia"] = model.body_inertia.copy()
            self._inertia_follows = True
        else:
            self._inertia_follows = False
        self.low = np.concatenate([np.empty(0)] + [part.low.ravel() for part in self._parts])
        self.high = np.concatenate([np.empty(0)] + [part.high.ravel() for part in self._parts])
        self.default = np.concatenate([np.empty(0)] + [part.default.ravel() for part in self._parts])
        self.labels = [
            part.label + (f"[{', '.join(map(str, index))}]" if index else "")
            for part in self._parts
            for index in np.ndindex(part.low.shape)
        ]

    def arrays(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """
        Compute the model fields of tasks.

        :param numbers: The numbers of tasks, shape (n, number of labels)
        :return: The fields of the model by name, shape (n, ...)
        """
        n, start = len(numbers), 0
        arrays = {name: np.repeat(value[None], n, axis=0) for name, value in self._original.items()}
        for part in self._parts:
            given = numbers[:, start : start + part.low.size]
            start += part.low.size
            rows = self._original[part.field][part.rows]
            # a number of a row applies to the whole row
            given = given.reshape(n, *part.low.shape, *[1] * (rows.ndim - part.low.ndim))
            where = (slice(None), part.rows) if part.rows is not ... else ...
            arrays[part.field][where] = rows * given if part.scales else np.broadcast_to(given, (n, *rows.shape))
        if self._inertia_follows:
            mass = self._original["body_mass"]
            scale = np.divide(arrays["body_mass"], mass, out=np.ones_like(arrays["body_mass"]), where=mass > 0)
            arrays["body_inertia"] *= scale[..., None]
        return arrays

    def _read(self, model: mujoco.MjModel, argument: str, field: str, bounds: Any) -> None:
        if field not in FIELDS:
            raise ValueError(f"`{argument}` must name fields of the model among {', '.join(FIELDS)}, got {field!r}.")
        if field in self._original:
            raise ValueError(f"`values` must not name {field!r}, which `factors` names already.")
        self._original[field] = np.array(model_field(model, field), dtype=np.float64)
        if not isinstance(bounds, Mapping):
            self._parts.append(self._part(f"`{argument}[{field!r}]`", field, field, ..., argument == "factors", bounds))
            return
        for name, of_name in bounds.items():
            where = f"`{argument}[{field!r}][{name!r}]`"
            rows = _rows(model, where, field, name)
            self._parts.append(self._part(where, f"{field}:{name}", field, rows, argument == "factors", of_name))

    def _part(self, where: str, label: str, field: str, rows: Any, scales: bool, bounds: Any) -> _Part:
        low, high = read_bounds(where, bounds)
        selected = self._original[field][rows]
        has_columns = self._original[field].ndim > (0 if field.startswith("opt.") else 1)
        if has_columns and not scales and low.shape != selected.shape:  # one value for all columns is probably a mistake
            raise ValueError(f"{where} must hold bounds for all of {selected.shape}, got the shape {low.shape}.")
        if low.shape != selected.shape[: low.ndim]:
            raise ValueError(
                f"{where} must hold bounds for one number, for one per row or for all of {selected.shape}, got the shape"
                f" {low.shape}."
            )
        least = "positive" if field in _POSITIVE else "at least 0"
        if (field in _POSITIVE and not (low > 0).all()) or (field in _NOT_NEGATIVE and (low < 0).any()):
            raise ValueError(f"{where} must have lower bounds that are {least}, got {low.tolist()}.")
        if scales and not selected.any():
            raise ValueError(f"{where} must not scale fields that are zero: use `values` instead of `factors`.")
        own = np.ones(low.shape) if scales else _like(selected, low.shape)
        return _Part(label, field, rows, scales, low, high, np.clip(own, low, high))


def model_field(model: mujoco.MjModel, name: str) -> Any:
    """
    Read a field of a model.

    :param model: A model
    :param name: The name of a field; fields of the options begin with ``opt.``
    :return: An array that is a view, or a number
    """
    return getattr(model.opt, name[4:]) if name.startswith("opt.") else getattr(model, name)


def set_model_field(model: mujoco.MjModel, name: str, value: np.ndarray) -> None:
    """
    Write a field of a model.

    :param model: The model to change
    :param name: The name of a field; fields of the options begin with ``opt.``
    :param value: The new value
    """
    if np.ndim(model_field(model, name)):
        model_field(model, name)[:] = value
    else:
        setattr(model.opt, name[4:], float(value))


def read_bounds(where: str, bounds: Any) -> tuple[np.ndarray, np.ndarray]:
    """
    Read and check bounds.

    :param where: The name of the bounds in errors
    :param bounds: A ``Box``, or a pair (low, high) of numbers or arrays
    :return: The lower and upper bounds in float64, of one shape
    :raises ValueError: When they are something else, not finite, or cross
    """
    try:
        low, high = (bounds.low, bounds.high) if isinstance(bounds, spaces.Box) else bounds
        low, high = (np.array(side) for side in np.broadcast_arrays(np.asarray(low, np.float64), np.asarray(high, np.float64)))
    except (TypeError, ValueError):
        raise ValueError(f"{where} must be a Box or a pair (low, high) of numbers or arrays, got {bounds!r}.") from None
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
        raise ValueError(f"{where} must have finite bounds with low <= high, got {_brief(low)} and {_brief(high)}.")
    return low, high


def _mapping(argument: str, given: Any) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(f"`{argument}` must be a dictionary from names of model fields to bounds, got {given!r}.")
    return given


def _rows(model: mujoco.MjModel, where: str, field: str, name: str) -> np.ndarray | int:
    word = field.split("_")[0]
    if word not in _OBJECTS:
        raise ValueError(f"{where} must be bounds, because {field} has no rows with names.")
    index = mujoco.mj_name2id(model, _OBJECTS[word], name) if isinstance(name, str) else -1
    if index < 0:
        kind = "joint" if word in ("dof", "jnt") else word
        raise ValueError(f"{where} must name a {kind} of the model, one of {names_of(model, _OBJECTS[word])}, got {name!r}.")
    if word != "dof":
        return index
    rows = np.flatnonzero(model.dof_jntid == index)
    return rows if len(rows) > 1 else int(rows[0])


def names_of(model: mujoco.MjModel, kind: mujoco.mjtObj) -> list[str]:
    """
    List the names of the model's objects of a kind.

    :param model: A model
    :param kind: A kind of object
    :return: The names of the objects that have one
    """
    n = {
        mujoco.mjtObj.mjOBJ_ACTUATOR: model.nu,
        mujoco.mjtObj.mjOBJ_BODY: model.nbody,
        mujoco.mjtObj.mjOBJ_GEOM: model.ngeom,
        mujoco.mjtObj.mjOBJ_JOINT: model.njnt,
        mujoco.mjtObj.mjOBJ_KEY: model.nkey,
        mujoco.mjtObj.mjOBJ_SENSOR: model.nsensor,
        mujoco.mjtObj.mjOBJ_SITE: model.nsite,
        mujoco.mjtObj.mjOBJ_TENDON: model.ntendon,
    }[kind]
    return [name for name in (mujoco.mj_id2name(model, kind, i) for i in range(n)) if name]


def _like(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Reduce the model's own values to a shape: the first value where one number stands for several."""
    return rows[(...,) + (0,) * (rows.ndim - len(shape))] if rows.ndim > len(shape) else rows


def _brief(values: np.ndarray) -> str:
    text = " ".join(str(values.tolist()).split())
    return text if len(text) <= 100 else text[:97] + "..."

"""What the functions of a MuJoCo family read: fields of MjData, one row per episode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np

from sb3_sgmrl.envs.mujoco_model import names_of

# What MuJoCo integrates or is given; everything else is computed from these.
_INTEGRATED = frozenset({"act", "ctrl", "mocap_pos", "mocap_quat", "qpos", "qvel", "time", "userdata"})
# MuJoCo computes these for sensors only, or only on request.
_FOR_SENSORS = frozenset({"cacc", "cfrc_ext", "cfrc_int", "energy", "qfrc_inverse", "subtree_angmom", "subtree_linvel"})
# They depend on how many simulations share a thread.
_OF_THE_SOLVER = frozenset({"solver_fwdinv", "solver_niter", "solver_nnz"})


class MujocoState:
    """
    The state of n episodes, as the functions of a :class:`~sb3_sgmrl.MujocoFamily` get it. Fields of ``MjData`` are
    attributes of the shape (n, ...), such as ``state.qpos`` and ``state.site_xpos``; they cannot be written to.

    :param model: the model
    :param field: gives the rows of a field by its name
    :param ids: where places of named objects are kept
    """

    #: What ``remember`` returned before the step, shape (n, ...); ``None`` when an episode begins.
    before: Any
    #: Scratch space of the family's functions, empty when a step begins.
    cache: dict[str, Any]

    def __init__(self, model: mujoco.MjModel, field: Callable[[str], np.ndarray], ids: dict[Any, Any]):
        self._model = model
        self._field = field
        self._ids = ids
        self.before = None
        self.cache = {}

    def __getattr__(self, name: str) -> np.ndarray:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._field(name)

    def sensor(self, name: str) -> np.ndarray:
        """
        :param name: of a sensor
        :return: its readings, shape (n, dimension of the sensor)
        :raises ValueError: if the model has no such sensor
        """
        return self._field("sensordata")[:, self._place(mujoco.mjtObj.mjOBJ_SENSOR, "sensor", name)]

    def site(self, name: str) -> np.ndarray:
        """
        :param name: of a site
        :return: its position in the world in m, shape (n, 3)
        :raises ValueError: if the model has no such site
        """
        return self._field("site_xpos")[:, self._place(mujoco.mjtObj.mjOBJ_SITE, "site", name)]

    def body(self, name: str) -> np.ndarray:
        """
        :param name: of a body
        :return: the position of its frame in the world in m, shape (n, 3)
        :raises ValueError: if the model has no such body
        """
        return self._field("xpos")[:, self._place(mujoco.mjtObj.mjOBJ_BODY, "body", name)]

    def _place(self, kind: mujoco.mjtObj, word: str, name: str) -> Any:
        if (word, name) not in self._ids:
            self._ids[word, name] = find_place(self._model, kind, word, name)
        return self._ids[word, name]


def find_place(model: mujoco.MjModel, kind: mujoco.mjtObj, word: str, name: str) -> Any:
    """
    :param model: the model
    :param kind: of the object
    :param word: the kind in words
    :param name: of the object
    :return: its index; a slice of ``sensordata`` for a sensor
    :raises ValueError: if there is none
    """
    index = mujoco.mj_name2id(model, kind, name) if isinstance(name, str) else -1
    if index < 0:
        raise ValueError(f"`name` of a {word} must be one of {names_of(model, kind)}, got {name!r}.")
    if kind is not mujoco.mjtObj.mjOBJ_SENSOR:
        return index
    start = int(model.sensor_adr[index])
    return slice(start, start + int(model.sensor_dim[index]))


def is_computed(name: str) -> bool:
    """
    :param name: of a field of MjData
    :return: whether MuJoCo computes it from the state
    """
    return name not in _INTEGRATED


def check_field(data: mujoco.MjData, name: str) -> None:
    """
    :param data: of the model
    :param name: of a field that a function reads
    :raises AttributeError: if both forms cannot give it
    """
    if name in _FOR_SENSORS | _OF_THE_SOLVER:
        raise AttributeError(f"A family must not read {name!r}, which MuJoCo does not always compute: use a sensor instead.")
    try:
        from mujoco.batch import DATA_FIELDS
    except ImportError:  # then there is a single form only
        DATA_FIELDS = [field for field in dir(data) if isinstance(getattr(data, field), np.ndarray)]
    if name not in DATA_FIELDS or (np.ndim(getattr(data, name)) == 0 and name != "time"):
        raise AttributeError(
            f"The state of a family must be read by fields of MjData such as qpos or site_xpos, got {name!r}."
        )


def frozen(array: np.ndarray) -> np.ndarray:
    """
    :param array: any
    :return: a view that cannot be written to
    """
    view = array.view()
    view.flags.writeable = False
    return view

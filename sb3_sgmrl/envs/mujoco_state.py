"""The state that the functions of a MuJoCo family read: fields of MjData, one row per episode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np

from sb3_sgmrl.envs.mujoco_model import names_of

# The fields that MuJoCo integrates or receives; it computes all others from these.
_INTEGRATED = frozenset({"act", "ctrl", "mocap_pos", "mocap_quat", "qpos", "qvel", "time", "userdata"})
# MuJoCo computes these for sensors only, or only on request.
_FOR_SENSORS = frozenset({"cacc", "cfrc_ext", "cfrc_int", "energy", "qfrc_inverse", "subtree_angmom", "subtree_linvel"})
# These depend on the number of simulations per thread.
_OF_THE_SOLVER = frozenset({"solver_fwdinv", "solver_niter", "solver_nnz"})


class MujocoState:
    """
    The state of n episodes, as the functions of a :class:`~sb3_sgmrl.MujocoFamily` receive it.

    Fields of ``MjData`` are read-only attributes of shape (n, ...), such as ``state.qpos`` and ``state.site_xpos``.

    :param model: The model
    :param field: The function that returns the rows of a field by name
    :param ids: The cache of places of named objects
    """

    #: The result of ``remember`` before the step, shape (n, ...); ``None`` when an episode begins.
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
        Read a sensor.

        :param name: The name of a sensor
        :return: The readings, shape (n, dimension of the sensor)
        :raises ValueError: When the model has no such sensor
        """
        return self._field("sensordata")[:, self._place(mujoco.mjtObj.mjOBJ_SENSOR, "sensor", name)]

    def site(self, name: str) -> np.ndarray:
        """
        Read the position of a site.

        :param name: The name of a site
        :return: The positions in the world in m, shape (n, 3)
        :raises ValueError: When the model has no such site
        """
        return self._field("site_xpos")[:, self._place(mujoco.mjtObj.mjOBJ_SITE, "site", name)]

    def body(self, name: str) -> np.ndarray:
        """
        Read the position of a body.

        :param name: The name of a body
        :return: The positions of its frame in the world in m, shape (n, 3)
        :raises ValueError: When the model has no such body
        """
        return self._field("xpos")[:, self._place(mujoco.mjtObj.mjOBJ_BODY, "body", name)]

    def _place(self, kind: mujoco.mjtObj, word: str, name: str) -> Any:
        if (word, name) not in self._ids:
            self._ids[word, name] = find_place(self._model, kind, word, name)
        return self._ids[word, name]


def find_place(model: mujoco.MjModel, kind: mujoco.mjtObj, word: str, name: str) -> Any:
    """
    Find a named object.

    :param model: The model
    :param kind: The kind of object
    :param word: The kind in words
    :param name: The name of the object
    :return: The index; a slice of ``sensordata`` for a sensor
    :raises ValueError: When the model has no such object
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
    Check whether MuJoCo computes a field from the state.

    :param name: The name of a field of MjData
    :return: Whether MuJoCo computes the field from the state
    """
    return name not in _INTEGRATED


def check_field(data: mujoco.MjData, name: str) -> None:
    """
    Check that both forms of an environment provide a field.

    :param data: The data of the model
    :param name: The name of a field that a function reads
    :raises AttributeError: When one of the forms does not provide the field
    """
    if name in _FOR_SENSORS | _OF_THE_SOLVER:
        raise AttributeError(f"A family must not read {name!r}, which MuJoCo does not always compute: use a sensor instead.")
    try:
        from mujoco.batch import DATA_FIELDS
    except ImportError:  # then only the single form exists
        DATA_FIELDS = [field for field in dir(data) if isinstance(getattr(data, field), np.ndarray)]
    if name not in DATA_FIELDS or (np.ndim(getattr(data, name)) == 0 and name != "time"):
        raise AttributeError(
            f"The state of a family must be read by fields of MjData such as qpos or site_xpos, got {name!r}."
        )


def frozen(array: np.ndarray) -> np.ndarray:
    """
    Make a read-only view of an array.

    :param array: An array
    :return: The read-only view
    """
    view = array.view()
    view.flags.writeable = False
    return view

"""
Read model files from before 0.1, which are SB3's zips of pickles.

Reading such a file runs the code in it. Therefore nothing is unpickled until the user declares that they trust its author.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from typing import IO, Any

from stable_baselines3.common.save_util import load_from_zip_file

from sb3_sgmrl.common.files.model_file import ModelFile
from sb3_sgmrl.score_terms.names import ScoreMemory
from sb3_sgmrl.util.archive import BadFileError

# the members that SB3 saves for every algorithm
_PARTS = frozenset({"data", "policy.pth", "policy.optimizer.pth"})
_PICKLED = ":serialized:"
# the current modules of pickled classes
_MOVED = {
    "sb3_sgmrl.common.score_weight": "sb3_sgmrl.gradient.score_weight",
    "sb3_sgmrl.common.control_variates": "sb3_sgmrl.score_terms.control_variates",
    "sb3_sgmrl.common.step_sizes": "sb3_sgmrl.gradient.step_sizes",
    "sb3_sgmrl.common.advantages": "sb3_sgmrl.gradient.advantages",
    "sb3_sgmrl.common.task_dist": "sb3_sgmrl.tasks.task_dist_env",
    "sb3_sgmrl.common.tasks": "sb3_sgmrl.tasks.distribution",
    "sb3_sgmrl.common.task_sources": "sb3_sgmrl.tasks.sources",
    "sb3_sgmrl.common.batch": "sb3_sgmrl.data.batch",
}


def is_legacy(file: IO[bytes]) -> bool:
    """
    Return whether a file is a zip in SB3's format.

    :param file: The file; its position does not change
    :return: Whether the file is a zip in SB3's format
    """
    position = file.tell()
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            return "data" in names and "manifest.json" not in names
    except Exception:  # zipfile may raise anything for invalid bytes
        return False
    finally:
        file.seek(position)


def legacy_algorithm(file: IO[bytes]) -> str:
    """
    Return the name of the class that saved a model, without unpickling anything.

    :param file: A zip in SB3's format; its position does not change
    :return: The name of the class
    :raises BadFileError: When the file is damaged or another package saved it
    """
    data, names = _read_data(file)
    if not _PARTS <= names or not isinstance(data, dict) or not isinstance(data.get("algorithm_name"), str):
        raise BadFileError("is damaged or was not saved by sb3_sgmrl")
    return data["algorithm_name"]


def _read_data(file: IO[bytes]) -> tuple[Any, set[str]]:
    position = file.tell()
    try:
        with zipfile.ZipFile(file) as archive:
            if archive.getinfo("data").compress_type != zipfile.ZIP_STORED:
                raise BadFileError("is compressed, which is never unpacked")
            return json.loads(archive.read("data")), set(archive.namelist())
    except BadFileError:
        raise
    except Exception as error:  # zipfile and json may raise anything for invalid bytes
        raise BadFileError(f"is cut off or is not a saved model: {str(error).rstrip('.')}") from error
    finally:
        file.seek(position)


def read_legacy(file: IO[bytes], custom_objects: Mapping[str, Any] | None = None) -> ModelFile:
    """
    Unpickle a model, which runs any code in it.

    :param file: A zip in SB3's format
    :param custom_objects: The attributes to use instead of the file's attributes
    :return: The contents of the file
    :raises BadFileError: When the file is damaged, or needs a class that no longer exists
    """
    algorithm, (data, _) = legacy_algorithm(file), _read_data(file)
    given = dict(custom_objects or {})
    settings = {name: given[name] if name in given else _value(name, value) for name, value in data.items()}
    del settings["algorithm_name"]
    parameters: Any
    try:
        _, parameters, _ = load_from_zip_file(file, load_data=False, device="cpu")  # type: ignore[arg-type]
    except Exception as error:  # torch may raise anything for invalid bytes
        raise BadFileError(f"is damaged: {_one_line(error)}") from error
    for name in ("lr_schedule", "algorithm_name"):
        settings.pop(name, None)
    if "_task_regression" in settings:
        settings["_score_memory"] = ScoreMemory(settings.pop("_task_regression"), settings.pop("_variate_scaling"))
    elif "_score_memory" in settings:  # fields that the file lacks have their defaults
        settings["_score_memory"] = ScoreMemory(**vars(settings["_score_memory"]))
    return ModelFile(algorithm, settings, parameters)


def _value(name: str, value: Any) -> Any:
    if not (isinstance(value, dict) and _PICKLED in value):
        return value
    try:
        return _Unpickler(io.BytesIO(base64.b64decode(value[_PICKLED]))).load()
    except Exception as error:  # a pickle may run and raise anything
        raise BadFileError(
            f"holds a `{name}` that cannot be unpickled ({type(error).__name__}: {_one_line(error)}): pass "
            f"custom_objects={{'{name}': ...}}, or train the model again"
        ) from error


class _Unpickler(pickle.Unpickler):
    """An unpickler that maps the old modules of classes to their current modules."""

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(_MOVED.get(module, module), name)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")

"""
Files of before 0.1: SB3's zip of pickles. Reading one runs the code in it, so nothing does unless it is told that the author
is trusted.
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

# what SB3 keeps of every algorithm
_PARTS = frozenset({"data", "policy.pth", "policy.optimizer.pth"})
_PICKLED = ":serialized:"
# where the classes that were pickled are now
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
    :param file: a file, whose position stays
    :return: whether it is a zip as SB3 writes it
    """
    position = file.tell()
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            return "data" in names and "manifest.json" not in names
    except Exception:  # whatever zipfile finds in bytes that make no sense
        return False
    finally:
        file.seek(position)


def legacy_algorithm(file: IO[bytes]) -> str:
    """
    :param file: a zip as SB3 writes it, whose position stays
    :return: name of the class that saved it; nothing is unpickled
    :raises BadFileError: when it is damaged or was saved by another package
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
    except Exception as error:  # whatever zipfile and json find in bytes that make no sense
        raise BadFileError(f"is cut off or is not a saved model: {str(error).rstrip('.')}") from error
    finally:
        file.seek(position)


def read_legacy(file: IO[bytes], custom_objects: Mapping[str, Any] | None = None) -> ModelFile:
    """
    Unpickle a model, which runs whatever is in it.

    :param file: a zip as SB3 writes it
    :param custom_objects: attributes to use instead of those in the file
    :return: what it says
    :raises BadFileError: when it is damaged, or what it was pickled of is not there any more
    """
    algorithm, (data, _) = legacy_algorithm(file), _read_data(file)
    given = dict(custom_objects or {})
    settings = {name: given[name] if name in given else _value(name, value) for name, value in data.items()}
    del settings["algorithm_name"]
    parameters: Any
    try:
        _, parameters, _ = load_from_zip_file(file, load_data=False, device="cpu")  # type: ignore[arg-type]
    except Exception as error:  # whatever torch finds
        raise BadFileError(f"is damaged: {_one_line(error)}") from error
    for name in ("lr_schedule", "algorithm_name"):
        settings.pop(name, None)
    if "_task_regression" in settings:
        settings["_score_memory"] = ScoreMemory(settings.pop("_task_regression"), settings.pop("_variate_scaling"))
    return ModelFile(algorithm, settings, parameters)


def _value(name: str, value: Any) -> Any:
    if not (isinstance(value, dict) and _PICKLED in value):
        return value
    try:
        return _Unpickler(io.BytesIO(base64.b64decode(value[_PICKLED]))).load()
    except Exception as error:  # whatever a pickle runs
        raise BadFileError(
            f"holds a `{name}` that cannot be unpickled ({type(error).__name__}: {_one_line(error)}): pass "
            f"custom_objects={{'{name}': ...}}, or train the model again"
        ) from error


class _Unpickler(pickle.Unpickler):
    """Finds classes where they are now."""

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(_MOVED.get(module, module), name)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")

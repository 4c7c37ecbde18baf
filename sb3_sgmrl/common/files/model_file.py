"""Read and write the file of a model, a zip of JSON and tensors. See the page "Sharing a model"."""

from __future__ import annotations

import pathlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import IO, Any

from gymnasium import spaces

from sb3_sgmrl.common.files.encoding import Decoder, Encoder
from sb3_sgmrl.common.files.statistics import check_statistics
from sb3_sgmrl.util.archive import Archive, BadFileError, read_archive, read_facts, to_json, to_tensors, write_archive

FORMAT, FORMAT_VERSION = "a model of sb3_sgmrl", 1
_SETTINGS, _STATISTICS = "data", "vec_normalize"
_PACKAGES = ("stable_baselines3", "torch", "gymnasium", "numpy", "safetensors")
_FACTS = {"format", "format_version", "algorithm", "settings", "left_out", "needs", "versions"}


@dataclass(frozen=True)
class ModelFile:
    """
    The contents of a model file.

    :param algorithm: The name of the algorithm's class
    :param settings: The attributes by name
    :param parameters: The state dictionaries by name, in the form of SB3's ``get_parameters``
    :param statistics: The VecNormalize statistics, if the model was trained in one
    :param left_out: The attributes that ``save(exclude=...)`` left out
    :param versions: The versions of the packages that saved the model
    """

    algorithm: str
    settings: dict[str, Any]
    parameters: dict[str, dict[str, Any]]
    statistics: dict[str, Any] | None = None
    left_out: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


def write_model(file: IO[bytes], model: ModelFile) -> None:
    """
    Write a model to a file.

    :param file: The file to write to
    :param model: The contents to write
    """
    parts: dict[str, Any] = {_SETTINGS: model.settings, **model.parameters}
    if model.statistics is not None:
        parts[_STATISTICS] = model.statistics
    members, foreign = {}, {}
    for name, part in parts.items():
        encoder = Encoder()
        items = {key: encoder.encode(value, str(key)) for key, value in part.items()}
        members[f"{name}.json"] = to_json(items)
        members[f"{name}.safetensors"] = to_tensors(encoder.tensors)
        foreign.update(encoder.foreign)
    facts = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "algorithm": model.algorithm,
        "settings": sorted(model.settings),
        "left_out": model.left_out,
        "needs": {"vec_normalize": model.statistics is not None, "classes": sorted(set(foreign.values()))},
        "versions": versions(),
    }
    write_archive(file, facts, members)


@cache
def versions() -> dict[str, str]:
    """
    List the versions of Python and of the packages that a model depends on.

    :return: The version of each package by name
    """
    own = (pathlib.Path(__file__).parents[2] / "version.txt").read_text().strip()
    found = {"python": platform.python_version(), "sb3_sgmrl": own}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # the package may be imported from a checkout
            continue
    return found


def read_algorithm(file: IO[bytes]) -> str:
    """
    Return the name of the class that saved a model.

    :param file: The file of a model
    :return: The name of the class
    :raises BadFileError: When the file is not a model of this package
    """
    return _checked_facts(read_facts(file, FORMAT, FORMAT_VERSION))["algorithm"]


def read_model(file: IO[bytes], custom_objects: Mapping[str, Any] | None = None) -> ModelFile:
    """
    Read the file of a model, without importing a class or building the model.

    :param file: The file of a model
    :param custom_objects: The attributes to use instead of the file's attributes
    :return: The contents of the file
    :raises BadFileError: When the file was altered, is not a model, or names a class that files may not name
    """
    archive = read_archive(file, FORMAT, FORMAT_VERSION)
    facts = _checked_facts(dict(archive.facts))
    names = set(archive.names(".json"))
    if names != set(archive.names(".safetensors")):
        raise BadFileError("is damaged: a part lacks its JSON or its tensors")
    settings = _read_part(archive, _SETTINGS, custom_objects or {})
    for name in facts["settings"]:
        if name not in settings:
            raise BadFileError(f"lacks `{name}`, which its manifest lists")
    if additional := settings.keys() - facts["settings"]:
        raise BadFileError(f"holds `{min(additional)}`, which its manifest does not list")
    statistics = None
    if facts["needs"]["vec_normalize"]:
        statistics = _checked_statistics(_read_part(archive, _STATISTICS), settings.get("observation_space"))
    parameters = {name: _read_part(archive, name) for name in sorted(names - {_SETTINGS, _STATISTICS})}
    if statistics is None and _STATISTICS in names:
        raise BadFileError("holds statistics of VecNormalize, which its manifest does not mention")
    return ModelFile(facts["algorithm"], settings, parameters, statistics, facts["left_out"], facts["versions"])


def _checked_facts(facts: dict[str, Any]) -> dict[str, Any]:
    facts.pop("members", None)
    needs = facts.get("needs")
    is_right = (
        facts.keys() == _FACTS
        and isinstance(facts["algorithm"], str)
        and _is_list_of_text(facts["settings"])
        and _is_list_of_text(facts["left_out"])
        and isinstance(needs, dict)
        and needs.keys() == {"vec_normalize", "classes"}
        and type(needs["vec_normalize"]) is bool
        and _is_list_of_text(needs["classes"])
        and isinstance(facts["versions"], dict)
        and _is_list_of_text([*facts["versions"].values()])
    )
    if not is_right:
        raise BadFileError("is damaged: its manifest does not say what it must")
    return facts


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _read_part(archive: Archive, name: str, replaced: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the values of one part by name. Replaced values are not decoded."""
    items = archive.json(name)
    if not isinstance(items, dict):
        raise BadFileError(f"is damaged: {name}.json holds no names")
    decoder = Decoder(archive.tensors(name))
    try:
        values = {
            key: replaced[key] if replaced and key in replaced else decoder.decode(item, key) for key, item in items.items()
        }
    except RecursionError as error:
        raise BadFileError(f"is damaged: {name}.json is too deep") from error
    if not replaced:
        decoder.check_all_used()
    return values


def _checked_statistics(statistics: Any, observation_space: Any) -> dict[str, Any]:
    try:
        if not isinstance(observation_space, spaces.Space):
            raise ValueError("there is no observation space")
        return dict(check_statistics(statistics, observation_space))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadFileError(f"holds wrong statistics of VecNormalize: {error}") from error

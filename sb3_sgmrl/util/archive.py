"""
A zip of data: JSON and tensors, with a manifest that has the hash of every member. Nothing in it is code, nothing is unpacked
before its size is known, and what was altered is found.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any, NoReturn

import torch as th
from safetensors import SafetensorError
from safetensors import torch as safetensors

MANIFEST = "manifest.json"
# of JSON, in bytes; tensors are as large as the file is, because nothing is compressed
_LARGEST_JSON = 64 * 2**20
_MOST_MEMBERS = 64
_MEMBER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,99}\.(json|safetensors)")
_OLDEST = (1980, 1, 1, 0, 0, 0)  # the only time stamp, so that equal contents are equal files


class BadFileError(ValueError):
    """What is wrong with a file, to be said after its name."""


@dataclass(frozen=True)
class Archive:
    """
    What an archive holds.

    :param facts: the manifest without the list of members
    :param members: contents by name, without the manifest
    """

    facts: Mapping[str, Any]
    members: Mapping[str, bytes]

    def names(self, suffix: str) -> list[str]:
        """
        :param suffix: ``.json`` or ``.safetensors``
        :return: names of the members of this kind, without the suffix
        """
        return [name.removesuffix(suffix) for name in self.members if name.endswith(suffix)]

    def json(self, name: str) -> Any:
        """
        :param name: of a member, without ``.json``
        :return: what it says
        :raises BadFileError: when it is missing or says nothing
        """
        return parse_json(self._member(f"{name}.json"), f"{name}.json")

    def tensors(self, name: str) -> dict[str, th.Tensor]:
        """
        :param name: of a member, without ``.safetensors``
        :return: tensors by name, on the processor
        :raises BadFileError: when it is missing or holds no tensors
        """
        content = self._member(f"{name}.safetensors")
        try:
            return safetensors.load(content)
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError, AttributeError) as error:
            raise BadFileError(f"holds no tensors in {name}.safetensors: {_one_line(error)}") from error

    def _member(self, name: str) -> bytes:
        if name not in self.members:
            raise BadFileError(f"lacks {name}")
        return self.members[name]


def to_json(value: Any) -> bytes:
    """
    :param value: finite numbers, text, lists and dictionaries
    :return: JSON
    """
    return json.dumps(value, allow_nan=False, indent=1).encode()


def to_tensors(tensors: Mapping[str, th.Tensor]) -> bytes:
    """
    :param tensors: by name
    :return: a safetensors file
    """
    return safetensors.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def parse_json(content: bytes, name: str) -> Any:
    """
    :param content: JSON
    :param name: of the member, for an error
    :return: what it says
    :raises BadFileError: when it is not JSON, has a key twice, or a number that is not finite
    """
    try:
        return json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=_not_finite, parse_float=_finite_number)
    except (ValueError, RecursionError) as error:
        raise BadFileError(f"holds no JSON in {name}: {_one_line(error)}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _finite_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__


# ---------------------------------------------------------------- writing


def write_archive(file: IO[bytes], facts: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    """
    :param file: where to
    :param facts: of the manifest, such as the version of the format
    :param members: contents by name, ending in ``.json`` or ``.safetensors``
    """
    listed = {name: {"sha256": _hash(content), "size": len(content)} for name, content in members.items()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {MANIFEST: to_json({**facts, "members": listed}), **members}.items():
            info = zipfile.ZipInfo(name, _OLDEST)
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---------------------------------------------------------------- reading


def is_archive(file: IO[bytes]) -> bool:
    """
    :param file: a file, whose position stays
    :return: whether it is a zip with a manifest
    """
    position = file.tell()
    try:
        with zipfile.ZipFile(file) as archive:
            return MANIFEST in archive.namelist()
    except Exception:  # whatever zipfile finds in bytes that make no sense
        return False
    finally:
        file.seek(position)


def read_facts(file: IO[bytes], name: str, version: int) -> dict[str, Any]:
    """
    :param file: an archive
    :param name: of its format
    :param version: of the format, the newest that is known
    :return: the manifest
    :raises BadFileError: when it is no such archive
    """
    with _opened(file) as archive:
        return _manifest(archive, name, version)


def read_archive(file: IO[bytes], name: str, version: int) -> Archive:
    """
    Read an archive whole, or not at all.

    :param file: an archive
    :param name: of its format
    :param version: of the format, the newest that is known
    :return: what it holds
    :raises BadFileError: when it is no such archive, or was altered
    """
    with _opened(file) as archive:
        facts = _manifest(archive, name, version)
        listed = facts.pop("members")
        members = {}
        for info in archive.infolist():
            if info.filename == MANIFEST:
                continue
            content = _read(archive, info)
            entry = listed.get(info.filename)
            if entry is None:
                raise BadFileError(f"holds {info.filename}, which its manifest does not list")
            if entry["size"] != len(content) or entry["sha256"] != _hash(content):
                raise BadFileError(f"is damaged: {info.filename} is not what its manifest has the hash of")
            members[info.filename] = content
        for member in listed:
            if member not in members:
                raise BadFileError(f"lacks {member}, which its manifest lists")
    return Archive(facts, members)


def _opened(file: IO[bytes]) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(file)
        infos = archive.infolist()
    except Exception as error:  # whatever zipfile finds in bytes that make no sense
        raise BadFileError(f"is cut off or is not a saved model: {_one_line(error)}") from error
    try:
        _check_members(archive, infos)
    except BadFileError:
        archive.close()
        raise
    return archive


def _check_members(archive: zipfile.ZipFile, infos: Iterable[zipfile.ZipInfo]) -> None:
    names = [info.filename for info in infos]
    if archive.comment:
        raise BadFileError("is damaged: it has a comment")
    if len(names) > _MOST_MEMBERS:
        raise BadFileError(f"holds {len(names)} members, more than {_MOST_MEMBERS}")
    for info in infos:
        if not _MEMBER.fullmatch(info.filename):
            raise BadFileError(f"holds {info.filename[:100]!r}, which is neither JSON nor tensors")
        if names.count(info.filename) > 1:
            raise BadFileError(f"holds {info.filename} twice")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits or info.file_size != info.compress_size:
            raise BadFileError(f"holds {info.filename} compressed or encrypted, which is never unpacked")
        if info.filename.endswith(".json") and info.file_size > _LARGEST_JSON:
            raise BadFileError(f"holds {info.file_size} bytes in {info.filename}, more than {_LARGEST_JSON}")


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(info)
    except Exception as error:  # as above; what is not stored, or larger than the file, is refused before
        raise BadFileError(f"is damaged in {info.filename}: {_one_line(error)}") from error


def _manifest(archive: zipfile.ZipFile, name: str, version: int) -> dict[str, Any]:
    found = [info for info in archive.infolist() if info.filename == MANIFEST]
    if not found:
        raise BadFileError(f"has no {MANIFEST}: it is not {name}")
    facts = parse_json(_read(archive, found[0]), MANIFEST)
    if not isinstance(facts, dict) or facts.get("format") != name:
        raise BadFileError(f"is not {name}")
    saved = facts.get("format_version")
    if type(saved) is not int or saved < 1:
        raise BadFileError(f"has no format version in its {MANIFEST}")
    if saved > version:
        raise BadFileError(f"is of format version {saved}, and this version of the package reads up to {version}: upgrade it")
    if not _lists_members(facts.get("members")):
        raise BadFileError(f"is damaged: {MANIFEST} does not list the members")
    return facts


def _lists_members(listed: Any) -> bool:
    return isinstance(listed, dict) and all(
        isinstance(entry, dict)
        and entry.keys() == {"sha256", "size"}
        and type(entry["size"]) is int
        and isinstance(entry["sha256"], str)
        for entry in listed.values()
    )

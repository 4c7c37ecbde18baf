"""
Read and write zips of JSON and tensors, with a manifest that holds the hash of every member.

The members hold no code. Sizes are checked before anything is unpacked, and hashes are checked after reading.
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
# in bytes, for JSON; tensors cannot be larger than the file, because nothing is compressed
_LARGEST_JSON = 64 * 2**20
_MOST_MEMBERS = 64
_MEMBER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,99}\.(json|safetensors)")
_OLDEST = (1980, 1, 1, 0, 0, 0)  # the only time stamp, so that equal contents give equal files


class BadFileError(ValueError):
    """An invalid file. The message follows the name of the file."""


@dataclass(frozen=True)
class Archive:
    """
    The contents of an archive.

    :param facts: The manifest without the list of members
    :param members: The contents by name, without the manifest
    """

    facts: Mapping[str, Any]
    members: Mapping[str, bytes]

    def names(self, suffix: str) -> list[str]:
        """
        Return the names of the members of one kind.

        :param suffix: The kind, ``.json`` or ``.safetensors``
        :return: The names without the suffix
        """
        return [name.removesuffix(suffix) for name in self.members if name.endswith(suffix)]

    def json(self, name: str) -> Any:
        """
        Return the value of a JSON member.

        :param name: The name of the member, without ``.json``
        :return: The value
        :raises BadFileError: When the member is missing or is not valid JSON
        """
        return parse_json(self._member(f"{name}.json"), f"{name}.json")

    def tensors(self, name: str) -> dict[str, th.Tensor]:
        """
        Return the tensors of a member.

        :param name: The name of the member, without ``.safetensors``
        :return: The tensors by name, on the CPU
        :raises BadFileError: When the member is missing or holds no tensors
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
    Encode a value as JSON.

    :param value: The value: finite numbers, text, lists and dictionaries
    :return: The JSON text in bytes
    """
    return json.dumps(value, allow_nan=False, indent=1).encode()


def to_tensors(tensors: Mapping[str, th.Tensor]) -> bytes:
    """
    Encode tensors in the safetensors format.

    :param tensors: The tensors by name
    :return: The contents of a safetensors file
    """
    return safetensors.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def parse_json(content: bytes, name: str) -> Any:
    """
    Decode JSON strictly.

    :param content: The JSON text in bytes
    :param name: The name of the member, for errors
    :return: The value
    :raises BadFileError: When the JSON is invalid, has a duplicate key, or a number that is not finite
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
    Write an archive.

    :param file: The file to write to
    :param facts: The facts for the manifest, such as the version of the format
    :param members: The contents by name; names end in ``.json`` or ``.safetensors``
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
    Return whether a file is a zip with a manifest.

    :param file: The file; its position does not change
    :return: Whether the file is a zip with a manifest
    """
    position = file.tell()
    try:
        with zipfile.ZipFile(file) as archive:
            return MANIFEST in archive.namelist()
    except Exception:  # zipfile may raise anything for invalid bytes
        return False
    finally:
        file.seek(position)


def read_facts(file: IO[bytes], name: str, version: int) -> dict[str, Any]:
    """
    Read only the manifest of an archive.

    :param file: The archive
    :param name: The name of the format
    :param version: The newest known version of the format
    :return: The manifest
    :raises BadFileError: When the file is not an archive of this format
    """
    with _opened(file) as archive:
        return _manifest(archive, name, version)


def read_archive(file: IO[bytes], name: str, version: int) -> Archive:
    """
    Read an archive completely or not at all.

    :param file: The archive
    :param name: The name of the format
    :param version: The newest known version of the format
    :return: The contents
    :raises BadFileError: When the file is not an archive of this format, or was altered
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
    except Exception as error:  # zipfile may raise anything for invalid bytes
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
    except Exception as error:  # as above; _check_members has already refused compressed or oversized members
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

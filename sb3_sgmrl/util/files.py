"""Files that are either complete or as they were before."""

from __future__ import annotations

import os
import pathlib
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed
    fcntl = None  # type: ignore[assignment]

_SUFFIX = ".partial"
# a file name has at most 255 bytes, some of which are needed to make it unique
_LONGEST_STEM = 200
# seconds after which a leftover is removed where there are no locks
_OLD = 3600.0


@contextmanager
def replace_when_complete(path: str | pathlib.Path) -> Iterator[IO[bytes]]:
    """
    A binary file that takes the place of an existing one only after everything was written: a crash, an interrupt or a full
    disk leaves the previous file as it was. Several threads, processes or containers may write to the same path: each writes
    a file of its own, and the last one to finish stays. What killed writers left is removed.

    :param path: the file
    :return: the file to write to, to be used in a ``with`` statement
    :raises IsADirectoryError: when ``path`` is a folder
    """
    target = pathlib.Path(path).resolve()  # a link stays one
    if target.is_dir():
        raise IsADirectoryError(f"`path` {path} is a folder; a file is needed.")
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    file, partial = _open_partial(target)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, partial)
            # before the lock is released, or another writer could take it for a leftover
            os.replace(partial, target)
        _sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _stem(target: pathlib.Path) -> str:
    return "." + os.fsdecode(os.fsencode(target.name)[:_LONGEST_STEM]) + "."


def _open_partial(target: pathlib.Path) -> tuple[IO[bytes], pathlib.Path]:
    """A new file beside the target, locked as long as it is open."""
    while True:
        partial = target.with_name(f"{_stem(target)}{secrets.token_hex(8)}{_SUFFIX}")
        file = open(partial, "xb")
        if _lock(file) and _is_at(file, partial):
            return file, partial
        file.close()  # another writer took it for a leftover before it was locked


def _lock(file: IO[bytes]) -> bool:
    """Whether nobody else has a lock on the file. The system releases locks of processes that are killed."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _is_at(file: IO[bytes], path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _remove_leftovers(target: pathlib.Path) -> None:
    """Of writers of this file that were killed."""
    stem = _stem(target)
    with suppress(OSError):
        for entry in os.scandir(target.parent):
            if entry.name.startswith(stem) and entry.name.endswith(_SUFFIX):
                _remove_if_left(pathlib.Path(entry.path))


def _remove_if_left(partial: pathlib.Path) -> None:
    with suppress(OSError), open(partial, "rb+") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an OSError when its writer is alive, or without locks
        elif time.time() - os.fstat(file.fileno()).st_mtime < _OLD:
            return
        if _is_at(file, partial):  # else it became the target meanwhile
            partial.unlink()


def _sync_folder(folder: pathlib.Path) -> None:
    """The new name must survive a power cut too."""
    with suppress(OSError):  # of systems where folders cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def with_zip_suffix(path: str | pathlib.Path) -> pathlib.Path:
    """
    :param path: as SB3's ``save`` and ``load`` take it
    :return: with ``.zip`` when it has no suffix
    """
    path = pathlib.Path(path)
    return path.with_suffix(".zip") if path.suffix == "" else path

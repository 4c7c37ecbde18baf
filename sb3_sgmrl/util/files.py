"""Write files so that a path always holds a complete file, either the old one or the new one."""

from __future__ import annotations

import os
import pathlib
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from sb3_sgmrl.util.validation import check_path

try:
    import fcntl
except ImportError:  # Windows, which cannot remove an open file
    fcntl = None  # type: ignore[assignment]

_SUFFIX = ".partial"
# a file name has at most 255 bytes; some of them make it unique
_LONGEST_STEM = 200
# on systems without locks, the age in seconds at which a leftover is removed
_OLD = 3600.0


@contextmanager
def replace_when_complete(path: str | pathlib.Path) -> Iterator[IO[bytes]]:
    """
    Open a new binary file that replaces an existing file only after everything is written.

    A crash, an interrupt or a full disk leaves the previous file unchanged. Several threads, processes or containers may write
    to the same path. Each of them writes to a separate file, and the last one to finish determines the result. Files left by
    killed writers are removed.

    :param path: The path of the file
    :return: The file to write to, for use in a ``with`` statement
    :raises IsADirectoryError: When ``path`` is a folder
    :raises ValueError: When ``path`` is no path
    """
    check_path("path", path)
    target = pathlib.Path(path).resolve()  # replace the target of a link, not the link
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
            # rename before releasing the lock, or another writer could remove the file as a leftover
            os.replace(partial, target)
        _sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _stem(target: pathlib.Path) -> str:
    return "." + os.fsdecode(os.fsencode(target.name)[:_LONGEST_STEM]) + "."


def _open_partial(target: pathlib.Path) -> tuple[IO[bytes], pathlib.Path]:
    """Create a new file beside the target, locked while it is open."""
    while True:
        partial = target.with_name(f"{_stem(target)}{secrets.token_hex(8)}{_SUFFIX}")
        file = open(partial, "xb")
        if _lock(file) and _is_at(file, partial):
            return file, partial
        file.close()  # another writer removed the file as a leftover before it was locked


def _lock(file: IO[bytes]) -> bool:
    """Lock the file, and return whether it succeeded. The system releases the locks of killed processes."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks
        return True
    return True


def _is_at(file: IO[bytes], path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _remove_leftovers(target: pathlib.Path) -> None:
    """Remove the files that killed writers of this target left."""
    stem = _stem(target)
    with suppress(OSError):
        for entry in os.scandir(target.parent):
            if entry.name.startswith(stem) and entry.name.endswith(_SUFFIX):
                _remove_if_left(pathlib.Path(entry.path))


def _remove_if_left(partial: pathlib.Path) -> None:
    with suppress(OSError), open(partial, "rb+") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises OSError if the writer is alive or locks are missing
        elif time.time() - os.fstat(file.fileno()).st_mtime < _OLD:
            return
        if _is_at(file, partial):  # otherwise it has become the target
            partial.unlink()


def _sync_folder(folder: pathlib.Path) -> None:
    """Write the folder to disk, so that the new name also survives a power cut."""
    with suppress(OSError):  # some systems cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def with_zip_suffix(path: str | pathlib.Path) -> pathlib.Path:
    """
    Add ``.zip`` to a path without a suffix.

    :param path: The path, in any form that SB3's ``save`` and ``load`` accept
    :return: The path with a suffix
    :raises ValueError: When it is no path
    """
    check_path("path", path)
    path = pathlib.Path(path)
    return path.with_suffix(".zip") if path.suffix == "" else path


@contextmanager
def only_writer(path: str | pathlib.Path) -> Iterator[bool]:
    """
    Hold a lock within a ``with`` statement, so that two processes do not do the same work. The system releases the locks of
    killed processes.

    :param path: The file of the lock, which is made
    :return: Whether no other process holds the lock; true on systems without locks
    """
    with open(path, "ab") as file:
        yield _lock(file)

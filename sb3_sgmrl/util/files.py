"""Files that are either complete or as they were before."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO


@contextmanager
def replace_when_complete(path: str | pathlib.Path) -> Iterator[IO[bytes]]:
    """
    A binary file that takes the place of an existing one only after everything was written: a crash, an interrupt or a full
    disk leaves the previous file as it was.

    :param path: the file
    :return: the file to write to, to be used in a ``with`` statement
    """
    target = pathlib.Path(path).resolve()  # a link stays one
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def with_zip_suffix(path: str | pathlib.Path) -> pathlib.Path:
    """
    :param path: as SB3's ``save`` and ``load`` take it
    :return: with ``.zip`` when it has no suffix
    """
    path = pathlib.Path(path)
    return path.with_suffix(".zip") if path.suffix == "" else path

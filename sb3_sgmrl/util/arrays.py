"""Files of arrays that are not unpacked before their size is known, and hold no Python objects."""

from __future__ import annotations

import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np

# unpacked, in bytes
_LARGEST = 2**26


def read_arrays(path: str | pathlib.Path, names: Sequence[str]) -> list[np.ndarray]:
    """
    :param path: a file of :func:`numpy.savez`
    :param names: of its arrays
    :return: these arrays
    :raises ValueError: when it is no such file, lacks one, holds objects, or would be larger than 64 MiB
    """
    try:
        with open(path, "rb") as stream:
            with zipfile.ZipFile(stream) as archive:
                size = sum(info.file_size for info in archive.infolist())
            if size > _LARGEST:
                raise ValueError(f"its arrays would take {size} bytes, more than {_LARGEST}")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                return [file[name] for name in names]
    except OSError:
        raise
    except Exception as error:  # whatever numpy and zipfile find in bytes that make no sense
        raise ValueError(" ".join(str(error).split())[:200].rstrip(".")) from error

"""Read files of arrays that hold no Python objects, with a size check before anything is unpacked."""

from __future__ import annotations

import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np

# size after unpacking, in bytes
_LARGEST = 2**26


def read_arrays(path: str | pathlib.Path, names: Sequence[str]) -> list[np.ndarray]:
    """
    Read arrays from a file of :func:`numpy.savez`.

    :param path: The file
    :param names: The names of the arrays
    :return: The arrays, in the order of ``names``
    :raises ValueError: When the file is invalid, lacks an array, holds objects, or unpacks to more than 64 MiB
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
    except Exception as error:  # numpy and zipfile may raise anything for invalid bytes
        raise ValueError(" ".join(str(error).split())[:200].rstrip(".")) from error

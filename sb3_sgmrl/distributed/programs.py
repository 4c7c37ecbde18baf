"""Programs of which rank 0 has the output and the files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from sb3_sgmrl.distributed.ranks import Ranks


@contextmanager
def folder_of_rank(ranks: Ranks, folder: str | Path) -> Iterator[Path]:
    """
    Let ranks above 0 print nothing and write into a temporary folder, within a ``with`` statement.

    :param ranks: The ranks
    :param folder: The folder of rank 0
    :return: The folder of this rank
    """
    if ranks.rank == 0:
        yield Path(folder)
        return
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def copy_files(ranks: Ranks, folder: Path) -> None:
    """
    Copy the files of rank 0 to the other ranks, except hidden ones and subfolders.

    :param ranks: The ranks
    :param folder: The folder of this rank
    :raises RankError: When a rank failed, ended or did not answer in time
    """
    if ranks.size == 1:
        return
    visible = (file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    for name, content in ranks.of_first(lambda: {file.name: file.read_bytes() for file in visible}).items():
        if ranks.rank > 0:
            (folder / name).write_bytes(content)

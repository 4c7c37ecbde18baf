"""Logged episodes in files: arrays in a ``.npz``, without pickles."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from sb3_sgmrl.data.episodes import Episode, by_name, from_names, has_names_of_episode, read_episodes
from sb3_sgmrl.util.files import replace_when_complete
from sb3_sgmrl.util.validation import check_path

_LENGTHS = "lengths"


def save_episodes(path: str | pathlib.Path, episodes: Sequence[Episode]) -> None:
    """
    Write episodes of one task to a file.

    The file holds the arrays ``observations`` (or ``observations/KEY`` for each key), ``actions`` and ``rewards`` of all
    episodes in a row, and ``lengths``, the number of steps of each episode. It holds no pickle.

    :param path: The file, which ends in ``.npz``; an existing one is replaced once everything is written
    :param episodes: The episodes, as for :meth:`~sb3_sgmrl.data.batch.PhaseBatch.from_episodes`
    :raises ValueError: When the suffix is wrong, or these are no episodes
    """
    check_path("path", path)
    if pathlib.Path(path).suffix != ".npz":
        raise ValueError(f"`path` must end in .npz, got {path}.")
    read_episodes(episodes)  # checks them: objects would be pickled
    named = [{name: np.asarray(values) for name, values in by_name(episode).items()} for episode in episodes]
    arrays = {name: np.concatenate([episode[name] for episode in named]) for name in named[0]}
    lengths = np.array([len(episode["rewards"]) for episode in named])
    with replace_when_complete(path) as file:
        np.savez(file, **{_LENGTHS: lengths, **arrays})  # type: ignore[arg-type]  # no name is `allow_pickle`


def load_episodes(path: str | pathlib.Path) -> list[Episode]:
    """
    Read what :func:`save_episodes` wrote. No code of the file runs.

    :param path: The file
    :return: The episodes
    :raises FileNotFoundError: When the file does not exist
    :raises ValueError: When the file holds no episodes
    """
    check_path("path", path)
    try:
        # np.load would leave a damaged file open
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            names = sorted(file.files)  # of which some may be the same
            arrays = {name: _array(file[name]) for name in names}
    except FileNotFoundError:
        raise FileNotFoundError(f"There are no episodes at `path` {path}.") from None
    except Exception as error:  # numpy, zipfile and zlib may raise anything for invalid bytes
        raise ValueError(f"`path` {path} must be an .npz of episodes, but cannot be read as one.") from error
    lengths = arrays.pop(_LENGTHS, np.zeros(0))
    if not has_names_of_episode(arrays) or len(names) > len(arrays) + 1 or lengths.dtype.kind not in "iu" or lengths.ndim != 1:
        raise ValueError(
            f"`path` {path} must hold the arrays lengths, observations, actions and rewards alone, got "
            f"{', '.join(names) or 'none'}."
        )
    n_steps = sum(map(int, lengths))  # which cannot overflow
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != n_steps or (lengths < 1).any():
            raise ValueError(
                f"`path` {path} must hold {name} for the {n_steps} steps of its lengths, got shape {array.shape}."
            )
    ends = np.cumsum(lengths)[:-1]
    split = {name: np.split(array, ends) for name, array in arrays.items()}
    return [from_names({name: parts[i] for name, parts in split.items()}) for i in range(len(lengths))]


def _array(content: Any) -> np.ndarray:
    if not isinstance(content, np.ndarray):
        raise TypeError("a file in the archive is no array")
    return content

"""What runs leave in their folders, and several of them on common steps."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np

from sb3_sgmrl.util.arrays import read_arrays
from sb3_sgmrl.util.validation import check_positive

# by key, shape (n_rows,), NaN where a row has no such value
Progress = Mapping[str, np.ndarray]

STEPS = "time/total_timesteps"
BEFORE, AFTER = "rollout/ep_rew_mean_pre", "rollout/ep_rew_mean_post"
_MOST_POINTS = 200
_ALMOST = 0.95  # runs end with a whole meta-iteration, not on the same step

Run = TypeVar("Run")


def read_progress(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """
    The log of a run as SB3's CSV logger writes it, ``configure(folder, ["csv"])``.

    :param path: ``progress.csv`` or its folder
    :return: by key, shape (n_rows,), NaN where a row has no such value
    :raises ValueError: for a file that is not such a log, or holds no meta-iteration
    """
    path = pathlib.Path(path)
    path = path / "progress.csv" if path.is_dir() else path
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error):  # not even a table
        rows = []
    keys = [key for key in (rows[0] if rows else ()) if key is not None]
    if not {STEPS, BEFORE, AFTER} <= set(keys):
        raise ValueError(f"{path} is not the log of a meta-training, which has columns {STEPS}, {BEFORE} and {AFTER}.")
    return {key: np.array([_number(row[key]) for row in rows]) for key in keys}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def logged(progress: Progress, key: str) -> tuple[np.ndarray, np.ndarray]:
    """
    :param progress: the log of a run
    :param key: of one of its values
    :return: the steps at which it was logged, and the values
    """
    values = progress[key]
    there = ~np.isnan(values)
    return progress[STEPS][there], values[there]


@dataclass(frozen=True)
class LearningCurve:
    """
    Returns of one run while training.

    :param timesteps: when they were measured, increasing, shape (n_points,)
    :param before: before adaptation, shape (n_tasks, n_points)
    :param after: after adaptation, shape (n_tasks, n_points)
    """

    timesteps: np.ndarray
    before: np.ndarray
    after: np.ndarray

    @classmethod
    def from_progress(cls, path: str | pathlib.Path) -> LearningCurve:
        """
        The meta-iterations of a run: means over the tasks of each, which count as one task.

        :param path: ``progress.csv`` or its folder
        :return: the curve
        :raises ValueError: for a file that is not the log of a meta-training
        """
        progress = read_progress(path)
        (timesteps, before), (_, after) = (logged(progress, key) for key in (BEFORE, AFTER))
        return cls(timesteps, before[None], after[None])

    @classmethod
    def from_evaluations(cls, path: str | pathlib.Path) -> LearningCurve:
        """
        The evaluations of a run by :class:`~sb3_sgmrl.MetaEvalCallback`, after the last inner step.

        :param path: ``evaluations.npz`` or its folder
        :return: the curve
        :raises ValueError: for a file that was not written by a MetaEvalCallback
        """
        path = pathlib.Path(path)
        path = path / "evaluations.npz" if path.is_dir() else path
        try:
            timesteps, results = read_arrays(path, ("timesteps", "results"))
            before, after = results[:, :, 0].T, results[:, :, -1].T
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path} was not written by a MetaEvalCallback.") from error
        return cls(timesteps, before, after)

    def smoothed(self, window: int) -> LearningCurve:
        """
        :param window: number of points of a moving average, see :func:`moving_average`
        :return: the averages
        :raises ValueError: for a window that is not positive
        """
        return LearningCurve(*(moving_average(array, window) for array in (self.timesteps, self.before, self.after)))


def moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """
    :param values: shape (…, n_points)
    :param window: number of points; at most half of those there are
    :return: shape (…, n_points - window + 1)
    :raises ValueError: for a window that is not positive
    """
    check_positive(window=window)
    window = min(window, max(1, values.shape[-1] // 2))
    return np.lib.stride_tricks.sliding_window_view(values, window, axis=-1).mean(-1)


def common_steps(timesteps: Sequence[np.ndarray]) -> np.ndarray:
    """
    Runs are not measured on the same steps, as episodes that end early shift them. What is between two measurements is to be
    interpolated linearly.

    :param timesteps: of each run, increasing
    :return: the steps of the run with the fewest, within what all have, at most 200
    :raises ValueError: when a run has no steps, or there are none that all have
    """
    if not timesteps or min(map(len, timesteps)) == 0:
        raise ValueError("A run has no values to draw.")
    first, last = max(steps[0] for steps in timesteps), min(steps[-1] for steps in timesteps)
    if last < _ALMOST * first:
        raise ValueError(f"The runs have no steps in common: one begins after {first:,.0f}, another ends after {last:,.0f}.")
    first = min(first, last)  # of runs of one meta-iteration, which count as measured on the same step
    fewest = min(timesteps, key=len)
    inner = fewest[(fewest > first) & (fewest < last)]
    steps = np.unique(np.array([first, *inner, last], dtype=float))
    return steps[np.unique(np.linspace(0, len(steps) - 1, _MOST_POINTS).round().astype(int))]


def interpolate(steps: np.ndarray, timesteps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """
    :param steps: where values are wanted, shape (n_steps,)
    :param timesteps: where they are known, shape (n_points,)
    :param values: shape (n_tasks, n_points)
    :return: shape (n_tasks, n_steps)
    """
    return np.stack([np.interp(steps, timesteps, of_task) for of_task in values])


def note_on_length(timesteps: Sequence[np.ndarray]) -> str:
    """
    :param timesteps: of each run
    :return: that runs of different lengths are cut, for a title; empty when they are of one length
    """
    ends = [float(steps[-1]) for steps in timesteps]
    return "" if min(ends) >= _ALMOST * max(ends) else f"\nruns cut to the {min(ends):,.0f} steps of the shortest"


def by_name(runs: Mapping[str, Run | Sequence[Run]], kind: type, argument: str) -> dict[str, list[Run]]:
    """
    :param runs: one or several by name
    :param kind: what one is
    :param argument: name of the argument, for an error
    :return: lists by name
    :raises ValueError: when there is nothing to draw
    """
    lists: dict[str, list[Run]] = {}
    for name, of_name in runs.items():
        lists[name] = [cast(Run, of_name)] if isinstance(of_name, kind) else list(cast(Sequence[Run], of_name))
    if not lists or not all(lists.values()):
        raise ValueError(f"`{argument}` must hold at least one run for each name.")
    return lists

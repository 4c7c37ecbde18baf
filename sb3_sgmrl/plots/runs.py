"""The files of runs as curves, and several runs on common steps."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np

from sb3_sgmrl.common.saving import saved_algorithm
from sb3_sgmrl.util.arrays import read_arrays
from sb3_sgmrl.util.validation import check_positive

# columns by key, shape (n_rows,), NaN where a row has no value
Progress = Mapping[str, np.ndarray]

STEPS = "time/total_timesteps"
BEFORE, AFTER = "rollout/ep_rew_mean_pre", "rollout/ep_rew_mean_post"
_MOST_POINTS = 200
_FILES_OF_RUNS = ("evaluations.npz", "progress.csv", "adaptation.csv")
_ALMOST = 0.95  # a tolerance: runs end with a whole meta-iteration, so not on the same step

Run = TypeVar("Run")


def read_progress(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """
    Read the log of a run as SB3's CSV logger writes it, ``configure(folder, ["csv"])``.

    :param path: The file ``progress.csv``, or its folder
    :return: The columns by key, shape (n_rows,), NaN where a row has no value
    :raises ValueError: When the file is not such a log, or contains no meta-iteration
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
    Return the values of one column and their steps, without missing values.

    :param progress: The log of a run
    :param key: The key of the column
    :return: The steps at which the values were logged, and the values
    """
    values = progress[key]
    there = ~np.isnan(values)
    return progress[STEPS][there], values[there]


@dataclass(frozen=True)
class LearningCurve:
    """
    Returns of one run during training.

    :param timesteps: The steps of the measurements, increasing, shape (n_points,)
    :param before: The returns before adaptation, shape (n_tasks, n_points)
    :param after: The returns after adaptation, shape (n_tasks, n_points)
    """

    timesteps: np.ndarray
    before: np.ndarray
    after: np.ndarray

    @classmethod
    def from_progress(cls, path: str | pathlib.Path) -> LearningCurve:
        """
        Read the returns of a run's meta-iterations.

        The mean over the tasks of a meta-iteration counts as one task.

        :param path: The file ``progress.csv``, or its folder
        :return: The curve
        :raises ValueError: When the file is not the log of a meta-training
        """
        progress = read_progress(path)
        (timesteps, before), (_, after) = (logged(progress, key) for key in (BEFORE, AFTER))
        return cls(timesteps, before[None], after[None])

    @classmethod
    def from_evaluations(cls, path: str | pathlib.Path) -> LearningCurve:
        """
        Read the evaluations of a run by :class:`~sb3_sgmrl.MetaEvalCallback`, after the last inner step.

        :param path: The file ``evaluations.npz``, or its folder
        :return: The curve
        :raises ValueError: When the file is not from a MetaEvalCallback
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
        Smooth the curve by a moving average.

        :param window: The number of points of the moving average, see :func:`moving_average`
        :return: The smoothed curve
        :raises ValueError: When ``window`` is not positive
        """
        return LearningCurve(*(moving_average(array, window) for array in (self.timesteps, self.before, self.after)))


def moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """
    Compute a moving average.

    :param values: The values, shape (…, n_points)
    :param window: The number of points; it is reduced to half of ``n_points`` where it is larger
    :return: The averages, shape (…, n_points - window + 1)
    :raises ValueError: When ``window`` is not positive
    """
    check_positive(window=window)
    window = min(window, max(1, values.shape[-1] // 2))
    return np.lib.stride_tricks.sliding_window_view(values, window, axis=-1).mean(-1)


def common_steps(timesteps: Sequence[np.ndarray]) -> np.ndarray:
    """
    Choose steps at which several runs can be compared.

    Runs are measured at different steps, because episodes that end early shift the measurements. Interpolate each run linearly
    between its measurements.

    :param timesteps: The steps of each run, increasing
    :return: The steps of the run with the fewest measurements, within the range of all runs, at most 200
    :raises ValueError: When a run has no steps, or the runs have no steps in common
    """
    if not timesteps or min(map(len, timesteps)) == 0:
        raise ValueError("Every run must have at least one value to draw, got a run with none.")
    first, last = max(steps[0] for steps in timesteps), min(steps[-1] for steps in timesteps)
    if last < _ALMOST * first:
        raise ValueError(f"The runs have no steps in common: one begins after {first:,.0f}, another ends after {last:,.0f}.")
    first = min(first, last)  # for runs of one meta-iteration, which count as measured at the same step
    fewest = min(timesteps, key=len)
    inner = fewest[(fewest > first) & (fewest < last)]
    steps = np.unique(np.array([first, *inner, last], dtype=float))
    return steps[np.unique(np.linspace(0, len(steps) - 1, _MOST_POINTS).round().astype(int))]


def interpolate(steps: np.ndarray, timesteps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """
    Interpolate values linearly.

    :param steps: The steps to interpolate at, shape (n_steps,)
    :param timesteps: The steps of the values, shape (n_points,)
    :param values: The values, shape (n_tasks, n_points)
    :return: The interpolated values, shape (n_tasks, n_steps)
    """
    return np.stack([np.interp(steps, timesteps, of_task) for of_task in values])


def note_on_length(timesteps: Sequence[np.ndarray]) -> str:
    """
    Note in a title that runs of different lengths are cut.

    :param timesteps: The steps of each run
    :return: The note; empty for runs of equal lengths
    """
    ends = [float(steps[-1]) for steps in timesteps]
    return "" if min(ends) >= _ALMOST * max(ends) else f"\nruns cut to the {min(ends):,.0f} steps of the shortest"


def check_algorithms(paths: Mapping[str, Sequence[pathlib.Path]]) -> None:
    """
    Check that runs drawn as one curve are of one algorithm, as far as models beside the files say.

    :param paths: The folders or files of runs, by the name of their curve
    :raises ValueError: When a curve would mix algorithms
    """
    for name, of_name in paths.items():
        found = sorted({algorithm for path in of_name for algorithm in _algorithms(path)})
        if len(found) > 1:
            raise ValueError(f"`{name}` would mix runs of {' and '.join(found)} in one curve: name each by NAME=SOURCE.")


def _algorithms(path: pathlib.Path) -> Iterator[str]:
    of_run = path.parent if path.name in _FILES_OF_RUNS else path
    for model in [path] if path.suffix == ".zip" else sorted(of_run.glob("*.zip")):
        with suppress(ValueError, OSError):  # whoever reads the model says what is wrong with it
            yield saved_algorithm(model)


def by_name(runs: Mapping[str, Run | Sequence[Run]], kind: type, argument: str) -> dict[str, list[Run]]:
    """
    Wrap single runs in lists.

    :param runs: One run or several, by name
    :param kind: The type of a single run
    :param argument: The name of the argument, for errors
    :return: The lists of runs, by name
    :raises ValueError: When there is nothing to draw
    """
    lists: dict[str, list[Run]] = {}
    for name, of_name in runs.items():
        lists[name] = [cast(Run, of_name)] if isinstance(of_name, kind) else list(cast(Sequence[Run], of_name))
    if not lists or not all(lists.values()):
        counts = {name: len(of_name) for name, of_name in lists.items()}
        raise ValueError(f"`{argument}` must hold at least one run for each name, got counts {counts}.")
    return lists

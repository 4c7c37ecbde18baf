"""The results of a comparison, by method and seed."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sb3_sgmrl.common.evaluation import AdaptationReport
from sb3_sgmrl.util.files import replace_when_complete

# the columns of a results file before the returns
_COLUMNS = ("method", "seed", "timesteps", "env", "horizon", "task_hash", "rewards", "n_episodes", "task")


@dataclass(frozen=True)
class Results:
    """
    The reports of a comparison at one number of environment steps.

    :param reports: The reports by method and seed
    :param failures: The number of runs by method that ended in an error
    :param title: What was measured
    """

    reports: Mapping[str, Mapping[int, AdaptationReport]]
    failures: Mapping[str, int]
    title: str

    def means(self, method: str) -> np.ndarray:
        """
        Return the mean returns of the runs of a method.

        :param method: The method
        :return: The means over tasks, shape (n_runs, n_steps + 1), or (0, 1) without a run
        """
        if not self.reports[method]:
            return np.empty((0, 1))
        return np.array([report.mean_returns for report in self.reports[method].values()])

    def differences(self, one: str, other: str, k: int) -> np.ndarray:
        """
        Return the paired differences of two methods.

        :param one: The first method
        :param other: The method to subtract
        :param k: The number of inner steps
        :return: The differences of the seeds that both have, shape (n_pairs,)
        """
        ours, theirs = self.reports[one], self.reports[other]
        seeds = [seed for seed in ours if seed in theirs]
        return np.array([ours[seed].mean_returns[k] - theirs[seed].mean_returns[k] for seed in seeds])


def half_width(values: np.ndarray) -> np.ndarray:
    """
    Compute half the width of a 95 % confidence interval of the mean, by Student's t.

    :param values: The values, shape (n_runs, …)
    :return: The half widths, shape (…); NaN for a single run
    """
    import scipy.stats

    n = len(values)
    if n < 2:
        return np.full(np.shape(values)[1:], np.nan)
    return np.asarray(scipy.stats.t.ppf(0.975, n - 1) * np.std(values, axis=0, ddof=1) / np.sqrt(n))


@dataclass(frozen=True)
class Terms:
    """
    The terms on which results can stand in one table.

    :param env: The id of the task family
    :param horizon: The number of steps of an episode
    :param task_hash: The hash of the test tasks
    :param rewards: The version of the rewards
    :param n_episodes: The number of episodes per task and step of adaptation
    :param n_tasks: The number of test tasks
    """

    env: str
    horizon: int
    task_hash: str
    rewards: str
    n_episodes: int
    n_tasks: int


def write_results(path: pathlib.Path, terms: Terms, timesteps: int, results: Results) -> None:
    """
    Write every return of a comparison, in the form that :func:`read_results` reads.

    :param path: The file
    :param terms: The terms of the comparison
    :param timesteps: The environment steps of training
    :param results: The results
    """
    text = io.StringIO()
    writer = csv.writer(text)
    n_columns = max((report.returns.shape[1] for of in results.reports.values() for report in of.values()), default=1)
    writer.writerow([*_COLUMNS, *(f"after_{k}" for k in range(n_columns))])
    shared = (terms.env, terms.horizon, terms.task_hash, terms.rewards, terms.n_episodes)
    for method, of_method in results.reports.items():
        for seed, report in of_method.items():
            for task, returns in enumerate(report.returns):
                writer.writerow([method, seed, timesteps, *shared, task, *returns])
    with replace_when_complete(path) as file:
        file.write(text.getvalue().encode())


def read_results(path: pathlib.Path, terms: Terms, tasks: Sequence[Any]) -> dict[str, dict[int, AdaptationReport]]:
    """
    Read the results of another program, or of another comparison.

    :param path: A CSV file with a row for each method, seed and task
    :param terms: The terms of this comparison
    :param tasks: The test tasks
    :return: The reports by method and seed
    :raises ValueError: When the file has another form or other terms; the error names the line
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"`--results` must name a CSV file, got {path}: {error}.") from error
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    columns = [*_COLUMNS, *(f"after_{k}" for k in range(len(header) - len(_COLUMNS)))]
    if header != columns or len(header) < len(_COLUMNS) + 2:
        raise ValueError(
            f"`--results` {path}, line 1, must be {','.join(_COLUMNS)},after_0,after_1 and so on, "
            f"got {','.join(header)[:200]!r}."
        )
    returns: dict[tuple[str, int], dict[int, list[float]]] = {}
    for number, row in enumerate(rows, 2):
        key, task, numbers = _read_row(f"`--results` {path}, line {number},", row, columns, terms)
        of_run = returns.setdefault(key, {})
        if task in of_run:
            raise ValueError(f"`--results` {path}, line {number}, must hold a new task, got the task {task} of {key} again.")
        of_run[task] = numbers
    reports: dict[str, dict[int, AdaptationReport]] = {}
    for (method, seed), of_run in returns.items():
        if sorted(of_run) != list(range(terms.n_tasks)):
            raise ValueError(
                f"`--results` {path} must hold the tasks 0 to {terms.n_tasks - 1} of {method} seed {seed}, "
                f"got {len(of_run)} tasks."
            )
        table = np.array([of_run[task] for task in range(terms.n_tasks)])
        reports.setdefault(method, {})[seed] = AdaptationReport(list(tasks), table)
    return reports


def _read_row(line: str, row: list[str], columns: list[str], terms: Terms) -> tuple[tuple[str, int], int, list[float]]:
    if len(row) != len(columns):
        raise ValueError(f"{line} must have {len(columns)} columns, got {len(row)}.")
    found = dict(zip(columns, row, strict=True))
    for name, wanted in asdict(terms).items():
        if name in found and found[name] != str(wanted):
            raise ValueError(f"{line} must have {name} {str(wanted)!r}, as this comparison, got {found[name]!r}.")
    if not found["method"]:
        raise ValueError(f"{line} must name a method, got {found['method']!r}.")
    whole = {}
    for name in ("seed", "timesteps", "task"):
        if not found[name].isdecimal():
            raise ValueError(f"{line} must have a non-negative integer as {name}, got {found[name]!r}.")
        whole[name] = int(found[name])
    numbers = []
    for name in columns[len(_COLUMNS) :]:
        try:
            numbers.append(float(found[name]))
        except ValueError:
            numbers.append(float("nan"))
        if not np.isfinite(numbers[-1]):
            raise ValueError(f"{line} must have a finite number as {name}, got {found[name]!r}.")
    return (found["method"], whole["seed"]), whole["task"], numbers

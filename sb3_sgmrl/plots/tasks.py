"""Return against the parameters of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.type_aliases import GymEnv

from sb3_sgmrl.common.evaluation import AdaptationReport, inner_steps
from sb3_sgmrl.plots.style import Figure, legend_below, spread_panels
from sb3_sgmrl.tasks.columns import is_record, labelled_numbers, task_like
from sb3_sgmrl.vec_env.engines import close_task_env, make_task_env
from sb3_sgmrl.vec_env.task_workers import ask


def task_parameters(env: GymEnv | str, tasks: Sequence[Any]) -> np.ndarray:
    """
    Describe tasks by numbers, with :meth:`TaskDistEnv.task_features <sb3_sgmrl.TaskDistEnv.task_features>`.

    :param env: The task family, as for :func:`~sb3_sgmrl.evaluate_adaptation`
    :param tasks: The tasks of the family
    :return: The parameters, shape (n_tasks, n_parameters)
    :raises ValueError: When the environment has no tasks, or a task is not of the family or has no numeric description
    """
    return _described(env, tasks)[0]


def _described(env: GymEnv | str, tasks: Sequence[Any]) -> tuple[np.ndarray, list[str] | None]:
    """Return the numbers of tasks and their labels, if the family knows them."""
    vec_env = make_task_env(env, n_columns=1)
    try:
        example = ask(vec_env, "sample_tasks", 1, 0, indices=0)[0][0]
        tasks = [task_like(task, example) if is_record(task) else task for task in tasks]  # dictionaries of a CSV
        numbers = np.stack([ask(vec_env, "task_features", task, indices=0)[0] for task in tasks])
        return numbers, ask(vec_env, "task_labels", indices=0)[0]
    finally:
        close_task_env(vec_env, env)


def named_parameters(tasks: Sequence[Any], env: GymEnv | str | None = None) -> dict[str, np.ndarray]:
    """
    Return the numbers of tasks by name, for the axes of :func:`plot_task_returns`.

    The numbers of a dictionary or a dataclass have the names of its parts, such as ``goal.0``. Other numbers have the
    ``task_labels`` of the family, such as ``body_mass:payload``, or else the names ``task[0]``, ``task[1]``, …

    :param tasks: The tasks of a report
    :param env: The task family, as for :func:`~sb3_sgmrl.evaluate_adaptation`; needed for names of the family and for
        tasks that are not numbers
    :return: The numbers by name, each of shape (n_tasks,); NaN for tasks without this part
    :raises TypeError: When tasks are not numbers, and ``env`` is missing
    :raises ValueError: When the family cannot describe the tasks
    """
    if env is None or all(map(is_record, tasks)):
        try:
            rows = [labelled_numbers(task) if is_record(task) else _by_index("task", task) for task in tasks]
        except (TypeError, ValueError) as error:
            if env is None:
                raise TypeError("`env` is missing: pass the family of tasks that are not numbers.") from error
        else:
            names = dict.fromkeys(name for row in rows for name in row)
            return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
    assert env is not None
    numbers, labels = _described(env, tasks)
    if labels is not None and len(labels) == 1 < numbers.shape[1]:  # one attribute holds all numbers
        labels = list(_by_index(labels[0], numbers[0]))
    if labels is None or len(set(labels)) != numbers.shape[1]:
        labels = list(_by_index("task", numbers[0]))
    return dict(zip(labels, numbers.T, strict=True))


def _by_index(name: str, numbers: Any) -> dict[str, float]:
    return {f"{name}[{i}]": number for i, number in enumerate(np.ravel(np.asarray(numbers, dtype=float)).tolist())}


def plot_task_returns(
    reports: AdaptationReport | Mapping[str, AdaptationReport],
    parameters: np.ndarray | Mapping[str, np.ndarray] | None = None,
    names: Sequence[str] | None = None,
    n_steps: int | None = None,
) -> Figure:
    """
    Plot the return of each task before and after adaptation.

    One parameter of the task becomes the horizontal axis. Two parameters span a plane, in which colour shows the return, one
    row per algorithm.

    :param reports: The report of one algorithm, or the reports of several by name
    :param parameters: The parameters of each task, shape (n_tasks,) or (n_tasks, n_parameters) with one or two parameters,
        e.g. from :func:`task_parameters`. Pass them by name where the reports have different tasks; None uses the tasks
        themselves
    :param names: The names of the parameters
    :param n_steps: The number of inner steps; the largest number that all reports have when None
    :return: The figure
    :raises ValueError: When there is nothing to draw, parameters or names do not match the tasks, or a report does not have
        this number of inner steps
    """
    rows = {"": reports} if isinstance(reports, AdaptationReport) else dict(reports)
    if not rows:
        raise ValueError("`reports` must hold at least one report, got none.")
    most = min(report.returns.shape[1] for report in rows.values()) - 1
    n_steps = most if n_steps is None else n_steps
    if not 1 <= n_steps <= most:
        raise ValueError(f"`n_steps` must lie between 1 and {most}, which all reports have, got {n_steps}.")
    if isinstance(parameters, Mapping) and set(parameters) != set(rows):
        raise ValueError(f"`parameters` by name must have the names of `reports` {list(rows)}, got {list(parameters)}.")
    of_each = parameters if isinstance(parameters, Mapping) else dict.fromkeys(rows, parameters)
    places = {name: _places(report, of_each[name]) for name, report in rows.items()}
    n_parameters, *more = sorted({array.shape[1] for array in places.values()})
    if more:
        raise ValueError("`parameters` must be one number per task in every report or two in every report, got both.")
    names = ["task parameter", "second task parameter"][:n_parameters] if names is None else names
    if len(names) != n_parameters:
        raise ValueError(f"`names` must hold {n_parameters} name{'s' * (n_parameters > 1)}, got {list(names)}.")
    draw = _against_one if n_parameters == 1 else _in_the_plane
    return draw(rows, places, names, n_steps)


def _places(report: AdaptationReport, parameters: np.ndarray | None) -> np.ndarray:
    """Return the parameters as an array, shape (n_tasks, 1) or (n_tasks, 2)."""
    n_tasks = len(report.tasks)
    try:
        array = np.array(report.tasks if parameters is None else parameters, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`parameters` are needed for tasks that are not equally many numbers each: pass task_parameters(env, tasks)."
        ) from error
    if len(array) != n_tasks:
        raise ValueError(f"`parameters` must have a row for each of {n_tasks} tasks, got shape {array.shape}.")
    array = array.reshape(n_tasks, -1)
    if array.shape[1] not in (1, 2):
        raise ValueError(
            f"`parameters` must be one or two numbers per task, got {array.shape[1]}: select or compute one or two of them."
        )
    return array


def _against_one(
    rows: Mapping[str, AdaptationReport], places: Mapping[str, np.ndarray], names: Sequence[str], n_steps: int
) -> Figure:
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axis = figure.subplots()
    for i, (name, report) in enumerate(rows.items()):
        x, before, after = places[name][:, 0], report.returns[:, 0], report.returns[:, n_steps]
        axis.vlines(x, before, after, color=f"C{i}", alpha=0.25, linewidth=1)
        axis.plot(x, before, "o", color=f"C{i}", fillstyle="none", markersize=4, label=f"{name} before".strip())
        axis.plot(x, after, "o", color=f"C{i}", markersize=4, label=f"{name} after".strip())
    axis.set(xlabel=names[0], ylabel="return")
    axis.set_title(f"before and after {inner_steps(n_steps)}, one line per task", fontsize="medium")
    legend_below(figure)
    return figure


def _in_the_plane(
    rows: Mapping[str, AdaptationReport], places: Mapping[str, np.ndarray], names: Sequence[str], n_steps: int
) -> Figure:
    figure = Figure(figsize=(7.0, 3.0 * len(rows) + 0.3), layout="constrained")
    spread_panels(figure)
    axes = figure.subplots(len(rows), 2, squeeze=False, sharex=True, sharey=True)
    shown = np.concatenate([report.returns[:, k] for report in rows.values() for k in (0, n_steps)])
    titles = ("before adaptation", f"after {inner_steps(n_steps)}")
    for axis_row, (name, report) in zip(axes, rows.items(), strict=True):
        for axis, k, title in zip(axis_row, (0, n_steps), titles, strict=True):
            x, y = places[name].T
            colours = axis.scatter(x, y, c=report.returns[:, k], vmin=shown.min(), vmax=shown.max(), s=28)
            axis.set_title(f"{title}: mean {report.returns[:, k].mean():.1f}", fontsize="medium")
        axis_row[0].set_ylabel(f"{name}\n{names[1]}".strip())
    for axis in axes[-1]:
        axis.set_xlabel(names[0])
    figure.colorbar(colours, ax=axes, label="return")
    return figure

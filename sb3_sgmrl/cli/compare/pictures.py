"""Pictures and rliable's numbers of a comparison."""

from __future__ import annotations

import csv
import io
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sb3_sgmrl.cli.command_line import import_plots, write_figure
from sb3_sgmrl.cli.compare.protocol import Protocol
from sb3_sgmrl.cli.compare.results import Results, half_width
from sb3_sgmrl.cli.compare.runs import Run
from sb3_sgmrl.common.evaluation import after
from sb3_sgmrl.util.files import replace_when_complete

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# the end of the name of a method of a sweep over numbers
_SWEPT = re.compile(r"(?P<method>.+?)-(?P<setting>\w+)=(?P<value>[-+.\deE]+)")


def draw(protocol: Protocol, runs: Sequence[Run], results: Results, folder: pathlib.Path) -> None:
    """
    Write the pictures of all finished runs, and rliable's aggregates and probabilities.

    :param protocol: The protocol
    :param runs: The runs
    :param results: The results at the last number of environment steps
    :param folder: The folder of the comparison
    """
    plots = import_plots()
    reports = {name: list(of_name.values()) for name, of_name in results.reports.items() if of_name}
    if plots is None or not reports:
        return
    k = protocol.eval_steps
    figures = {
        "adaptation.png": plots.plot_adaptation(reports),
        "episodes.png": plots.plot_adaptation(reports, n_episodes=protocol.n_episodes),
        "profile.png": plots.plot_performance_profiles(reports, k),
    }
    evaluated = [run for run in runs if (run.folder / "evaluations.npz").exists()]
    curves: dict[str, list] = {}
    for run in evaluated:
        curves.setdefault(run.method.name, []).append(plots.LearningCurve.from_evaluations(run.folder))
    if curves:
        figures["curves.png"] = plots.plot_learning_curves(curves)
    if swept := _swept(results, k):
        figures["sweep.png"] = _plot_sweep(swept, k)
    if len(reports) > 1:
        figures["improvement.png"] = plots.plot_probability_of_improvement(reports, k, reference=reference_of(list(reports)))
        _write_table(
            folder / "improvement.csv",
            ["method", "other", "probability", "low", "high"],
            [[*pair, *numbers] for pair, numbers in plots.improvement_probabilities(reports, k).items()],
        )
    _write_table(
        folder / "aggregates.csv",
        ["method", "aggregate", "value", "low", "high"],
        [
            [name, aggregate, *numbers]
            for name, of_name in plots.aggregate_scores(reports, k).items()
            for aggregate, numbers in of_name.items()
        ],
    )
    for name, figure in figures.items():
        write_figure(figure, folder / name)


def reference_of(methods: Sequence[str]) -> str | None:
    """
    Choose what the picture of improvement compares, so that it stays readable.

    :param methods: The names of the methods
    :return: The first method where there are more than three; None for all pairs
    """
    return methods[0] if len(methods) > 3 else None


def _write_table(path: pathlib.Path, header: list[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    with replace_when_complete(path) as file:
        file.write(text.getvalue().encode())


def _swept(results: Results, k: int) -> dict[tuple[str, str], dict[float, np.ndarray]]:
    """Return the mean returns of runs by method and setting, and by value."""
    found: dict[tuple[str, str], dict[float, np.ndarray]] = {}
    for name in results.reports:
        matched = _SWEPT.fullmatch(name)
        if matched and len(means := results.means(name)):
            key = matched["method"], matched["setting"]
            found.setdefault(key, {})[float(matched["value"])] = means[:, k]
    return {key: dict(sorted(values.items())) for key, values in found.items() if len(values) > 1}


def _plot_sweep(swept: Mapping[tuple[str, str], Mapping[float, np.ndarray]], k: int) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 3.4), layout="constrained")
    axis = figure.subplots()
    for (method, setting), values in swept.items():
        means = np.array([runs.mean() for runs in values.values()])
        axis.errorbar(list(values), means, [half_width(runs) for runs in values.values()], marker="o", capsize=3, label=method)
        axis.set_xlabel(setting)
    axis.set(ylabel=f"return {after(k)}", xscale="log" if min(min(values) for values in swept.values()) > 0 else "linear")
    axis.set_title("mean over runs and 95 % confidence interval", fontsize="medium")
    axis.legend(frameon=False)
    return figure

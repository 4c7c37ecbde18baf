"""The terms of the meta-gradient during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sb3_sgmrl.plots.bootstrap import check_level
from sb3_sgmrl.plots.learning_curves import draw_aggregated, title_of_runs
from sb3_sgmrl.plots.runs import Progress, by_name, common_steps, logged, moving_average, note_on_length
from sb3_sgmrl.plots.style import Figure, legend_below_panel, show_steps
from sb3_sgmrl.util.validation import check_positive

_GRADIENT = "train/grad_norm"
_NORMS = {_GRADIENT: "meta-gradient", "train/pathwise_norm": "pathwise term", "train/score_term_norm": "score term"}
_RATIOS = {"train/score_pathwise_cosine": "cosine of the terms", "train/score_weight": "weight of the score term"}
_QUALITY, _VARIANCE = "quality/", "/variance"

# the steps and the values of each run, by label
_Series = dict[str, list[tuple[np.ndarray, np.ndarray]]]


def plot_gradient_terms(runs: Mapping[str, Progress | Sequence[Progress]], level: float = 0.95, window: int = 1) -> Figure:
    """
    Plot the terms of the meta-gradient during training, one row per algorithm.

    The panels show the norms of the meta-gradient and of its terms, the cosine between the terms, and the weight of the score
    term. Runs with a :class:`~sb3_sgmrl.theory.GradientQualityCallback` get an additional panel with the logged variances. The
    setting ``settings={"pathwise term": (MAML, {})}`` of the callback adds the variance of the pathwise term alone. Several
    runs are aggregated as in :func:`plot_learning_curves`.

    :param runs: The logs from :func:`read_progress` by algorithm, each of one run or of several
    :param level: The coverage of the bands, in (0, 1)
    :param window: The number of points of a moving average
    :return: The figure
    :raises ValueError: When ``level`` is outside (0, 1), ``window`` is not positive, or there is nothing to draw
    """
    check_level(level)
    check_positive(window=window)
    lists = by_name(runs, Mapping, "runs")
    everything = [run for of_name in lists.values() for run in of_name]
    variances = {
        key: key.removeprefix(_QUALITY).removesuffix(_VARIANCE)
        for key in dict.fromkeys(key for run in everything for key in run)
        if key.startswith(_QUALITY) and key.endswith(_VARIANCE)
    }
    columns = {"norm": _NORMS, "cosine and weight": _RATIOS, "variance of a meta-batch": variances}
    columns = {title: keys for title, keys in columns.items() if any(key in run for run in everything for key in keys)}
    if not columns:
        raise ValueError(f"`runs` have no meta-gradients: at least one log must have the column {_GRADIENT}.")
    figure = Figure(figsize=(4.0 * len(columns) + 0.6, 2.7 * len(lists) + 0.6), layout="constrained")
    axes = figure.subplots(len(lists), len(columns), squeeze=False, sharex=True, sharey="col")
    end = min(logged(run, _GRADIENT)[0][-1] for run in everything)  # the end of the shortest run, in every panel
    for column, (title, keys) in zip(axes.T, columns.items(), strict=True):
        rows = [_series(of_name, keys, 1 if keys is variances else window, end) for of_name in lists.values()]
        steps = common_steps([steps for series in rows for of_label in series.values() for steps, _ in of_label])
        colours = {label: f"C{i}" for i, label in enumerate(dict.fromkeys(label for series in rows for label in series))}
        for axis, series in zip(column, rows, strict=True):
            _draw(axis, steps, series, level, "linear" if keys is _RATIOS else "log", colours)
        column[0].set_title(title, fontsize="medium")
        show_steps(column[-1])
        legend_below_panel(column[-1], [Line2D([], [], color=colour, label=label) for label, colour in colours.items()], 3.6)
    for axis_row, name in zip(axes, lists, strict=True):
        axis_row[0].set_ylabel(name)
    note = note_on_length([logged(run, _GRADIENT)[0] for run in everything])
    figure.suptitle(title_of_runs(sorted({len(of_name) for of_name in lists.values()}), level) + note, fontsize="medium")
    return figure


def _series(runs: Sequence[Progress], keys: Mapping[str, str], window: int, end: float) -> _Series:
    """Collect the values up to a step that all runs of an algorithm have logged."""
    series: _Series = {}
    for key, label in keys.items():
        if all(key in run for run in runs):
            pairs = [_until(end, *logged(run, key)) for run in runs]
            series[label] = [(moving_average(steps, window), moving_average(values, window)) for steps, values in pairs]
    return series


def _until(end: float, steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kept = max(1, int((steps <= end).sum()))
    return steps[:kept], values[:kept]


def _draw(axis: Axes, steps: np.ndarray, series: _Series, level: float, scale: str, colours: Mapping[str, str]) -> None:
    if not series:
        axis.text(0.5, 0.5, "no score term", ha="center", va="center", transform=axis.transAxes, color="0.5")
        return
    draw_aggregated(axis, steps, {k: [(t, v[None]) for t, v in runs] for k, runs in series.items()}, level, colours=colours)
    axis.set_yscale(scale)
    if scale == "linear":
        axis.axhline(0, color="0.7", linewidth=1, zorder=0)

"""Returns during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sb3_sgmrl.plots.bootstrap import check_level, interquartile_mean, interval_estimates
from sb3_sgmrl.plots.runs import LearningCurve, by_name, common_steps, interpolate, note_on_length
from sb3_sgmrl.plots.style import Figure, draw_band, legend_below, show_steps

_STYLES: dict[str, Literal[":", "-"]] = {"before": ":", "after": "-"}


def plot_learning_curves(
    curves: Mapping[str, LearningCurve | Sequence[LearningCurve]], level: float = 0.95, window: int = 1
) -> Figure:
    """
    Plot the returns before and after adaptation against the steps of training.

    Lines are interquartile means over runs and tasks. Bands are stratified bootstrap intervals over runs, by rliable; a single
    run has no band. Runs of different lengths are cut to the steps that all runs cover; the title then says so. Between its
    measurements, a run is interpolated linearly.

    :param curves: The curves by algorithm, each of one run or of several, e.g. of several seeds
    :param level: The coverage of the band, in (0, 1)
    :param window: The number of points of a moving average
    :return: The figure
    :raises ValueError: When ``level`` is outside (0, 1), ``window`` is not positive, there is nothing to draw, or runs of an
        algorithm have different numbers of tasks
    """
    check_level(level)
    runs = {
        name: [run.smoothed(window) for run in of_name] for name, of_name in by_name(curves, LearningCurve, "curves").items()
    }
    timesteps = [run.timesteps for of_name in runs.values() for run in of_name]
    steps = common_steps(timesteps)
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axis = figure.subplots()
    for attribute, style in _STYLES.items():
        series = {name: [(run.timesteps, getattr(run, attribute)) for run in of_name] for name, of_name in runs.items()}
        draw_aggregated(axis, steps, series, level, style)
    show_steps(axis)
    axis.set_ylabel("return")
    n_runs = sorted({len(of_name) for of_name in runs.values()})
    axis.set_title(f"{title_of_runs(n_runs, level)}{note_on_length(timesteps)}", fontsize="medium")
    handles = [Line2D([], [], color=f"C{i}", label=name) for i, name in enumerate(runs) if name]
    handles += [Line2D([], [], color="0.3", linestyle=style, label=f"{when} adaptation") for when, style in _STYLES.items()]
    legend_below(figure, handles)
    return figure


def title_of_runs(n_runs: Sequence[int], level: float) -> str:
    """
    Describe in a title what :func:`draw_aggregated` draws.

    :param n_runs: The sorted numbers of runs of the algorithms
    :param level: The coverage of the bands
    :return: The title
    """
    if max(n_runs) == 1:
        return "one run each"
    counted = f"{n_runs[0]}" if len(n_runs) == 1 else f"{n_runs[0]} to {n_runs[-1]}"
    return f"interquartile mean of {counted} runs and {100 * level:g} % bootstrap interval"


def draw_aggregated(
    axis: Axes,
    steps: np.ndarray,
    series: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]],
    level: float,
    style: str = "-",
    colours: Mapping[str, str] | None = None,
) -> None:
    """
    Draw interquartile means of several runs and their bands.

    :param axis: The axes to draw on
    :param steps: The steps to draw at, shape (n_steps,)
    :param series: The runs by name: for each run its steps (n_points,) and its values (n_tasks, n_points)
    :param level: The coverage of the bands
    :param style: The style of the lines
    :param colours: The colours by name; None takes the i-th colour for the i-th name
    :raises ValueError: When runs of a name have different numbers of tasks
    """
    for i, (name, of_name) in enumerate(series.items()):
        if len({len(values) for _, values in of_name}) > 1:
            counts = sorted({len(values) for _, values in of_name})
            raise ValueError(f"The runs of {name!r} must be evaluated on equally many tasks, got numbers of tasks {counts}.")
        scores = np.stack([interpolate(steps, timesteps, values) for timesteps, values in of_name])
        colour = f"C{i}" if colours is None else colours[name]
        marker = "o" if len(steps) == 1 else "." if len(steps) < 20 else ""
        axis.plot(steps, interquartile_mean(scores), style, color=colour, marker=marker, label=name)
        if len(scores) > 1:
            low, high = interval_estimates({name: scores}, interquartile_mean, level)[1][name]
            draw_band(axis, steps, low, high, colour)

"""Comparison of meta-gradient estimators at one policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from sb3_sgmrl.plots.style import Figure, draw_band, legend_below
from sb3_sgmrl.theory import DirectionalChange, GradientQuality


def plot_gradient_quality(
    quality: Mapping[str, GradientQuality], change: DirectionalChange | None = None, baseline: str | None = None
) -> Figure:
    """
    Plot estimators of the meta-gradient side by side.

    The panels show the relative bias against the variance, and the signal-to-noise ratio. With ``change``, a third panel
    compares steps along the mean directions with a step along the baseline's direction. Lines are 95 % confidence intervals.

    :param quality: The quality from :func:`~sb3_sgmrl.theory.compare_gradients`
    :param change: The change of V from :func:`~sb3_sgmrl.theory.directional_change`; None omits the last panel
    :param baseline: The name of the direction that the others are compared with; the first direction when None
    :return: The figure
    :raises ValueError: When there is nothing to draw
    """
    if not quality:
        raise ValueError("`quality` must hold at least one estimator, got none.")
    figure = Figure(figsize=(9.6 if change is None else 13.2, 3.8), layout="constrained")
    scatter, bars, *rest = figure.subplots(1, 2 if change is None else 3)
    for i, (name, row) in enumerate(quality.items()):
        if row.relative_bias is not None and row.relative_bias_interval is not None:
            place = (row.variance.value, row.relative_bias)
            intervals = (row.variance.interval, row.relative_bias_interval)
            errors = [_reach(*pair) for pair in zip(place, intervals, strict=True)]
            scatter.errorbar(*place, xerr=errors[0], yerr=errors[1], fmt="o", color=f"C{i}", label=name)
        else:  # the reference
            scatter.axvline(row.variance.value, color=f"C{i}", linestyle=":", label=name)
        bars.barh(name, row.snr.value, xerr=_reach(row.snr.value, row.snr.interval), color=f"C{i}")
    scatter.set(xscale="log", xlabel="variance of a meta-batch", ylabel="relative bias")
    _scale_biases(scatter)
    legend_below(figure)
    bars.set(xlabel="signal-to-noise ratio of a meta-batch")
    bars.invert_yaxis()
    if change is not None:
        _draw_differences(rest[0], change, next(iter(change.returns)) if baseline is None else baseline)
    return figure


def _scale_biases(axis: Axes) -> None:
    """Use a logarithmic scale that includes zero, because a bias may be zero and its interval long."""
    axis.set_yscale("symlog", linthresh=0.1, linscale=0.3)
    high = 1.5 * axis.get_ylim()[1]
    axis.set_ylim(0, high)
    ticks = [0, *(10.0**k for k in range(-1, max(0, int(np.log10(high))) + 1))]
    if high < 10:  # powers of ten alone would often be a single tick
        ticks = list(np.linspace(0, 0.1, 3)) if high < 0.2 else [0, 0.1, 0.2, 0.5, 1, 2, 5]
    axis.set_yticks([tick for tick in ticks if tick <= high])
    axis.yaxis.set_major_formatter("{x:g}")


def _reach(value: float, interval: tuple[float, float]) -> np.ndarray:
    """Compute the lengths of the two sides of an interval as matplotlib expects them, shape (2, 1)."""
    return np.abs(np.array(interval) - value)[:, None]


def _draw_differences(axis: Axes, change: DirectionalChange, baseline: str) -> None:
    n_sizes = len(change.step_sizes)
    for i, name in enumerate(change.returns):
        for k, estimate in enumerate(change.difference(name, baseline)):
            height = i + 0.6 * (k + 1) / (n_sizes + 1) - 0.3
            error = _reach(estimate.value, estimate.interval)
            axis.errorbar(estimate.value, height, xerr=error, fmt="osD^v"[k % 5], color=f"C{i}")
    axis.axvline(0, color="0.7", linewidth=1)
    sizes = ", ".join(f"{size:g}" for size in change.step_sizes)
    axis.set(yticks=range(len(change.returns)), yticklabels=list(change.returns))
    axis.set(xlabel=f"change of V beyond that along {baseline}\nsteps of {sizes}, from top to bottom")
    axis.locator_params("x", nbins=5)
    axis.invert_yaxis()


def plot_quality_sweep(
    sweeps: Mapping[str, Mapping[float, GradientQuality]], xlabel: str, xscale: Literal["linear", "log"] = "linear"
) -> Figure:
    """
    Plot variance, relative bias and signal-to-noise ratio against a setting, with 95 % confidence bands.

    :param sweeps: The quality for each value of the setting, by estimator
    :param xlabel: The name of the setting
    :param xscale: The scale of the setting, "linear" or "log"
    :return: The figure
    :raises ValueError: When there is nothing to draw
    """
    if not sweeps or not all(sweeps.values()):
        counts = {name: len(sweep) for name, sweep in sweeps.items()}
        raise ValueError(f"`sweeps` must hold at least one value of the setting for each estimator, got counts {counts}.")
    figure = Figure(figsize=(12.6, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    for name, sweep in sweeps.items():
        values = list(sweep)
        curves = [
            [(row.variance.value, *row.variance.interval) for row in sweep.values()],
            [(row.relative_bias, *(row.relative_bias_interval or ())) for row in sweep.values()],
            [(row.snr.value, *row.snr.interval) for row in sweep.values()],
        ]
        for axis, curve in zip(axes, curves, strict=True):
            if curve[0][0] is None:  # the reference itself
                continue
            middle, low, high = np.array(curve).T
            (line,) = axis.plot(values, middle, marker="o", label=name)
            draw_band(axis, np.array(values), low, high, line.get_color())
    for axis, label in zip(axes, ("variance of a meta-batch", "relative bias", "signal-to-noise ratio"), strict=True):
        axis.set(xlabel=xlabel, ylabel=label, xscale=xscale)
    axes[0].set_yscale("log")
    _scale_biases(axes[1])
    legend_below(figure)
    return figure

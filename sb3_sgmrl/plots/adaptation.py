"""Return against the number of inner steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from sb3_sgmrl.common.evaluation import AdaptationReport
from sb3_sgmrl.plots.bootstrap import check_level, interval_estimates
from sb3_sgmrl.plots.runs import by_name
from sb3_sgmrl.plots.style import Figure, draw_band, legend_below


def plot_adaptation(
    reports: AdaptationReport | Mapping[str, AdaptationReport | Sequence[AdaptationReport]],
    level: float = 0.95,
    n_episodes: int | None = None,
) -> Figure:
    """
    Plot the return against the number of inner steps.

    The band is a bootstrap confidence interval. For a single run it is over tasks, for several runs over runs and tasks
    (rliable).

    :param reports: The report of one run; or the reports by algorithm, each of one run or of several, e.g. of several seeds
    :param level: The coverage of the band, in (0, 1)
    :param n_episodes: The number of episodes of an inner step, to draw against the episodes of adaptation; None draws against
        inner steps
    :return: The figure
    :raises ValueError: When ``level`` is outside (0, 1), there is nothing to draw, or runs of an algorithm have different
        numbers of tasks or inner steps
    """
    check_level(level)
    per_step = 1 if n_episodes is None else n_episodes
    named: Mapping[str, AdaptationReport | Sequence[AdaptationReport]]
    named = {"": reports} if isinstance(reports, AdaptationReport) else reports
    curves = by_name(named, AdaptationReport, "reports")
    figure = Figure(figsize=(4.8, 3.4), layout="constrained")
    axis = figure.subplots()
    for name, runs in curves.items():
        means = stacked_returns(name, runs).mean((0, 1))
        low, high = _interval(name, runs, level)
        at = per_step * np.arange(len(means))
        (line,) = axis.plot(at, means, marker="o", label=name)
        draw_band(axis, at, low, high, line.get_color())
    n_most = max(run.returns.shape[1] for runs in curves.values() for run in runs)
    xlabel = "inner steps" if n_episodes is None else "episodes of adaptation"
    axis.set(xlabel=xlabel, ylabel="return", xlim=(-0.2 * per_step, (n_most - 0.8) * per_step))
    axis.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    over = "tasks" if max(map(len, curves.values())) == 1 else "runs and tasks"
    axis.set_title(f"mean over {over} and {100 * level:g} % confidence interval", fontsize="medium")
    if len(curves) > 1:
        legend_below(figure)
    return figure


def _interval(name: str, runs: Sequence[AdaptationReport], level: float) -> np.ndarray:
    """Compute the lower and upper ends, shape (2, n_steps + 1)."""
    if len(runs) == 1:
        return runs[0].confidence_interval(level).T
    scores = {name: stacked_returns(name, runs)}
    return interval_estimates(scores, lambda returns: returns.mean((0, 1)), level, task_bootstrap=True)[1][name]


def stacked_returns(name: str, runs: Sequence[AdaptationReport]) -> np.ndarray:
    """
    Stack the returns of several runs of an algorithm.

    :param name: The name of the algorithm, for errors
    :param runs: The reports of the algorithm
    :return: The returns, shape (n_runs, n_tasks, n_steps + 1)
    :raises ValueError: When the reports have different numbers of tasks or inner steps
    """
    shapes = {run.returns.shape for run in runs}
    if len(shapes) > 1:
        counts = " and ".join(f"{n_tasks} tasks, {n - 1} inner steps" for n_tasks, n in sorted(shapes))
        raise ValueError(f"`reports` of {name!r} must have the same numbers of tasks and inner steps, got {counts}.")
    return np.stack([run.returns for run in runs])

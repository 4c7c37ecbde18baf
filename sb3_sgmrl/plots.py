"""
Pictures of adaptation and of meta-gradients. Every ``plot_*`` returns a matplotlib figure, to be written by ``savefig``; no
display is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_sgmrl.common.adaptation import EVALUATION
from sb3_sgmrl.common.adaptation_env import env_to_adapt_in
from sb3_sgmrl.common.checks import check_positive, check_seed
from sb3_sgmrl.common.evaluation import AdaptationReport, check_task_list, play_inner_steps
from sb3_sgmrl.common.meta_model import MetaModel
from sb3_sgmrl.envs.navigation import ARENA, Navigation2DEnv
from sb3_sgmrl.theory import DirectionalChange, GradientQuality

_BEFORE = "0.65"
_PATHS_SHOWN = 3


@dataclass(frozen=True)
class Trajectories:
    """
    Ways through the plane to one goal.

    :param goal: shape (2,)
    :param paths: ``paths[k]`` are the episodes after k inner steps, each of shape (n_steps, 2), from the start to the position
        before the last move
    :param mean_returns: undiscounted, after 0, 1, … inner steps
    """

    goal: np.ndarray
    paths: Sequence[Sequence[np.ndarray]]
    mean_returns: Sequence[float]


def navigation_trajectories(
    model: MetaModel,
    env: GymEnv | str,
    tasks: Sequence[Any],
    n_steps: int = 1,
    n_episodes: int | None = None,
    seed: int = 0,
) -> list[Trajectories]:
    """
    Play 2-D navigation before and after adaptation.

    :param model: a model trained on navigation; it stays as it is
    :param env: where to play, as for :func:`~sb3_sgmrl.evaluate_adaptation`
    :param tasks: the goals, each of shape (2,)
    :param n_steps: number of inner steps
    :param n_episodes: episodes per inner step; as in training when None
    :param seed: seed of the episodes
    :return: one per goal
    :raises ValueError: for non-positive counts, no tasks, an environment that has no tasks or does not go with the model, or
        observations that are not positions
    """
    n_episodes = model.n_episodes if n_episodes is None else n_episodes
    check_positive(n_steps=n_steps, n_episodes=n_episodes)
    check_seed(seed)
    check_task_list(tasks)
    paths: list[list[list[np.ndarray]]] = [[] for _ in tasks]
    with env_to_adapt_in(model, env, len(tasks) * n_episodes) as vec_env:
        if vec_env.observation_space.shape != (2,):
            raise ValueError(
                f"`env` must observe a position in the plane, but its observations are {vec_env.observation_space}."
            )
        normalizer = unwrap_vec_normalize(vec_env)
        phases = play_inner_steps(model, vec_env, tasks, n_steps, n_episodes, [seed, EVALUATION, 2])
    for phase in phases:
        positions = phase.observations if normalizer is None else normalizer.unnormalize_obs(phase.observations)
        assert isinstance(positions, np.ndarray)
        for i in range(phase.n_tasks):
            paths[i].append([episode[played] for episode, played in zip(positions[i], phase.mask[i], strict=True)])
    by_task = np.stack([phase.episode_returns.mean(1) for phase in phases], axis=1).tolist()
    return [Trajectories(np.asarray(task), *rest) for task, *rest in zip(tasks, paths, by_task, strict=True)]


def is_navigation(env: VecEnv) -> bool:
    """
    :param env: workers that take tasks
    :return: whether :func:`navigation_trajectories` can play there
    """
    return isinstance(env.get_attr("unwrapped", 0)[0], Navigation2DEnv) and env.observation_space.shape == (2,)


def plot_trajectories(
    trajectories: Sequence[Trajectories] | Mapping[str, Sequence[Trajectories]], n_paths: int = _PATHS_SHOWN
) -> Figure:
    """
    Trajectories before and after adaptation and the goal, as in Figure 1 of the SG-MRL paper: one panel per goal, one row per
    algorithm.

    :param trajectories: of one algorithm, or of several by name
    :param n_paths: episodes drawn per inner step
    :return: the figure
    :raises ValueError: when there is nothing to draw
    """
    rows = dict(trajectories) if isinstance(trajectories, Mapping) else {"": trajectories}
    if not rows or not all(rows.values()):
        raise ValueError("`trajectories` must hold at least one goal for each algorithm.")
    n_columns = max(len(row) for row in rows.values())
    figure = Figure(figsize=(2.9 * n_columns, 3.2 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), n_columns, squeeze=False, sharex=True, sharey=True)
    for axis in axes.flat:
        axis.set_visible(False)
    for axis_row, (name, row) in zip(axes, rows.items(), strict=True):
        for axis, one in zip(axis_row, row, strict=False):
            axis.set_visible(True)
            _draw_trajectories(axis, one, n_paths)
        axis_row[0].set_ylabel(name)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _draw_trajectories(axis: Axes, one: Trajectories, n_paths: int) -> None:
    n_steps = len(one.paths) - 1
    for k, episodes in enumerate(one.paths):
        colour = _BEFORE if k == 0 else f"C{k - 1}"
        label = "before adaptation" if k == 0 else f"after {k} inner step{'s' * (k > 1)}"
        for path in episodes[:n_paths]:
            axis.plot(path[:, 0], path[:, 1], color=colour, linewidth=0.9, alpha=0.8, label=label)
            label = ""  # one entry in the legend
    axis.plot(*one.goal, "*", color="black", markersize=12, label="goal", linestyle="none")
    limit = 1.04 * ARENA
    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[-ARENA, 0, ARENA], yticks=[-ARENA, 0, ARENA])
    axis.set_title(f"return {one.mean_returns[0]:.1f} → {one.mean_returns[n_steps]:.1f}", fontsize="medium")


def plot_adaptation(reports: AdaptationReport | Mapping[str, AdaptationReport], level: float = 0.95) -> Figure:
    """
    Return against the number of inner steps, with a confidence band over tasks.

    :param reports: of one algorithm, or of several by name
    :param level: coverage of the band, in (0, 1)
    :return: the figure
    :raises ValueError: for a level outside (0, 1) or when there is nothing to draw
    """
    curves = {"": reports} if isinstance(reports, AdaptationReport) else dict(reports)
    if not curves:
        raise ValueError("`reports` must hold at least one report.")
    figure = Figure(figsize=(4.8, 3.4), layout="constrained")
    axis = figure.subplots()
    for name, report in curves.items():
        low, high = report.confidence_interval(level).T
        steps = np.arange(len(low))
        (line,) = axis.plot(steps, report.mean_returns, marker="o", label=name)
        axis.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    n_most = max(report.returns.shape[1] for report in curves.values())
    axis.set(xlabel="inner steps", ylabel="return", xticks=range(n_most))
    axis.set_title(f"mean over tasks and {100 * level:g} % confidence interval", fontsize="medium")
    if len(curves) > 1:
        axis.legend(frameon=False)
    return figure


def plot_gradient_quality(
    quality: Mapping[str, GradientQuality], change: DirectionalChange | None = None, baseline: str | None = None
) -> Figure:
    """
    Estimators of the meta-gradient side by side: relative bias against variance, signal-to-noise ratio, and what a step along
    their mean directions gains over a step along a baseline's. Lines are 95 % confidence intervals.

    :param quality: from :func:`~sb3_sgmrl.theory.compare_gradients`
    :param change: from :func:`~sb3_sgmrl.theory.directional_change`; None leaves the last panel out
    :param baseline: the direction that the others are compared with; the first when None
    :return: the figure
    :raises ValueError: when there is nothing to draw
    """
    if not quality:
        raise ValueError("`quality` must hold at least one estimator.")
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
    scatter.legend(frameon=False, fontsize="small")
    bars.set(xlabel="signal-to-noise ratio of a meta-batch")
    bars.invert_yaxis()
    if change is not None:
        _draw_differences(rest[0], change, next(iter(change.returns)) if baseline is None else baseline)
    return figure


def _scale_biases(axis: Axes) -> None:
    """Zero has its place, and intervals of what is not resolved may be long."""
    axis.set_yscale("symlog", linthresh=0.1)
    axis.set_ylim(bottom=0)


def _reach(value: float, interval: tuple[float, float]) -> np.ndarray:
    """Lengths of the two sides of an interval as matplotlib wants them, shape (2, 1)."""
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
    axis.invert_yaxis()


def plot_quality_sweep(sweeps: Mapping[str, Mapping[float, GradientQuality]], xlabel: str, xscale: str = "linear") -> Figure:
    """
    Variance, relative bias and signal-to-noise ratio against a setting, with 95 % confidence bands.

    :param sweeps: by estimator, the quality for each value of the setting
    :param xlabel: name of the setting
    :param xscale: "linear" or "log"
    :return: the figure
    :raises ValueError: when there is nothing to draw
    """
    if not sweeps or not all(sweeps.values()):
        raise ValueError("`sweeps` must hold at least one value of the setting for each estimator.")
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
            axis.fill_between(values, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    for axis, label in zip(axes, ("variance of a meta-batch", "relative bias", "signal-to-noise ratio"), strict=True):
        axis.set(xlabel=xlabel, ylabel=label, xscale=xscale)
    axes[0].set_yscale("log")
    _scale_biases(axes[1])
    axes[0].legend(frameon=False, fontsize="small")
    return figure

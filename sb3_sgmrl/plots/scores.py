"""Comparison of algorithms by the final returns of several runs each, as rliable recommends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from gymnasium.utils.env_checker import data_equivalence

from sb3_sgmrl.common.evaluation import AdaptationReport, inner_steps
from sb3_sgmrl.plots.adaptation import stacked_returns
from sb3_sgmrl.plots.bootstrap import N_BOOTSTRAP, check_level, interquartile_mean, interval_estimates, own_random_numbers
from sb3_sgmrl.plots.runs import by_name
from sb3_sgmrl.plots.style import Figure, draw_band, legend_below
from sb3_sgmrl.util.validation import check_choice

Reports = Mapping[str, AdaptationReport | Sequence[AdaptationReport]]
# by pair: the probability, and the ends of its interval
Improvements = dict[tuple[str, str], tuple[float, float, float]]
AGGREGATES = ("iqm", "median", "mean")
_N_THRESHOLDS = 101


def plot_performance_profiles(reports: Reports, n_steps: int | None = None, level: float = 0.95) -> Figure:
    """
    Plot the fraction of runs and tasks whose return after adaptation is above τ, against τ.

    Bands are stratified bootstrap intervals, by rliable. Dotted lines without bands show the returns before adaptation.

    :param reports: The reports by algorithm, each of one run or of several, all on the same tasks
    :param n_steps: The number of inner steps; the largest number that all reports have when None
    :param level: The coverage of the bands, in (0, 1)
    :return: The figure
    :raises ValueError: When an argument is outside its range, there is nothing to draw, or the tasks differ
    """
    check_level(level)
    scores, n_steps = _final_scores(reports, n_steps)
    _check_same_tasks(reports)
    before, _ = _final_scores(reports, 0)
    every = [*scores.values(), *before.values()]
    low, high = min(map(np.min, every)), max(map(np.max, every))
    margin = 0.02 * (high - low) or 1.0  # also shows a single value
    thresholds = np.linspace(low - margin, high + margin, _N_THRESHOLDS)
    from rliable import library  # takes seconds

    with own_random_numbers():
        profiles, intervals = library.create_performance_profile(
            *(scores, thresholds), custom_profile_func=_fractions_above, reps=N_BOOTSTRAP, confidence_interval_size=level
        )
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axis = figure.subplots()
    for i, (name, profile) in enumerate(profiles.items()):
        axis.plot(thresholds, profile, color=f"C{i}", label=name)
        if len(scores[name]) > 1:
            low, high = intervals[name]
            draw_band(axis, thresholds, low, high, f"C{i}")
        axis.plot(thresholds, _fractions_above(before[name], thresholds), ":", color=f"C{i}", linewidth=1)
    axis.set(xlabel="return τ", ylabel="fraction of runs and tasks above τ", ylim=(-0.02, 1.02))
    axis.set_title(f"after {inner_steps(n_steps)}; dotted: before adaptation", fontsize="medium")
    if len(profiles) > 1:
        legend_below(figure)
    return figure


def _fractions_above(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    return (scores[..., None] > thresholds).mean((0, 1))


def plot_probability_of_improvement(
    reports: Reports, n_steps: int | None = None, level: float = 0.95, reference: str | None = None
) -> Figure:
    """
    Plot for pairs of algorithms the probability that one improves on the other.

    This is the probability that a run of one algorithm has a higher return after adaptation than a run of the other, averaged
    over tasks. Bars are stratified bootstrap intervals over runs, by rliable.

    :param reports: The reports of at least two algorithms, by algorithm, each of several runs, all on the same tasks
    :param n_steps: The number of inner steps; the largest number that all reports have when None
    :param level: The coverage of the intervals, in (0, 1)
    :param reference: The algorithm that all others are compared with; None compares every pair
    :return: The figure
    :raises ValueError: When an argument is outside its range, there are fewer than two algorithms, or the tasks differ
    """
    pairs = improvement_probabilities(reports, n_steps, level, reference)
    scores, n_steps = _final_scores(reports, n_steps)
    figure = Figure(figsize=(5.2, 0.4 * len(pairs) + 1.3), layout="constrained")
    axis = figure.subplots()
    for i, (probability, low, high) in enumerate(pairs.values()):
        axis.barh(i, high - low, left=low, height=0.5, color="C0", alpha=0.35)
        axis.plot([probability] * 2, [i - 0.25, i + 0.25], color="C0", linewidth=2)
    axis.axvline(0.5, color="0.6", linewidth=1, zorder=0)
    axis.set(
        xlim=(0, 1),
        yticks=range(len(pairs)),
        yticklabels=[f"{one} > {other}" for one, other in pairs],
        ylim=(len(pairs) - 0.5, -0.5),
    )
    counts = sorted({len(runs) for runs in scores.values()})
    counted = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    axis.set(xlabel=f"probability of a higher return after {inner_steps(n_steps)}")
    axis.set_title(f"{counted} run{'s' * (counts[-1] > 1)} each, {100 * level:g} % bootstrap interval", fontsize="medium")
    return figure


def aggregate_scores(
    reports: Reports, n_steps: int | None = None, level: float = 0.95
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """
    Aggregate the returns of several runs, with stratified bootstrap intervals by rliable.

    :param reports: The reports by algorithm, each of one run or of several
    :param n_steps: The number of inner steps; the largest number that all reports have when None
    :param level: The coverage of the intervals, in (0, 1)
    :return: By algorithm and by aggregate (``iqm``, ``median``, ``mean``): the value, and the ends of its interval
    :raises ValueError: When an argument is outside its range, or runs of an algorithm have different shapes
    """
    check_level(level)
    scores, _ = _final_scores(reports, n_steps)
    values, intervals = interval_estimates(scores, _aggregates, level)
    return {
        name: {
            aggregate: (float(values[name][i]), float(intervals[name][0, i]), float(intervals[name][1, i]))
            for i, aggregate in enumerate(AGGREGATES)
        }
        for name in scores
    }


def _aggregates(scores: np.ndarray) -> np.ndarray:
    return np.array([interquartile_mean(scores[:, :, None])[0], np.median(scores.mean(0)), scores.mean()])


def improvement_probabilities(
    reports: Reports, n_steps: int | None = None, level: float = 0.95, reference: str | None = None
) -> Improvements:
    """
    Compute rliable's probability of improvement for pairs of algorithms.

    :param reports: The reports of at least two algorithms, by algorithm, all on the same tasks
    :param n_steps: The number of inner steps; the largest number that all reports have when None
    :param level: The coverage of the intervals, in (0, 1)
    :param reference: The algorithm that all others are compared with; None compares every pair
    :return: By pair: the probability that a run of the first is better, and the ends of its interval
    :raises ValueError: When an argument is outside its range, there are fewer than two algorithms, or the tasks differ
    """
    check_level(level)
    scores, _ = _final_scores(reports, n_steps)
    if len(scores) < 2:
        raise ValueError(f"`reports` must hold at least two algorithms to compare, got {list(scores)}.")
    _check_same_tasks(reports)
    if reference is not None:
        check_choice("reference", reference, tuple(scores))
    chosen = combinations(scores, 2) if reference is None else ((name, reference) for name in scores if name != reference)
    pairs = {(one, other): f"{one} > {other}" for one, other in chosen}
    compared = {text: [scores[one], scores[other]] for (one, other), text in pairs.items()}
    values, intervals = interval_estimates(compared, probability_of_improvement, level)
    ends = {pair: np.ravel(intervals[text]) for pair, text in pairs.items()}
    return {pair: (float(values[text]), float(ends[pair][0]), float(ends[pair][1])) for pair, text in pairs.items()}


def probability_of_improvement(one: np.ndarray, other: np.ndarray) -> float:
    """
    Compute rliable's metric of the same name.

    rliable uses a Mann-Whitney test per task, which is too slow for a bootstrap over many tasks.

    :param one: The scores of one algorithm, shape (n_runs, n_tasks)
    :param other: The scores of the other algorithm, shape (n_other_runs, n_tasks)
    :return: The probability that a run of the first is better, averaged over tasks; ties count half
    """
    return float((one[:, None] > other).mean() + 0.5 * (one[:, None] == other).mean())


def _final_scores(reports: Reports, n_steps: int | None) -> tuple[dict[str, np.ndarray], int]:
    """Return the returns after that many inner steps, by name (n_runs, n_tasks), and the number of inner steps."""
    returns = {name: stacked_returns(name, runs) for name, runs in by_name(reports, AdaptationReport, "reports").items()}
    most = min(of_name.shape[2] for of_name in returns.values()) - 1
    n_steps = most if n_steps is None else n_steps
    if not 0 <= n_steps <= most:
        raise ValueError(f"`n_steps` must lie between 0 and {most}, which all reports have, got {n_steps}.")
    return {name: of_name[:, :, n_steps] for name, of_name in returns.items()}, n_steps


def _is_same(one: Any, other: Any) -> bool:
    try:  # a report from a file has the numbers as text says them
        numbers = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    except (TypeError, ValueError):
        return data_equivalence(one, other, exact=True)
    return numbers[0].shape == numbers[1].shape and np.allclose(*numbers, rtol=1e-6, atol=1e-12)


def _check_same_tasks(reports: Reports) -> None:
    first, *others = [run for runs in by_name(reports, AdaptationReport, "reports").values() for run in runs]
    for other in others:
        if len(first.tasks) != len(other.tasks) or not all(map(_is_same, first.tasks, other.tasks)):
            raise ValueError(
                "`reports` must all be of the same tasks, got different tasks: evaluate with equal `seed` and `n_tasks`."
            )

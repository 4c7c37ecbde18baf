"""Returns in training, averaged over meta-iterations: less noisy than the last policy alone."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterator, Sequence

import numpy as np

from sb3_sgmrl.cli.compare.results import half_width
from sb3_sgmrl.cli.compare.runs import Run

_POST, _STEPS = "rollout/ep_rew_mean_post", "time/total_timesteps"
# The meta-iterations that a return in training is averaged over before it counts as reached.
_ITERATIONS = 10


def check_window(text: str) -> tuple[int, int]:
    """
    Read a window.

    :param text: The first and the last meta-iteration, such as ``51-100``
    :return: The two numbers
    :raises ValueError: When it is no window
    """
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise ValueError(f"`--in-training` must be a first and a last iteration such as 51-100, got {text!r}.")
    return int(first), int(last)


def window_lines(runs: Sequence[Run], window: tuple[int, int]) -> Iterator[str]:
    """
    Compare returns after adaptation in a window of training.

    :param runs: The runs; those without meta-iterations, such as baselines, are left out
    :param window: The first and the last meta-iteration
    :return: The lines of a table
    """
    first, last = window
    yield f"In training, iterations {first} to {last}: mean return in the last phase"
    means: dict[str, dict[int, float]] = {}
    for run in runs:
        returns = _column(run, _POST)
        if 0 < len(returns) < last:
            yield f"{run.method.name} seed {run.seed} is left out, because it has {len(returns)} iterations."
        elif len(returns):
            means.setdefault(run.method.name, {})[run.seed] = float(returns[first - 1 : last].mean())
    for name, of_name in means.items():
        values = np.array(list(of_name.values()))
        yield f"{name}: {values.mean():.2f} ± {half_width(values):.2f} over {len(values)} runs"
    one, *others = means or [""]
    for other in others:
        pairs = np.array([means[one][seed] - means[other][seed] for seed in means[one] if seed in means[other]])
        if len(pairs):
            yield f"{one} − {other} in training, paired by seed: {pairs.mean():+.2f} ± {half_width(pairs):.2f}"


def target_lines(runs: Sequence[Run], target: float) -> Iterator[str]:
    """
    Compare the environment steps that a return after adaptation takes in training.

    :param runs: The runs; those without meta-iterations, such as baselines, are left out
    :param target: The return, which the mean of ten meta-iterations must reach
    :return: The lines of a table; the upper medians over the runs, where a run that has not reached the target takes longest
    """
    yield f"Million environment steps until the mean of {_ITERATIONS} iterations in training reaches {target:g}, by seed"
    steps: dict[str, dict[int, float]] = {}
    trained: dict[str, dict[int, float]] = {}
    for run in runs:
        returns, counts = _column(run, _POST), _column(run, _STEPS)
        if len(returns) >= _ITERATIONS:
            means = np.convolve(returns, np.full(_ITERATIONS, 1 / _ITERATIONS), "valid")
            reached = np.flatnonzero(means >= target)
            found = counts[_ITERATIONS - 1 + reached[0]] / 1e6 if len(reached) else math.inf
            steps.setdefault(run.method.name, {})[run.seed] = found
            trained.setdefault(run.method.name, {})[run.seed] = counts[-1] / 1e6
    if not steps:
        yield f"No run has {_ITERATIONS} meta-iterations yet."
    medians = {name: statistics.median_high(of_name.values()) for name, of_name in steps.items()}
    first = next(iter(medians), "")
    for name, median in medians.items():
        cells = [f"{n:.2f}" if math.isfinite(n) else f">{trained[name][seed]:.2f}" for seed, n in steps[name].items()]
        shown = f"median {median:.2f}" if math.isfinite(median) else "not reached by half of the runs"
        compared = name != first and math.isfinite(median) and math.isfinite(medians[first])
        yield f"{name}: {' '.join(cells)}; {shown}" + (f", {median / medians[first]:.0%} of {first}'s" if compared else "")


def _column(run: Run, name: str) -> np.ndarray:
    file = run.folder / "progress.csv"
    if not file.exists():
        return np.empty(0)
    with open(file, newline="", encoding="utf-8") as stream:
        return np.array([float(row[name]) for row in csv.DictReader(stream) if row.get(_POST)])

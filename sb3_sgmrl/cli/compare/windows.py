"""Returns in training, averaged over a window of meta-iterations: less noisy than the last policy alone."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence

import numpy as np

from sb3_sgmrl.cli.compare.results import half_width
from sb3_sgmrl.cli.compare.runs import Run

_POST = "rollout/ep_rew_mean_post"


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
        returns = _returns(run)
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


def _returns(run: Run) -> np.ndarray:
    file = run.folder / "progress.csv"
    if not file.exists():
        return np.empty(0)
    with open(file, newline="", encoding="utf-8") as stream:
        return np.array([float(row[_POST]) for row in csv.DictReader(stream) if row.get(_POST)])

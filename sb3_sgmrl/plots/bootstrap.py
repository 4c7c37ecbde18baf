"""rliable's stratified bootstrap with the same result whenever it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

N_BOOTSTRAP = 2000

Intervals = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """Within a ``with`` statement numpy's global generator, which rliable draws from, begins anew; then it is as before."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def check_level(level: float) -> None:
    """
    :param level: coverage of an interval
    :raises ValueError: outside (0, 1)
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie between 0 and 1, got {level}.")


def interval_estimates(
    scores: Mapping[str, np.ndarray] | Mapping[str, Sequence[np.ndarray]],
    function: Callable[..., np.ndarray | float],
    level: float = 0.95,
    task_bootstrap: bool = False,
) -> Intervals:
    """
    Statistics of runs with their percentile intervals, from rliable.

    :param scores: by name, shape (n_runs, n_tasks, …), or several such arrays that are resampled independently
    :param function: of scores
    :param level: coverage
    :param task_bootstrap: resample tasks too, instead of taking them as given
    :return: by name, the values, and the lower and upper ends, shape (2, …)
    """
    from rliable import library  # takes seconds

    with own_random_numbers():
        return library.get_interval_estimates(
            scores, function, task_bootstrap=task_bootstrap, reps=N_BOOTSTRAP, confidence_interval_size=level
        )


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """
    rliable's ``aggregate_iqm`` of every point at once, and without scipy, which takes most of the time of a bootstrap.

    :param scores: shape (n_runs, n_tasks, n_points)
    :return: shape (n_points,)
    """
    ordered = np.sort(scores.reshape(-1, scores.shape[-1]), axis=0)
    cut = len(ordered) // 4
    return ordered[cut : len(ordered) - cut].mean(0)

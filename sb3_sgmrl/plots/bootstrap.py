"""A reproducible form of rliable's stratified bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

N_BOOTSTRAP = 2000

Intervals = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """Seed NumPy's global generator, which rliable uses, and restore its state at the end of the ``with`` statement."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def check_level(level: float) -> None:
    """
    Check the coverage of an interval.

    :param level: The coverage
    :raises ValueError: When ``level`` is outside (0, 1)
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
    Compute statistics of runs and their percentile intervals with rliable.

    :param scores: The scores by name, shape (n_runs, n_tasks, …); or several such arrays, which are resampled independently
    :param function: The statistic, a function of scores
    :param level: The coverage of the intervals
    :param task_bootstrap: Whether to resample tasks too, instead of taking them as fixed
    :return: The values by name, and by name the lower and upper ends, shape (2, …)
    """
    from rliable import library  # takes seconds

    with own_random_numbers():
        return library.get_interval_estimates(
            scores, function, task_bootstrap=task_bootstrap, reps=N_BOOTSTRAP, confidence_interval_size=level
        )


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """
    Compute rliable's ``aggregate_iqm`` of every point at once.

    It does not use scipy, which would take most of the time of a bootstrap.

    :param scores: The scores, shape (n_runs, n_tasks, n_points)
    :return: The interquartile means, shape (n_points,)
    """
    ordered = np.sort(scores.reshape(-1, scores.shape[-1]), axis=0)
    cut = len(ordered) // 4
    return ordered[cut : len(ordered) - cut].mean(0)

"""Discounted sums along the steps of episodes."""

from __future__ import annotations

import numpy as np


def accumulated(x: np.ndarray, factor: float) -> np.ndarray:
    """
    Compute Σ_{k≤t} factor^{t−k} x_k for every t.

    :param x: The numbers, shape (..., n_steps)
    :param factor: The factor per step
    :return: The sums, shape (..., n_steps)
    """
    # Each pass doubles the number of steps in a sum. A loop over the steps takes more than three times as long at 100 steps,
    # and the filter of scipy takes longer to import than SB3.
    sums = np.array(x, dtype=np.float64, order="C")
    width = 1
    while width < sums.shape[-1]:
        sums[..., width:] += factor**width * sums[..., :-width]
        width *= 2
    return sums


def discounted_sum(x: np.ndarray, discount: float) -> np.ndarray:
    """
    Compute Σ_{k≥t} discount^{k−t} x_k for every t.

    :param x: The numbers, shape (..., n_steps)
    :param discount: The factor per step
    :return: The sums, shape (..., n_steps)
    """
    return accumulated(x[..., ::-1], discount)[..., ::-1]

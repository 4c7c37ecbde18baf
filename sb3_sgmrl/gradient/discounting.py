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
    # A loop over the steps of all episodes at once is as fast as scipy's filter, which takes longer to import than SB3.
    sums = np.array(np.moveaxis(x, -1, 0), dtype=np.float64, order="C")
    for t in range(1, len(sums)):
        sums[t] += factor * sums[t - 1]
    return np.ascontiguousarray(np.moveaxis(sums, 0, -1))


def discounted_sum(x: np.ndarray, discount: float) -> np.ndarray:
    """
    Compute Σ_{k≥t} discount^{k−t} x_k for every t.

    :param x: The numbers, shape (..., n_steps)
    :param discount: The factor per step
    :return: The sums, shape (..., n_steps)
    """
    return accumulated(x[..., ::-1], discount)[..., ::-1]

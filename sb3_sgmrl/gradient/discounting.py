"""Discounted sums along the steps of episodes."""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter


def accumulated(x: np.ndarray, factor: float) -> np.ndarray:
    """
    Σ_{k≤t} factor^{t−k} x_k for every t.

    :param x: The numbers, shape (..., n_steps)
    :param factor: The factor per step
    :return: The sums, shape (..., n_steps)
    """
    return lfilter([1.0], [1.0, -factor], x)


def discounted_sum(x: np.ndarray, discount: float) -> np.ndarray:
    """
    Σ_{k≥t} discount^{k−t} x_k for every t.

    :param x: The numbers, shape (..., n_steps)
    :param discount: The factor per step
    :return: The sums, shape (..., n_steps)
    """
    return accumulated(x[..., ::-1], discount)[..., ::-1]

"""The results of a comparison, by method and seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sb3_sgmrl.common.evaluation import AdaptationReport


@dataclass(frozen=True)
class Results:
    """
    The reports of a comparison at one number of environment steps.

    :param reports: The reports by method and seed
    :param failures: The number of runs by method that ended in an error
    :param title: What was measured
    """

    reports: Mapping[str, Mapping[int, AdaptationReport]]
    failures: Mapping[str, int]
    title: str

    def means(self, method: str) -> np.ndarray:
        """
        Return the mean returns of the runs of a method.

        :param method: The method
        :return: The means over tasks, shape (n_runs, n_steps + 1)
        """
        return np.array([report.mean_returns for report in self.reports[method].values()])

    def differences(self, one: str, other: str, k: int) -> np.ndarray:
        """
        Return the paired differences of two methods.

        :param one: The first method
        :param other: The method to subtract
        :param k: The number of inner steps
        :return: The differences of the seeds that both have, shape (n_pairs,)
        """
        ours, theirs = self.reports[one], self.reports[other]
        seeds = [seed for seed in ours if seed in theirs]
        return np.array([ours[seed].mean_returns[k] - theirs[seed].mean_returns[k] for seed in seeds])


def half_width(values: np.ndarray) -> np.ndarray:
    """
    Compute half the width of a 95 % confidence interval of the mean, by Student's t.

    :param values: The values, shape (n_runs, …)
    :return: The half widths, shape (…); NaN for a single run
    """
    import scipy.stats

    n = len(values)
    if n < 2:
        return np.full(np.shape(values)[1:], np.nan)
    return np.asarray(scipy.stats.t.ppf(0.975, n - 1) * np.std(values, axis=0, ddof=1) / np.sqrt(n))

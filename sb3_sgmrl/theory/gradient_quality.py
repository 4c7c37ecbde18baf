"""Bias, variance, signal-to-noise ratio, angle and cost of meta-gradient estimates at a given policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sb3_sgmrl.policies.functional import Parameters
from sb3_sgmrl.theory.gradient_sample import GradientSample, flatten
from sb3_sgmrl.theory.statistics import Estimate, align, mean_over_batches, mean_over_pairs, with_interval
from sb3_sgmrl.util.validation import check_choice


@dataclass(frozen=True)
class GradientQuality:
    """
    The quality of one estimator g at one policy, from n meta-batches.

    Products are taken between different batches. So noise of g and of the reference does not bias the squared norms, distances
    and angles of means. These estimates can be negative. Standard errors come from the jackknife over meta-batches.

    :param n_batches: The number n of meta-batches
    :param squared_norm: The squared norm ‖E g‖², the mean of g_i · g_j over i ≠ j
    :param variance: The variance tr Cov g of one meta-batch, the mean of ‖g_i‖² minus ``squared_norm``
    :param snr: The signal-to-noise ratio, ``squared_norm / variance`` (no root)
    :param squared_bias: The squared relative bias ‖E g − r‖² / ‖r‖² with the reference r. NaN where the estimate of ‖r‖² is
        not positive; None without a reference and for the reference itself
    :param cosine: The cosine E g · r / (‖E g‖ ‖r‖). NaN where an estimated squared norm is not positive; None without a
        reference and for the reference itself
    :param noise_of_mean: The fraction of the squared norm of the mean gradient that is noise, (variance / n) / ‖mean of g_i‖²
    :param sampling_seconds: The time to sample a meta-batch, in seconds
    :param gradient_seconds: The time to compute the gradient, in seconds
    """

    n_batches: int
    squared_norm: Estimate
    variance: Estimate
    snr: Estimate
    squared_bias: Estimate | None
    cosine: Estimate | None
    noise_of_mean: float
    sampling_seconds: float
    gradient_seconds: float

    @property
    def relative_bias(self) -> float | None:
        """
        The relative bias ‖E g − r‖ / ‖r‖, or None without ``squared_bias``.

        It is zero where the estimate of ``squared_bias`` is negative.
        """
        return None if self.squared_bias is None else max(self.squared_bias.value, 0.0) ** 0.5

    @property
    def relative_bias_interval(self) -> tuple[float, float] | None:
        """
        The 95 % confidence interval of ``relative_bias``, or None without ``squared_bias``.

        Its ends are the roots of the ends of the interval of ``squared_bias``.
        """
        if self.squared_bias is None:
            return None
        low, high = (max(end, 0.0) ** 0.5 for end in self.squared_bias.interval)
        return low, high

    @property
    def cost(self) -> float:
        """
        The seconds of sampling and gradient computation per unit of ``snr``.

        After this time signal and noise are equal.
        """
        return self._seconds_for(self.snr.value)

    @property
    def cost_interval(self) -> tuple[float, float]:
        """
        The 95 % confidence interval of ``cost``, from the interval of ``snr``.

        Its upper end is infinite where the interval of ``snr`` includes zero.
        """
        low, high = self.snr.interval
        return self._seconds_for(high), self._seconds_for(low)

    def _seconds_for(self, snr: float) -> float:
        return (self.sampling_seconds + self.gradient_seconds) / snr if snr > 0 else float("inf")


def compare_gradients(sample: GradientSample, reference: str | Parameters | None = None) -> dict[str, GradientQuality]:
    """
    Measure the quality of the estimators of a sample.

    :param sample: The gradients from :func:`sample_gradients`, with at least three meta-batches
    :param reference: The reference for bias and cosine: the name of an estimator, whose mean is used, or an exact gradient
        such as :func:`~sb3_sgmrl.theory.exact_gradient` returns. None omits bias and cosine
    :return: The quality, by estimator
    :raises ValueError: When the reference is unknown, or there are fewer than three meta-batches
    """
    if isinstance(reference, str):
        check_choice("reference", reference, tuple(sample.gradients))
    fewest = min(map(len, sample.gradients.values()))
    if fewest < 3:
        raise ValueError(f"`sample` must hold at least 3 meta-batches, got {fewest}.")
    target: np.ndarray | None = None
    if reference is not None:
        known = sample.gradients[reference] if isinstance(reference, str) else flatten(reference, sample.parameters)
        target = known.astype(np.float64)
    return {name: _quality(sample, name, None if name == reference else target) for name in sample.gradients}


def _quality(sample: GradientSample, name: str, target: np.ndarray | None) -> GradientQuality:
    g = sample.gradients[name].astype(np.float64)
    n = len(g)
    n_batches = n if target is None or target.ndim == 1 else max(n, len(target))
    products = g @ g.T
    squared_norm = mean_over_pairs(products, n_batches)
    variance = mean_over_batches(np.diag(products), n_batches) - squared_norm
    squared_bias = cosine = None
    with np.errstate(invalid="ignore", divide="ignore"):  # roots of negative numbers, and estimators without noise
        snr = Estimate.by_jackknife(squared_norm / variance)
        noise_of_mean = float(variance[0] / n / products.mean())
        if target is not None:
            if target.ndim == 1:  # exact: every pair of batches counts
                length, along = np.full(1 + n_batches, target @ target), mean_over_batches(g @ target, n_batches)
            else:
                length, along = mean_over_pairs(target @ target.T, n_batches), mean_over_pairs(g @ target.T, n_batches)
            length = np.where(length > 0, length, np.nan)
            squared_bias = Estimate.by_jackknife((squared_norm + length - 2 * along) / length)
            cosine = Estimate.by_jackknife(along / np.sqrt(squared_norm * length))
    return GradientQuality(
        n_batches=n,
        squared_norm=Estimate.by_jackknife(squared_norm),
        variance=Estimate.by_jackknife(variance),
        snr=snr,
        squared_bias=squared_bias,
        cosine=cosine,
        noise_of_mean=noise_of_mean,
        sampling_seconds=sample.sampling_seconds,
        gradient_seconds=sample.gradient_seconds[name],
    )


def quality_table(quality: Mapping[str, GradientQuality]) -> str:
    """
    Format the quality of estimators as a table for printing.

    :param quality: The quality from :func:`compare_gradients`
    :return: The table, one line per estimator; brackets hold 95 % confidence intervals
    """
    header = ["", "relative bias", "cosine", "variance", "signal to noise", "seconds per SNR", "noise of mean"]
    return align([header, *([name, *_cells(row)] for name, row in quality.items())])


def _cells(row: GradientQuality) -> list[str]:
    bias = "" if row.relative_bias is None else with_interval(row.relative_bias, row.relative_bias_interval)
    cosine = "" if row.cosine is None else with_interval(row.cosine.value, row.cosine.interval)
    rest = [(row.variance.value, row.variance.interval), (row.snr.value, row.snr.interval), (row.cost, row.cost_interval)]
    return [bias, cosine, *(with_interval(*pair) for pair in rest), f"{row.noise_of_mean:.2g}"]

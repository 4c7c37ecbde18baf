"""Unbiased squared norms, distances and angles of mean gradients from samples, with standard errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# the quantile of a normal distribution for a 95 % interval
_QUANTILE = 1.96


@dataclass(frozen=True)
class Estimate:
    """
    A number with its standard error.

    :param value: The number
    :param standard_error: The standard error of the number
    """

    value: float
    standard_error: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval, by the normal distribution."""
        half = _QUANTILE * self.standard_error
        return self.value - half, self.value + half

    @classmethod
    def of_mean(cls, sample: Sequence[float] | np.ndarray) -> Estimate:
        """
        Estimate the mean of independent numbers.

        :param sample: The independent numbers, shape (n,)
        :return: The mean with its standard error, which is NaN for a single number
        """
        error = float(np.std(sample, ddof=1)) / len(sample) ** 0.5 if len(sample) > 1 else float("nan")
        return cls(float(np.mean(sample)), error)

    @classmethod
    def by_jackknife(cls, values: np.ndarray) -> Estimate:
        """
        Estimate a statistic with the standard error of the jackknife.

        :param values: The statistic of all batches, then without each batch in turn, shape (1 + n,)
        :return: The statistic of all batches, with the standard error sqrt((n − 1) / n Σ_j (x_(j) − mean of x_(j))²)
        """
        without = values[1:]
        return cls(float(values[0]), float(without.std() * max(len(without) - 1, 0) ** 0.5))


def mean_over_pairs(products: np.ndarray, n_batches: int) -> np.ndarray:
    """
    Estimate E[x] · E[y] without bias.

    The estimate uses batches 0 … n − 1 of x and 0 … m − 1 of y. It is the mean of x_i · y_k over i ≠ k, because only different
    batches are independent.

    :param products: The products x_i · y_k, shape (n, m)
    :param n_batches: The number of batches in total, max(n, m)
    :return: The mean, then the mean without each batch in turn, shape (1 + n_batches,)
    """
    n, m = products.shape
    products = products.copy()
    np.fill_diagonal(products, 0.0)
    batch = np.arange(n_batches)
    in_rows, in_columns = batch < n, batch < m
    of_batch = np.zeros(n_batches)
    of_batch[:n] += products.sum(1)
    of_batch[:m] += products.sum(0)
    # a batch that occurs on both sides has no pair with itself
    pairs_of_batch = in_rows * (m - in_columns) + in_columns * (n - in_rows)
    total, pairs = products.sum(), n * m - min(n, m)
    with np.errstate(invalid="ignore", divide="ignore"):  # two batches leave no pair without one of them
        return np.concatenate([[total / pairs], (total - of_batch) / (pairs - pairs_of_batch)])


def mean_over_batches(values: np.ndarray, n_batches: int) -> np.ndarray:
    """
    Compute the mean over batches, and the mean without each batch.

    :param values: The values, one per batch, shape (n,)
    :param n_batches: The number of batches in total, at least n
    :return: The mean, then the mean without each batch in turn, shape (1 + n_batches,)
    """
    of_batch = np.zeros(n_batches)
    of_batch[: len(values)] = values
    counts = len(values) - (np.arange(n_batches) < len(values))
    return np.concatenate([[values.mean()], (values.sum() - of_batch) / counts])


def with_interval(value: float, interval: tuple[float, float] | None, form: str = ".3g") -> str:
    """
    Format a number and its interval for a table.

    :param value: The number
    :param interval: The confidence interval
    :param form: The format specification of numbers
    :return: The cell of the table
    """
    if interval is None or np.isnan([value, *interval]).any():
        return "not resolved"
    return f"{value:{form}} [{interval[0]:{form}}, {interval[1]:{form}}]"


def align(rows: Sequence[Sequence[str]]) -> str:
    """
    Format a table with aligned columns.

    :param rows: The rows of cells
    :return: The lines of the table; the first column is left-aligned, the others are right-aligned
    """
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = (f"{row[0]:{first}}" + "".join(f"  {c:>{w}}" for c, w in zip(row[1:], others, strict=True)) for row in rows)
    return "\n".join(lines)

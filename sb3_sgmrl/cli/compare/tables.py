"""Tables of a comparison: for the terminal, as CSV and as LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import numpy as np

from sb3_sgmrl.cli.compare.results import Results, half_width
from sb3_sgmrl.common.evaluation import after

_NOTE = "±: 95 % confidence interval over seeds (Student's t)"


def text_table(results: Results, k: int) -> str:
    """
    Write the table for the terminal.

    :param results: The results
    :param k: The number of inner steps that differences are measured after
    :return: The rows of each seed, the mean and its interval, and the paired differences to the first method
    """
    width = max(6, *(len(name) for name in results.reports)) + 1
    n_columns = max((means.shape[1] for _, means in _means(results)), default=1)
    lines = [results.title, f"{'method':{width}}{'seed':>8}" + "".join(f"{f'{k} steps':>10}" for k in range(n_columns))]

    def row(name: str, label: object, values: np.ndarray) -> str:
        return f"{name:{width}}{label!s:>8}" + "".join(f"{value:10.2f}" for value in values)

    for name, means in _means(results):
        lines += [row(name, seed, values) for seed, values in zip(results.reports[name], means, strict=True)]
        if len(means):
            lines.append(row(name, "mean", means.mean(0)))
        if len(means) > 1:
            lines.append(row(name, "±", half_width(means)))
        if failed := results.failures.get(name):
            lines.append(f"{name:{width}}{failed} of {failed + len(means)} runs failed; the mean is of the others")
    lines += _differences(results, k)
    return "\n".join([*lines, _NOTE])


def _means(results: Results) -> Iterator[tuple[str, np.ndarray]]:
    for name in results.reports:
        yield name, results.means(name)


def _differences(results: Results, k: int) -> Iterator[str]:
    first, *others = results.reports
    for other in others:
        difference = results.differences(first, other, k)
        if len(difference):
            interval = f" ± {half_width(difference):.2f}" if len(difference) > 1 else ""
            yield f"{first} − {other} {after(k)}, paired by seed: {difference.mean():+.2f}{interval}"


def csv_table(results: Results) -> str:
    """
    Write the means and intervals as CSV.

    :param results: The results
    :return: A row per method: the number of runs and of failed runs, and for each number of inner steps mean, low and high
    """
    text = io.StringIO()
    writer = csv.writer(text)
    n_columns = max((means.shape[1] for _, means in _means(results)), default=1)
    ends = [f"{what}_after_{k}" for k in range(n_columns) for what in ("mean", "low", "high")]
    writer.writerow(["method", "runs", "failed", *ends])
    for name, means in _means(results):
        cells: list[float] = []
        if len(means):
            for mean, half in zip(means.mean(0), half_width(means), strict=True):
                cells += [mean, mean - half, mean + half]
        writer.writerow([name, len(means), results.failures.get(name, 0), *cells])
    return text.getvalue()


def latex_table(results: Results) -> str:
    """
    Write the means and intervals as LaTeX, for the package booktabs.

    :param results: The results
    :return: The table
    """
    n_columns = max((means.shape[1] for _, means in _means(results)), default=1)
    head = " & ".join(["method", "runs", *(f"{k} steps" for k in range(n_columns))])
    rows = []
    for name, means in _means(results):
        cells = [_escaped(name), str(len(means)) + (f" ({n} failed)" if (n := results.failures.get(name)) else "")]
        if len(means):
            halves = half_width(means)
            cells += [_cell(mean, half) for mean, half in zip(means.mean(0), halves, strict=True)]
        cells += ["--"] * (n_columns + 2 - len(cells))
        rows.append(" & ".join(cells) + r" \\")
    return "\n".join(
        [
            f"% {results.title}; {_NOTE}",
            rf"\begin{{tabular}}{{lr{'r' * n_columns}}}",
            r"\toprule",
            head + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _cell(mean: float, half: float) -> str:
    return f"${mean:.1f}$" if np.isnan(half) else rf"${mean:.1f} \pm {half:.1f}$"


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "_%&#$" else letter for letter in text)

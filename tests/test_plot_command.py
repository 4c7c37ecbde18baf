"""What the command for pictures makes of sources: which it shows, by which names, and what it refuses before that costs time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_sgmrl import AdaptationReport, plot

pytest.importorskip("rliable")

GOALS = [np.array([0.25, -0.5]), np.array([-0.25, 0.375]), np.array([0.125, 0.5])]


@pytest.fixture(autouse=True)
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The pictures by path, instead of files, in an empty working directory."""
    figures: dict[str, Figure] = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plot, "write_figure", lambda figure, path, dpi: figures.update({path: figure}))
    return figures


def write_report(path: str, tasks: Sequence[Any] = GOALS, n_steps: int = 2, offset: float = 0.0) -> AdaptationReport:
    returns = offset + np.arange(len(tasks) * (n_steps + 1), dtype=float).reshape(len(tasks), -1)
    report = AdaptationReport(tasks, returns)
    report.to_csv(path)
    return report


def labels_of(axis: Axes) -> list[str]:
    return [str(line.get_label()) for line in axis.lines]


# ---------------------------------------------------------------- tasks


@pytest.mark.parametrize("options", [["--parameters", "0"], ["--env", "Navigation2D-v0", "--parameters", "0"]])
def test_every_report_is_drawn_at_its_own_tasks(options: list[str], drawn: dict[str, Figure]) -> None:
    others = [-goal for goal in GOALS]
    write_report("A.csv")
    write_report("B.csv", others, offset=50)
    assert plot.main(["tasks", "A.csv", "B.csv", *options]) == 0
    (axis,) = drawn["tasks.png"].axes
    for line, tasks in zip(axis.lines, (GOALS, GOALS, others, others), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [task[0] for task in tasks])

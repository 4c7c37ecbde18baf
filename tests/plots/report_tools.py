"""Reports to draw, and figures as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sb3_sgmrl import AdaptationReport


def saved(figure: Figure, folder: Path) -> Figure:
    """Pictures are drawn when they are written."""
    figure.savefig(folder / "picture.png")
    assert (folder / "picture.png").stat().st_size > 1000
    return figure


def reports_of(offset: float, n_runs: int = 3, n_tasks: int = 4) -> list[AdaptationReport]:
    rng = np.random.default_rng(int(10 * offset))
    tasks = [np.array([i / n_tasks, -i]) for i in range(n_tasks)]
    return [AdaptationReport(tasks, offset + rng.normal(size=(n_tasks, 3)) + [0, 1, 2]) for _ in range(n_runs)]

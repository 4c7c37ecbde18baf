"""No text of a picture is cut off or covered, however many algorithms, tasks or points there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from sb3_sgmrl import AdaptationReport
from sb3_sgmrl.plots import (
    LearningCurve,
    Trajectories,
    bootstrap,
    plot_adaptation,
    plot_gradient_quality,
    plot_gradient_terms,
    plot_learning_curves,
    plot_performance_profiles,
    plot_probability_of_improvement,
    plot_task_returns,
    plot_trajectories,
    scores,
)
from sb3_sgmrl.theory import DirectionalChange, Estimate, GradientQuality

pytest.importorskip("rliable")


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the bootstrap."""
    monkeypatch.setattr(bootstrap, "N_BOOTSTRAP", 20)
    monkeypatch.setattr(scores, "N_BOOTSTRAP", 20)


def reports_of(offset: float, n_runs: int) -> list[AdaptationReport]:
    rng = np.random.default_rng(int(offset))
    tasks = [np.array([i / 4, -i]) for i in range(4)]
    return [AdaptationReport(tasks, offset + rng.normal(size=(4, 3)) + [0, 1, 2]) for _ in range(n_runs)]


def log_of(n_points: int, has_score: bool) -> dict[str, np.ndarray]:
    """Return the log of a run with a value in each row."""
    keys = ["rollout/ep_rew_mean_pre", "rollout/ep_rew_mean_post", "train/grad_norm", "quality/MAML/variance"]
    keys += ["train/pathwise_norm", "train/score_term_norm", "train/score_pathwise_cosine"] if has_score else []
    steps = 1000.0 * np.arange(1, n_points + 1)
    return {"time/total_timesteps": steps, **{key: np.linspace(0.1, 0.2, n_points) for key in keys}}


def test_no_panel_goes_on_where_runs_are_cut() -> None:
    figure = plot_gradient_terms({"SG-MRL": log_of(40, True), "MAML": log_of(25, False)})
    assert "cut to the 25,000 steps" in figure.get_suptitle()
    ends = {line.get_xdata()[-1] for axis in figure.axes for line in axis.lines if len(line.get_xdata()) > 2}
    assert ends == {25_000.0}


def boxes_of_texts(figure: Figure) -> list[Any]:
    """Draw a figure and return the places of all texts in it."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    texts = [text for legend in (*figure.legends, *figure.findobj(Legend)) for text in legend.get_texts()]
    for panel in figure.axes:
        texts += [panel.title, panel.xaxis.label, panel.yaxis.label]
        for axis in (panel.xaxis, panel.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    shown = {id(text): text for text in texts if text.get_visible() and text.get_text()}
    return [text.get_window_extent(renderer) for text in shown.values()]


def many(n: int) -> dict[str, list[AdaptationReport]]:
    return {f"Method {i}": reports_of(float(i), n_runs=2) for i in range(n)}


def path_of(n_steps: int) -> Trajectories:
    return Trajectories(np.zeros(2), [[np.zeros((3, 2))]] * (n_steps + 1), [0.0] * (n_steps + 1))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plot_adaptation(many(6)),
        lambda: plot_performance_profiles(many(6)),
        lambda: plot_probability_of_improvement(many(6)),
        lambda: plot_learning_curves({name: curve_of(3) for name in many(6)}),
        lambda: plot_task_returns({name: runs[0] for name, runs in many(6).items()}, np.arange(4.0)),
        lambda: plot_task_returns({name: runs[0] for name, runs in many(2).items()}),
        lambda: plot_gradient_terms({"SG-MRL": log_of(40, True), "MAML": log_of(25, False)}),
        lambda: plot_trajectories([path_of(3)]),
        lambda: plot_trajectories({"A": [path_of(2)] * 3}),
        lambda: plot_gradient_quality(*quality_of(0.25)),
        lambda: plot_gradient_quality(*quality_of(25.0)),
    ],
)
def test_texts_stay_inside_and_apart(draw: Callable[[], Figure]) -> None:
    figure = draw()
    boxes = boxes_of_texts(figure)
    for box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
    renderer = FigureCanvasAgg(figure).get_renderer()
    for legend in figure.legends:
        assert not any(legend.get_window_extent(renderer).overlaps(axis.bbox) for axis in figure.axes)


def curve_of(n_points: int) -> LearningCurve:
    returns = np.random.default_rng(0).normal(size=(4, n_points))
    return LearningCurve(1000.0 * np.arange(1, n_points + 1), returns - 1, returns)


def quality_of(squared_bias: float) -> tuple[dict[str, GradientQuality], DirectionalChange]:
    bias = Estimate(squared_bias, squared_bias / 9)
    row = GradientQuality(9, Estimate(1.0, 0.1), Estimate(0.011, 0.001), Estimate(0.1, 0.02), bias, bias, 0.1, 1.0, 1.0)
    reference = replace(row, squared_bias=None, cosine=None)
    returns = {name: np.linspace(-0.16, i / 9, 8).reshape(2, 4) for i, name in enumerate(("maml", "fo-maml", "sgmrl"))}
    return {"maml": row, "fo-maml": row, "sgmrl": reference}, DirectionalChange((0.02, 0.05), np.zeros(4), returns)


@pytest.mark.parametrize("squared_bias", [0.0025, 0.25, 25.0, 2500.0])
def test_biases_have_several_ticks(squared_bias: float) -> None:
    axis = plot_gradient_quality(quality_of(squared_bias)[0]).axes[0]
    assert sum(0 < tick < axis.get_ylim()[1] for tick in axis.get_yticks()) >= 1 + (squared_bias > 0.01)


def test_a_curve_of_one_point_shows() -> None:
    (axis,) = plot_learning_curves({"A": [curve_of(1), curve_of(1)]}).axes
    assert [line.get_marker() for line in axis.lines] == ["o", "o"]
    assert len(axis.collections) == 2  # vertical lines in the place of bands

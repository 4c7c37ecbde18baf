"""Progress bars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback
from stable_baselines3.common.logger import configure
from toys import assert_same, point, state, tiny

from sb3_sgmrl import MAML, SGMRL, AdaptationReport, evaluate_adaptation
from sb3_sgmrl.common.callbacks import MetaProgressBarCallback
from sb3_sgmrl.util.progress import with_progress

PER_ITERATION = 3 * 2 * 4 * 5  # tasks, phases, episodes, steps


class Bar:
    """A bar that is not shown."""

    def __init__(self, items: range | None = None, total: int | None = None, desc: str = "") -> None:
        self.items, self.total, self.n, self.descriptions, self.closed = items, total, 0, [desc], False
        made.append(self)

    def __iter__(self):
        for item in self.items:
            yield item
            self.n += 1
        self.closed = True

    def update(self, n: int) -> None:
        self.n += n

    def set_description(self, text: str) -> None:
        self.descriptions.append(text)

    def refresh(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


made: list[Bar] = []


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    pytest.importorskip("rich")
    made.clear()
    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    return made


def test_training_shows_iteration_and_returns(bars: list[Bar], tmp_path: Path) -> None:
    model = tiny(SGMRL, point()).learn(1)
    trained = tiny(SGMRL, point())
    trained.set_logger(configure(str(tmp_path), ["csv"]))
    trained.learn(2 * PER_ITERATION - 1, progress_bar=True)
    (bar,) = bars
    # the second iteration overshoots by one step
    assert bar.n == bar.total == 2 * PER_ITERATION - 1 and bar.closed
    trained.logger.close()
    rows = (tmp_path / "progress.csv").read_text().splitlines()
    columns = rows[0].split(",")
    for i, (text, row) in enumerate(zip(bar.descriptions[1:], rows[1:], strict=True), start=1):
        values = dict(zip(columns, row.split(","), strict=True))
        pre, post = (float(values[f"rollout/ep_rew_mean_{name}"]) for name in ("pre", "post"))
        assert text == f"iteration {i}, return {pre:.1f} → {post:.1f}"
    trained.set_logger(configure(None, []))
    trained.learn(1, progress_bar=True, reset_num_timesteps=False)
    assert bars[1].total == bars[1].n == 1
    assert_same(state(tiny(SGMRL, point()).learn(1, progress_bar=True)), state(model))


def test_bar_goes_with_every_kind_of_callback(bars: list[Bar]) -> None:
    class Count(BaseCallback):
        def _on_step(self) -> bool:
            return True

    counts = [Count(), Count()]
    tiny(MAML, point()).learn(1, counts, progress_bar=True)
    assert [count.n_calls for count in counts] == [counts[0].n_calls] * 2 and counts[0].n_calls > 0
    calls: list[int] = []
    tiny(MAML, point()).learn(1, lambda *_: calls.append(1) is None, progress_bar=True)
    assert len(calls) == counts[0].n_calls
    tiny(MAML, point()).learn(1, Count(), progress_bar=True)
    assert [bar.n for bar in bars] == [1, 1, 1]
    assert issubclass(MetaProgressBarCallback, ProgressBarCallback)  # what RL Zoo closes after Ctrl-C


@pytest.mark.parametrize("n_envs", [1, 5])
def test_evaluation_counts_episodes(bars: list[Bar], n_envs: int) -> None:
    model = tiny(SGMRL, point(end=0.2), n_envs=n_envs)
    shown = evaluate_adaptation(model, n_tasks=2, n_steps=2, n_episodes=3, progress_bar=True)
    (bar,) = bars
    assert bar.items == range(2 * 3 * 3) and bar.descriptions == ["episodes"]
    assert bar.n == 2 * 3 * 3 and bar.closed
    np.testing.assert_array_equal(shown.returns, evaluate_adaptation(model, n_tasks=2, n_steps=2, n_episodes=3).returns)
    assert len(bars) == 1
    assert with_progress(range(3), "", False) == range(3)


def test_a_report_is_a_table_in_a_notebook() -> None:
    report = AdaptationReport([0, 1], np.array([[1.0, 2.0], [3.0, 5.0]]))
    html = report._repr_html_()
    assert html.startswith("<table>") and html.count("<tr>") == 3
    for number in ("2.00", "3.50", "2 tasks"):
        assert number in html


def test_a_figure_shows_in_a_notebook() -> None:
    plots = pytest.importorskip("sb3_sgmrl.plots")
    report = AdaptationReport([0, 1], np.array([[1.0, 2.0], [3.0, 5.0]]))
    assert plots.plot_adaptation(report)._repr_png_().startswith(b"\x89PNG")


def test_the_bar_is_a_widget_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """``tqdm.auto`` chooses."""
    chosen = []
    monkeypatch.setattr("tqdm.auto.tqdm", lambda items, desc: chosen.append(desc) or items)
    assert list(with_progress([1, 2], "episodes", True)) == [1, 2] and chosen == ["episodes"]

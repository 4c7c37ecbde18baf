"""What TensorBoard shows while training."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from toys import assert_same, point, state, tiny

from sb3_sgmrl import SGMRL, MetaEvalCallback
from sb3_sgmrl.plots.tensorboard import TensorBoardCallback


@pytest.mark.parametrize("first", [True, False])
def test_tensorboard(first: bool, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    sizes: list[np.ndarray] = []

    class Sizes(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            flat = [[th.cat([p.flatten() for p in phase.parameters.values()]) for phase in t] for t in self.locals["traces"]]
            sizes.append(np.array([[float((b - a).norm()) for a, b in pairwise(t)] for t in flat]))

    model = tiny(SGMRL, point(), n_inner_steps=2, inner_lr=0.3)
    model.set_logger(configure(str(tmp_path), ["csv", "json", "log", "tensorboard"]))
    evaluation = MetaEvalCallback(point(), n_tasks=2, eval_freq=2, verbose=0)
    both = [TensorBoardCallback(), evaluation] if first else [evaluation, TensorBoardCallback()]
    model.learn(3 * 180, [*both, Sizes()])
    model.logger.close()
    events = accumulator.EventAccumulator(str(tmp_path), size_guidance={accumulator.HISTOGRAMS: 0, accumulator.IMAGES: 0})
    events.Reload()
    assert evaluation.evaluations_timesteps == [0, 360, 540]
    # the step is that of the evaluation, also when it is seen later; before the last one it is too late
    assert [event.step for event in events.Images("eval/adaptation")] == [0, 360, 540][: 2 if first else 3]
    for k in (1, 2):
        histograms = events.Histograms(f"inner_step_size/{k}")
        assert [event.step for event in histograms] == [180, 360, 540]
        for event, of_iteration in zip(histograms, sizes, strict=True):
            value, expected = event.histogram_value, of_iteration[:, k - 1]
            np.testing.assert_allclose(
                [value.min, value.max, value.sum], [expected.min(), expected.max(), expected.sum()], 1e-5
            )
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    for name in (b"inner_lr", b"meta_batch_size", b"score_coef", b"net_arch", b"SGMRL"):
        assert name in content
    # nothing of it in the others, and no row or warning of nothing
    for name in ("progress.csv", "progress.json", "log.txt"):
        text = (tmp_path / name).read_text()
        assert "inner_step_size" not in text and "hparams" not in text and "eval/adaptation," not in text
    assert len((tmp_path / "progress.csv").read_text().splitlines()) == 1 + 3 + 3


def test_without_tensorboard_the_callback_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_sgmrl.plots.plot_adaptation", None)
    model = tiny(SGMRL, point())
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(1, [MetaEvalCallback(point(), n_tasks=2, verbose=0), TensorBoardCallback()])
    model.logger.close()
    assert_same(state(model), state(tiny(SGMRL, point()).learn(1)))

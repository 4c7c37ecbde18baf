"""RL Zoo's own ``enjoy`` plays a model of this package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from zoo_tools import run_train, zoo_process  # noqa: F401

from sb3_sgmrl import SGMRL


@pytest.mark.parametrize("params", [["learning_rate:'lin_0.002'"], ["normalize:True"]])
def test_rl_zoo_enjoys(params: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import rl_zoo3.enjoy

    assert run_train("--eval-freq", "-1", params=params) == 0
    arguments = ["--algo", "sgmrl", "--env", "Navigation2D-v0", "-f", "logs", "--no-render", "-n", "150"]
    monkeypatch.setattr(sys, "argv", ["enjoy", *arguments])
    rl_zoo3.enjoy.enjoy()
    assert "Episode Reward" in capsys.readouterr().out
    path = Path("logs/sgmrl/Navigation2D-v0_1/Navigation2D-v0.zip")
    model = SGMRL.load(path, custom_objects={"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0})
    assert model.lr_schedule(1.0) == 0.0
    assert (model.get_vec_normalize_env() is None) == (params[0] != "normalize:True")

"""Returns in training, as the command compares them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from sb3_sgmrl.cli.compare import command
from sb3_sgmrl.cli.compare.windows import target_lines


@dataclass
class Named:
    name: str


@dataclass
class FinishedRun:
    method: Named
    seed: int
    folder: Path


def trained(folder: Path, name: str, seed: int, returns: list[float]) -> FinishedRun:
    """A finished run of a million steps per meta-iteration."""
    run = FinishedRun(Named(name), seed, folder / f"{name}-{seed}")
    run.folder.mkdir()
    lines = [f"{i + 1}000000,{value}" for i, value in enumerate(returns)]
    (run.folder / "progress.csv").write_text("\n".join(["time/total_timesteps,rollout/ep_rew_mean_post", *lines]))
    return run


def test_steps_until_a_return_count_from_ten_iterations_together(tmp_path: Path) -> None:
    rises = trained(tmp_path, "rises", 0, [-30.0] * 10 + [-10.0] * 10)
    # one lucky iteration is no return that was reached
    lucky = trained(tmp_path, "rises", 1, [-30.0] * 5 + [100.0] + [-30.0] * 14)
    early = trained(tmp_path, "early", 0, [-10.0] * 12)
    short = trained(tmp_path, "short", 0, [-10.0] * 9)
    lines = list(target_lines([rises, early, short], -15.0))
    # the mean of the last ten is -30 + 20 k / 10 after k of the better iterations
    assert lines[1:] == ["rises: 18.00; median 18.00", "early: 10.00; median 10.00, 56% of rises's"]
    assert list(target_lines([lucky, early], -15.0))[1:] == [
        "rises: >20.00; not reached by half of the runs",
        "early: 10.00; median 10.00",
    ]
    # of two runs, the one that takes longer counts
    assert list(target_lines([rises, lucky], -15.0))[1:] == ["rises: 18.00 >20.00; not reached by half of the runs"]
    assert list(target_lines([short], -15.0))[1:] == ["No run has 10 meta-iterations yet."]


@pytest.mark.parametrize("text", ["high", "nan"])
def test_a_target_is_a_number(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--target", text])
    assert f"must be a return such as -15, got {text!r}." in capsys.readouterr().err

"""python -m sb3_sgmrl.compare: what it trains, resumes, writes and reads."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sb3_contrib import TRPO
from toys import error_of, snapshot

from sb3_sgmrl import MAML
from sb3_sgmrl.cli.compare import command, progress, runs
from sb3_sgmrl.cli.compare.kinds import KINDS
from sb3_sgmrl.cli.compare.pictures import reference_of
from sb3_sgmrl.common.evaluation import AdaptationReport
from sb3_sgmrl.plots import LearningCurve

SMALL = ["--horizon", "5", "--n-tasks", "3", "--n-steps", "2", "--eval-tasks", "2", "--no-plots"]
SHORT = [*SMALL, "--set", "n_episodes=2", "--timesteps", "90"]
OF_META = ["--set", "meta_batch_size=2", "policy_kwargs={'net_arch': [4]}"]
OF_PPO = "n_envs=2,n_epochs=1,policy_kwargs={'net_arch': [4]}"


def compare(folder: Path, *arguments: str, code: int = 0) -> None:
    of_meta = OF_META if any("maml" in one or "sgmrl" in one for one in arguments) else []
    assert command.main([*SHORT, *of_meta, "--verbose", "2", "--folder", str(folder), *arguments]) == code


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def numbers_of_training(run: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key[:4] != "time"} for row in rows(run / "progress.csv")]


def test_methods_of_one_algorithm_with_several_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ["--method", "maml", "big=maml:inner_lr=0.5,inner_surrogate=dice,n_epochs=1", "--seeds", "0", "1"]
    compare(tmp_path, *methods, "--eval-every", "40", "--in-training", "1-2")
    printed = capsys.readouterr().out
    protocol = yaml.safe_load((tmp_path / "protocol.yml").read_text())
    assert {name: of["inner_lr"] for name, of in protocol["methods"].items()} == {"maml": 0.2, "big": 0.5}
    assert protocol["methods"]["big"]["inner_surrogate"] == "dice"
    assert protocol["tasks_sha256"] in printed
    reports = [AdaptationReport.from_csv(tmp_path / f"big-{seed}" / "adaptation.csv") for seed in (0, 1)]
    means = np.array([report.mean_returns for report in reports])
    (row,) = (row for row in rows(tmp_path / "table_90.csv") if row["method"] == "big")
    assert float(row["mean_after_1"]) == pytest.approx(means[:, 1].mean())
    # Student's t with one degree of freedom
    assert float(row["high_after_1"]) - means[:, 1].mean() == pytest.approx(
        12.706 * means[:, 1].std(ddof=1) / 2**0.5, rel=1e-3
    )
    assert "big & 2 & $" in (tmp_path / "table_90.tex").read_text()
    curve = LearningCurve.from_evaluations(tmp_path / "maml-0")
    assert curve.after.shape[0] == 2 and curve.timesteps[0] == 0 and curve.timesteps[-1] >= 90
    assert "maml − big in training, paired by seed" in printed
    assert "maml − big after 1 inner step, paired by seed" in printed


def test_a_finished_run_is_not_repeated_and_steps_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(tmp_path, "--method", "maml", "--seeds", "0", "--eval-every", "0")
    before = snapshot(tmp_path / "maml-0")
    with monkeypatch.context() as patch:
        patch.setattr(MAML, "learn", None)
        compare(tmp_path, "--method", "maml", "--seeds", "0", "--eval-every", "0")
    assert snapshot(tmp_path / "maml-0") == before
    compare(tmp_path, "--method", "maml", "--seeds", "0", "--eval-every", "0", "--timesteps", "90", "200")
    assert (tmp_path / "maml-0" / "adaptation_90.csv").read_bytes() == before["adaptation_90.csv"]
    assert len(numbers_of_training(tmp_path / "maml-0")) > len(before["progress.csv"].splitlines()) - 1


@pytest.mark.parametrize("method", ["sgmrl=sgmrl", f"ppo=ppo:{OF_PPO}"])
def test_an_interrupted_run_resumes_exactly(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = method.partition("=")[0]
    options = ["--method", method, "--seeds", "3", "--timesteps", "160", "--eval-every", "60"]
    compare(tmp_path / "whole", *options)
    monkeypatch.setattr(runs, "_CHECKPOINT_EVERY", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(runs.Keeper, "_on_step", stop_late)
        compare(tmp_path / "resumed", *options, code=130)
    assert not (tmp_path / "resumed" / f"{name}-3" / "adaptation_160.csv").exists()
    with open(tmp_path / "resumed" / f"{name}-3" / "progress.csv", "a") as log:  # a kill between rows and checkpoint
        columns = rows(Path(log.name))[0]
        log.write(",".join("1000" if column == "time/total_timesteps" else "1" for column in columns) + "\n")
    compare(tmp_path / "resumed", *options)
    whole, resumed = (tmp_path / folder / f"{name}-3" for folder in ("whole", "resumed"))
    of_whole, of_resumed = numbers_of_training(whole), numbers_of_training(resumed)
    assert len(of_whole) == len(of_resumed)
    for one_row, other_row in zip(of_whole, of_resumed, strict=True):
        # SB3's PPO logs an update with the following rollout, which a checkpoint in between forgets
        forgotten = {key for key in other_row if name == "ppo" and key.startswith("train/") and not other_row[key]}
        assert {
            key: (one_row[key], other_row[key]) for key in one_row.keys() - forgotten if one_row[key] != other_row[key]
        } == {}
    assert (whole / "adaptation_160.csv").read_bytes() == (resumed / "adaptation_160.csv").read_bytes()
    one, other = (LearningCurve.from_evaluations(run) for run in (whole, resumed))
    np.testing.assert_array_equal(one.after, other.after)


def stop_late(keeper: runs.Keeper) -> bool:
    if keeper.subject.num_timesteps > 100:
        raise KeyboardInterrupt
    return True


def test_progress_is_printed_and_an_interruption_says_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_EVERY", 0.0)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    arguments = ["--method", "maml", "--seeds", "0", "--eval-every", "0"]
    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "_measure", interrupted)
        compare(tmp_path, *arguments, code=130)
    printed = capsys.readouterr()
    assert "maml seed 0: starts at step 0 of 90\n" in printed.out
    assert re.search(r"maml seed 0: 44% of 90 steps, [\d,]+ steps per second, about \d+ s left\n", printed.out)
    assert printed.err == "Interrupted. Repeat the command to resume; at most a minute of each run is lost.\n"
    compare(tmp_path, *arguments, "--timesteps", "200")
    assert "maml seed 0: resumes at step 120 of 200\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min"), (3599, "1 h 00 min"), (9e4, "25 h 00 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert progress._duration(seconds) == text


def test_the_learning_rate_decays_over_the_whole_run(tmp_path: Path) -> None:
    options = ["--method", "maml", "--seeds", "0", "--set", "learning_rate=lin_0.002"]
    compare(tmp_path, *options, "--eval-every", "0")
    found = [(row["train/learning_rate"], row["time/total_timesteps"]) for row in rows(tmp_path / "maml-0" / "progress.csv")]
    assert len(found) > 1
    assert [float(rate) for rate, _ in found] == pytest.approx([max(0, 0.002 * (1 - float(n) / 90)) for _, n in found])


def test_the_protocol_reproduces_the_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(tmp_path / "one", "--method", "maml", "random", "--seeds", "0")
    again = ["--protocol", str(tmp_path / "one" / "protocol.yml"), "--folder", str(tmp_path / "two"), "--no-plots"]
    assert command.main(again) == 0
    one, two = ((tmp_path / folder / "results_90.csv").read_text() for folder in ("one", "two"))
    assert one == two
    capsys.readouterr()
    assert "without --n-tasks" in error_of(command, [*again, "--n-tasks", "5"], capsys)
    changed = yaml.safe_load((tmp_path / "one" / "protocol.yml").read_text()) | {"test_seed": 1}
    (tmp_path / "changed.yml").write_text(yaml.safe_dump(changed))
    error = error_of(command, ["--protocol", str(tmp_path / "changed.yml"), "--folder", str(tmp_path / "three")], capsys)
    assert "`tasks_sha256` of the protocol must be" in error


def test_a_sweep_is_one_command(tmp_path: Path) -> None:
    compare(tmp_path, "--method", "maml", "random", "--sweep", "inner_lr=0.1,1", "--seeds", "0", "--timesteps", "1")
    assert {path.parent.name for path in tmp_path.glob("*/adaptation.csv")} == {
        "maml-inner_lr=0.1-0",
        "maml-inner_lr=1-0",
        "random-0",
    }


def test_a_run_that_diverges_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverge(model: Any, *_: Any, **__: Any) -> None:
        if model.seed == 1:
            raise ValueError("The inner step of task 0 made parameters NaN.")

    monkeypatch.setattr(MAML, "learn", diverge)
    compare(tmp_path, "--method", "maml", "--seeds", "0", "1", "--eval-every", "0")
    printed = capsys.readouterr().out
    assert "maml seed 1: failed: The inner step of task 0 made parameters NaN." in printed
    assert "1 of 2 runs failed; the mean is of the others" in printed
    (row,) = rows(tmp_path / "table_90.csv")
    assert (row["runs"], row["failed"]) == ("1", "1")


def test_results_of_other_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--method", "random", "--seeds", "0", "1"]
    compare(tmp_path / "one", *options)
    text = (tmp_path / "one" / "results_90.csv").read_text()
    other = tmp_path / "other.csv"
    other.write_text(text.replace("random,", "theirs,"))
    compare(tmp_path / "one", *options, "--results", str(other))
    found = {row["method"]: row["mean_after_2"] for row in rows(tmp_path / "one" / "table_90.csv")}
    assert found["theirs"] == found["random"]
    sha = text.splitlines()[1].split(",")[5]
    for wrong, complaint in (
        (text, "must hold methods with other names than this comparison, got 'random'."),
        (text.replace(",5,", ",50,").replace("random,", "x,"), "line 2, must have horizon '5', as this comparison, got '50'."),
        (text.replace(sha, "0" * 16).replace("random,", "x,"), f"line 2, must have task_hash '{sha}', as this comparison"),
        (text.replace("-v0()", "-v1()").replace("random,", "x,"), "must have rewards 'Navigation2D-v0()'"),
        ("a,b\n1,2\n", "line 1, must be method,seed,timesteps,env,"),
        (text.replace("random,0", "x,zero", 1), "line 2, must have a non-negative integer as seed, got 'zero'."),
        ("\n".join(text.replace("random,", "x,").splitlines()[:-1]), "must hold the tasks 0 to 2 of x seed 1, got 2 tasks."),
        (text.replace("random,", "x,").rstrip() + "9e999\n", "must have a finite number as after_2"),
    ):
        other.write_text(wrong)
        arguments = [*SHORT, *options, "--folder", str(tmp_path / "one"), "--results", str(other)]
        assert complaint in error_of(command, arguments, capsys)


def test_trials_choose_the_settings_of_every_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--method",
        "maml",
        "random",
        "--seeds",
        "0",
        "--eval-every",
        "0",
        "--set",
        "n_episodes=2",
        "--tune-trials",
        "2",
    ]
    assert command.main([*SMALL, *options, "--timesteps", "30", "--folder", str(tmp_path)]) == 0
    reports = [AdaptationReport.from_csv(tmp_path / "tuning" / f"maml-{i}-run" / "adaptation.csv") for i in (0, 1)]
    best = int(np.argmax([report.mean_returns[1] for report in reports]))
    settings = yaml.safe_load((tmp_path / "protocol.yml").read_text())["methods"]["maml"]
    started = settings["inner_lr"] == KINDS["maml"].defaults("Navigation2D-v0")["inner_lr"]
    assert started == (best == 0)
    assert "maml: the best of 2 trials returns" in capsys.readouterr().out
    assert not (tmp_path / "tuning" / "random-0-run").exists()


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("rliable")
    options = ["--method", "maml", "standing", "--sweep", "inner_lr=0.1,0.2", "--seeds", "0", "1", "--timesteps", "1"]
    arguments = [option for option in [*SHORT, *OF_META] if option != "--no-plots"]
    assert command.main([*arguments, *options, "--folder", str(tmp_path)]) == 0
    names = ("adaptation", "episodes", "profile", "curves", "sweep", "improvement")
    assert {path.stem for path in tmp_path.glob("*.png")} == set(names)
    aggregates = {(row["method"], row["aggregate"]): float(row["value"]) for row in rows(tmp_path / "aggregates.csv")}
    table = {row["method"]: float(row["mean_after_1"]) for row in rows(tmp_path / "table_1.csv")}
    assert aggregates["standing", "mean"] == pytest.approx(table["standing"])
    assert len(rows(tmp_path / "improvement.csv")) == 3


def test_the_family_has_the_arguments_of_the_hyperparameter_files(tmp_path: Path) -> None:
    family = ["--env", "HalfCheetahVel-v0", "--horizon", "3", "--n-tasks", "2", "--n-steps", "1", "--no-plots"]
    method = ["--method", "standing", "--timesteps", "1", "--seeds", "0", "--env-kwargs", "task_range:(1.0, 2.0)"]
    assert command.main([*family, *method, "--folder", str(tmp_path)]) == 0
    written = yaml.safe_load((tmp_path / "protocol.yml").read_text())["env_kwargs"]
    assert written == {"action_bound": 10.0, "task_range": [1.0, 2.0]}


def test_many_methods_are_compared_with_the_first() -> None:
    assert reference_of(["a", "b", "c"]) is None
    assert reference_of(["d", "a", "b", "c"]) == "d"


def test_every_setting_of_a_baseline_is_an_argument() -> None:
    assert {"n_critic_updates", "fine_tuning_rate", "n_envs"} <= KINDS["trpo"].defaults("AntDir-v0").keys()
    assert KINDS["trpo"].defaults("AntDir-v0")["policy_kwargs"].startswith("dict(net_arch=[100, 100]")
    assert TRPO.__name__ == "TRPO"

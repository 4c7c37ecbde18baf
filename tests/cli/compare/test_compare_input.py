"""What python -m sb3_sgmrl.compare refuses, before it trains or writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys import error_of

from sb3_sgmrl.cli.compare import command

SHORT = ["--horizon", "5", "--n-tasks", "2", "--n-steps", "1", "--eval-every", "0", "--seeds", "0", "--no-plots"]
SMALL = ["--set", "meta_batch_size=2", "n_episodes=2"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--method mamml", "'mamml' in `--method` is not an algorithm: did you mean 'maml'?"),
        ("--method maml:inner_lr=1", "`--method` must have a name before settings, as in NAME=maml:inner_lr=1"),
        ("--method a=maml:inner_lrr=1", "'inner_lrr' is not a setting of maml: did you mean 'inner_lr'?"),
        ("--method a=maml:inner_lr", "`--method` must have the form NAME=VALUE, got 'inner_lr'."),
        ("--method a/b=maml", "`--method` names must hold letters, digits and .+=-_ alone, got 'a/b'."),
        ("--method maml maml", "`--method` must not repeat a value, got 'maml' twice."),
        ("--method a=maml:inner_lr=-1", "`inner_lr` must be positive and finite, got -1."),
        ("--method a=ppo:clip_rang=1", "'clip_rang' is not a setting of ppo: did you mean 'clip_range'?"),
        ("--method a=rl2:policy=MlpPolicy", "`policy` must be recurrent for RL², such as 'MlpLstmPolicy', got 'MlpPolicy'."),
        ("--method a=maml:policy=MlpLstmPolicy", "`policy` must be one of MlpPolicy, CnnPolicy, MultiInputPolicy"),
        ("--method a=maml:n_episodes=3 b=maml", "`--n-episodes` must be given for methods that adapt with different numbers"),
        ("--env Nope-v0", "`--env` must be an id registered with Gymnasium, got 'Nope-v0'"),
        ("--env BernoulliBandit-v0 --method standing", "`env` must have continuous actions for a policy that stands still"),
        ("--set inner_lrr=0.2", "'inner_lrr' in `--set` is not a setting of any method: did you mean 'inner_lr'?"),
        ("--sweep inner_lr", "`--sweep` must have the form SETTING=VALUE,VALUE, got 'inner_lr'."),
        ("--sweep nope=1,2", "'nope' in `--sweep` is not a setting of any method"),
        ("--in-training 9-3", "`--in-training` must be a first and a last iteration such as 51-100, got '9-3'."),
        ("--timesteps 1 2 --set learning_rate=lin_1e-3", "`--timesteps` must be one number with a setting that decays"),
        ("--set learning_rate=lin_x", "`learning_rate` must be a finite number of at least 0, or a function, got 'lin_x'."),
        ("--timesteps 0", "`--timesteps` must be a positive integer, got 0."),
        ("--n-tasks 0", "`--n-tasks` must be a positive integer, got 0."),
        ("--eval-steps 2", "`--eval-steps` must lie between 1 and `--n-steps`, 1, got 2."),
        ("--best", "`--best` chooses among the points of a learning curve, so `--eval-every` must not be 0."),
        ("--seeds 0 -1", "`--seeds` must lie between 0 and 2**32 - 1, got -1."),
        ("--seeds 0 0", "`--seeds` must not repeat a value, got 0 twice."),
        ("--parallel 0", "`--parallel` must be a positive integer, got 0."),
        ("--tune-trials -1", "`--tune-trials` must be a positive integer, got -1."),
        ("--results nope.csv", "`--results` must name a CSV file, got nope.csv"),
    ],
)
def test_it_refuses_before_it_trains(
    arguments: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert complaint in error_of(command, [*SHORT, *arguments.split()], capsys)
    assert not list(tmp_path.iterdir())


def test_runs_of_other_settings_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SHORT, *SMALL, "--timesteps", "1", "--method", "maml", "--folder", str(tmp_path)]
    assert command.main(options) == 0
    model = (tmp_path / "maml-0" / "checkpoint.zip").read_bytes()
    error = error_of(command, [*options, "--set", "gamma=0.9", "--horizon", "6"], capsys)
    assert "maml-0 was trained with horizon=5 in place of 6" in error and "maml.gamma=0.99 in place of 0.9" in error
    for text in ("{", "[1]", "3"):
        (tmp_path / "maml-0" / "settings.json").write_text(text)
        assert "settings.json is not JSON" in error_of(command, options, capsys)
    (tmp_path / "maml-0" / "settings.json").unlink()
    assert "`--folder` must hold runs of this command" in error_of(command, options, capsys)
    assert (tmp_path / "maml-0" / "checkpoint.zip").read_bytes() == model


@pytest.mark.parametrize("text", ["[", "methods: 3", "env: Navigation2D-v0\nmethods: {}\n", "\x00"])
def test_files_that_are_no_protocol(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "protocol.yml"
    file.write_text(text)
    error = error_of(command, ["--protocol", str(file), "--folder", str(tmp_path / "new")], capsys)
    assert "`--protocol` must be a protocol.yml of this command" in error
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("text", ["inf", "nan", "many"])
def test_numbers_of_steps_that_are_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--timesteps", "--eval-every"):
        with pytest.raises(SystemExit):
            command.main([option, text])
        assert f"must be a number of steps such as 2e6, got {text!r}." in capsys.readouterr().err


def test_damaged_files_are_no_failures_of_the_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "maml-0"
    options = [*SHORT, *SMALL, "--method", "maml", "--folder", str(tmp_path), "--eval-every", "10", "--eval-tasks", "2"]
    options += ["--best"]
    assert command.main([*options, "--timesteps", "1"]) == 0
    longer = [*options, "--timesteps", "100"]
    for name, text in {
        "progress.csv": "time/total_timesteps\nmany\n",
        "evaluations.npz": "PK",
        "checkpoint.zip": "PK",
        "best.zip": "PK",
        "failure.json": "[]",
    }.items():
        content = (run / name).read_bytes() if (run / name).exists() else None
        (run / name).write_text(text)
        assert name in error_of(command, longer, capsys)
        if content is None:
            (run / name).unlink()
        else:
            assert not (run / "failure.json").exists()
            (run / name).write_bytes(content)
    assert command.main(longer) == 0


def test_methods_without_a_finished_run_stand_in_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "maml-0").mkdir()
    (tmp_path / "maml-0" / "failure.json").write_text('{"error": "overflow"}')
    for methods in (["standing", "maml"], ["maml", "--report-only"]):
        assert command.main([*SHORT, *SMALL, "--timesteps", "1", "--folder", str(tmp_path), "--method", *methods]) == 0
        assert "1 of 1 runs failed" in capsys.readouterr().out
        assert "maml,0,1" in (tmp_path / "table_1.csv").read_text()

"""The search for hyperparameters."""

from __future__ import annotations

import signal
import sys
import types
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from stable_baselines3.common.callbacks import ProgressBarCallback  # noqa: F401  # tqdm and rich are there
from toys import error_of
from zoo_tools import FOLDER, SMALL, make_manager, run_train, zoo_process  # noqa: F401

from sb3_sgmrl import SGMRL, evaluate_adaptation
from sb3_sgmrl.algorithms import ALGORITHMS
from sb3_sgmrl.cli import tune
from sb3_sgmrl.cli.zoo import tuning

pytestmark = pytest.mark.usefixtures("short_episodes")

STUDY = "logs/sgmrl/tuned_Navigation2D-v0_1"
PARAMS: dict[str, Any] = {
    **{"inner_lr": 0.2, "learning_rate": 0.01, "one_minus_gamma": 0.05, "one_minus_gae_lambda": 0.1},
    **{"max_grad_norm": 1.0, "net_arch": "small", "meta_batch_size": 5, "log_std_init": -0.5},
}


def run_tune(*arguments: str, n_trials: int = 2, params: list[str] | None = None) -> int:
    fixed = ["--seed", "0", "-n", "1", "--eval-tasks", "2", "--n-trials", str(n_trials), "--n-evaluations", "1"]
    return tune.main([*fixed, *arguments, "-params", *SMALL, *(params or [])])


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("is_continuous", [True, False])
def test_search_spaces_hold_arguments_of_the_algorithm(algo: str, is_continuous: bool) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(5):
        trial = study.ask()
        sampled = tuning.sample_params(algo, trial, 2 * is_continuous, 1, {})
        assert sampled == tuning.convert_params(trial.params)
        model = ALGORITHMS[algo].cls("MlpPolicy", "Navigation2D-v0" if is_continuous else "BernoulliBandit-v0", **sampled)
        assert model.gamma == sampled["gamma"] < 1 and model.meta_batch_size == sampled["meta_batch_size"]
        assert ("log_std_init" in sampled["policy_kwargs"]) == is_continuous


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_settings_there_are_lie_in_the_search_space(algo: str) -> None:
    for entry in yaml.safe_load((FOLDER / f"{algo}.yml").read_text()).values():
        policy_kwargs = eval(entry["policy_kwargs"])
        settings = {"score_gae_lambda": 0.95, "max_grad_norm": 0.5, "target_kl": 0.01, **entry, "policy_kwargs": policy_kwargs}
        guess = tuning.first_guess(algo, settings, is_continuous=True)
        assert guess.as_given == ({"max_grad_norm": None} if settings["max_grad_norm"] is None else {})
        assert guess.params.keys() == tuning.search_space(algo, True).keys()
        if not guess.as_given:
            converted = tuning.convert_params(guess.params)
            for name, value in converted.items():
                if name != "policy_kwargs":
                    assert value == pytest.approx(settings[name])
            assert converted["policy_kwargs"] == {"log_std_init": 0.0, **policy_kwargs}


def test_a_trial_is_worth_its_return_after_adaptation() -> None:
    trial = optuna.trial.FixedTrial({**PARAMS, "score_gae_lambda": 0.9})
    manager = make_manager()
    manager.n_actions = 2
    manager._hyperparams = {"policy": "MlpPolicy", "n_episodes": 3, "policy_kwargs": {"ortho_init": True}}
    value = manager.objective(trial)
    settings = {**manager._hyperparams, **tuning.convert_params(trial.params)}
    settings["policy_kwargs"] = {"ortho_init": True, "net_arch": [64, 64], "log_std_init": -0.5}
    model = SGMRL(env=manager.create_envs(1), seed=0, **settings).learn(1)
    report = evaluate_adaptation(model, manager.create_envs(0, eval_env=True), n_tasks=2, seed=2**40)
    assert value == pytest.approx(report.mean_returns[-1])


def test_tune_writes_what_train_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tune(n_trials=3) == 0
    output = capsys.readouterr().out
    assert "Best trial" in output and f"Wrote {STUDY}.yml" in output
    study = optuna.load_study(storage=_journal(), study_name="Navigation2D-v0")
    assert len(study.trials) == 3
    # the first trial has the settings of the file
    first = tuning.convert_params(study.trials[0].params)
    assert first["inner_lr"] == 0.2 and first["learning_rate"] == 0.003 and first["policy_kwargs"]["net_arch"] == [100, 100]
    best = tuning.convert_params(study.best_trial.params)
    env_id, entry = next(iter(yaml.safe_load(Path(f"{STUDY}.yml").read_text()).items()))
    assert env_id == "Navigation2D-v0" and entry["n_timesteps"] == 4_000_000 and entry["n_episodes"] == 3
    for name in ("inner_lr", "gamma", "score_gae_lambda"):
        assert entry[name] == pytest.approx(best[name], rel=1e-5)
    assert run_train("--conf-file", f"{STUDY}.yml", "--eval-freq", "-1") == 0
    model = SGMRL.load("logs/sgmrl/Navigation2D-v0_1/Navigation2D-v0.zip")
    assert model.inner_lr == entry["inner_lr"] and model.policy_kwargs["net_arch"] == best["policy_kwargs"]["net_arch"]


def test_settings_outside_of_the_search_are_tried_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_once, played = SGMRL.train, []

    def keep(model: SGMRL, rollout: Any) -> None:
        played.append(model)
        train_once(model, rollout)

    monkeypatch.setattr(SGMRL, "train", keep)
    outside = [
        "max_grad_norm:None",
        "gamma:1",
        "learning_rate:'lin_0.002'",
        "policy_kwargs:dict(net_arch=[8], log_std_init=-3)",
    ]
    assert run_tune(n_trials=1, params=outside) == 0
    (model,) = played
    assert model.meta_batch_size == 2 and model.max_grad_norm is None and model.gamma == 1 and model.inner_lr == 0.2
    assert model.lr_schedule(0.5) == 0.001
    assert model.policy_kwargs == {"net_arch": [8], "log_std_init": -3}
    assert "including values outside the search space: learning_rate=lin_0.002, meta_batch_size=2" in capsys.readouterr().out
    entry = yaml.safe_load(Path(f"{STUDY}.yml").read_text())["Navigation2D-v0"]
    assert entry["meta_batch_size"] == 2 and entry["max_grad_norm"] is None and entry["gamma"] == 1
    assert entry["learning_rate"] == "lin_0.002" and entry["policy_kwargs"] == {"net_arch": [8], "log_std_init": -3}
    (trial,) = optuna.load_study(storage=_journal(), study_name="Navigation2D-v0").trials
    assert trial.params["max_grad_norm"] == 10 and trial.params["meta_batch_size"] == 5


def test_settings_are_tried_after_an_interrupt_of_their_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SGMRL, "train", interrupt)
        assert run_tune() == 130
    assert run_tune("--storage", f"{STUDY}.log", n_trials=1) == 0
    trials = optuna.load_study(storage=_journal(), study_name="Navigation2D-v0").trials
    assert len(trials) == 2 and trials[1].params["inner_lr"] == 0.2


def test_a_study_goes_on_and_nothing_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tune("--storage", "all.log", "--study-name", "mine", "--output", "best.yml", n_trials=1) == 0
    assert run_tune("--storage", "all.log", "--study-name", "mine", "--output", "best.yml", n_trials=1) == 2
    assert "`--output` must be a new file, got the existing best.yml" in capsys.readouterr().err
    before = Path("best.yml").read_text()
    assert run_tune("--storage", "all.log", "--study-name", "mine", n_trials=1) == 0
    assert len(optuna.load_study(storage=_journal("all.log"), study_name="mine").trials) == 2
    assert Path("best.yml").read_text() == before and Path(f"{STUDY}.yml").exists()


@pytest.mark.parametrize("other", [["--algo", "maml"], ["-n", "7"], ["--env", "BernoulliBandit-v0"]])
def test_a_study_goes_on_with_trials_of_its_kind(other: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    named = ["--storage", "all.log", "--study-name", "mine"]
    assert run_tune(*named, n_trials=1) == 0
    capfd.readouterr()
    assert f"`{other[0]}` must be " in error_of(tune, ["-n", "1", "--n-trials", "1", *named, *other], capfd)
    assert len(optuna.load_study(storage=_journal("all.log"), study_name="mine").trials) == 1


def test_a_study_that_does_not_know_its_kind_goes_on() -> None:
    study = optuna.create_study(storage=_journal("old.log"), study_name="old", direction="maximize")
    study.add_trial(optuna.trial.create_trial(params=PARAMS, distributions=_distributions("maml"), value=1.5))
    assert run_tune("--algo", "maml", "--storage", "old.log", "--study-name", "old", n_trials=1) == 0
    assert len(optuna.load_study(storage=_journal("old.log"), study_name="old").trials) == 2


def test_interrupted_search_keeps_the_best(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    train_once, calls = SGMRL.train, []

    def interrupt_later(model: SGMRL, rollout: Any) -> None:
        calls.append(model)
        if len(calls) == 2:
            raise KeyboardInterrupt
        train_once(model, rollout)

    monkeypatch.setattr(SGMRL, "train", interrupt_later)
    assert run_tune(n_trials=5) == 130
    assert len(calls) == 2
    error = capsys.readouterr().err
    assert f"best settings so far are in {STUDY}.yml" in error and f"--storage {STUDY}.log" in error
    assert yaml.safe_load(Path(f"{STUDY}.yml").read_text())["Navigation2D-v0"]["inner_lr"] == 0.2


@pytest.mark.parametrize("bar", [[], ["--progress"]])
def test_interrupted_search_shows_no_traceback(
    bar: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SGMRL, "train", interrupt)
    optuna.logging.enable_default_handler()
    monkeypatch.setattr(optuna.logging._default_handler, "stream", sys.stderr)  # not that of when it was made
    assert run_tune(*bar) == 130
    error = capsys.readouterr().err
    assert "Trial 0 failed" in error and "Traceback" not in error


def test_a_search_ends_at_an_interrupt_that_python_drops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one that comes while garbage is collected."""
    train_once, played = SGMRL.train, []

    def press(model: SGMRL, rollout: Any) -> None:
        played.append(model)
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        train_once(model, rollout)

    monkeypatch.setattr(SGMRL, "train", press)
    assert run_tune(n_trials=3) == 130
    assert len(played) == 1 and f"best settings so far are in {STUDY}.yml" in capsys.readouterr().err


def test_a_pruned_trial_stays_pruned() -> None:
    trial: Any = types.SimpleNamespace(report=lambda *_: None, should_prune=iter([True, False]).__next__)
    reporter = tuning.ReportToTrial(trial)
    parent: Any = types.SimpleNamespace(last_report=types.SimpleNamespace(mean_returns=[1.0]))
    reporter.parent = parent
    assert not reporter._on_step() and not reporter._on_step() and reporter.is_pruned


def test_search_without_a_finished_trial(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("The meta-gradient is NaN.")

    monkeypatch.setattr(SGMRL, "train", fail)
    assert run_tune() == 2
    captured = capsys.readouterr()
    assert "No trial finished" in captured.err.splitlines()[-1] and "NaN" in captured.out
    assert not list(Path().rglob("*.yml"))


def test_trials_are_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna.pruners.MedianPruner, "prune", lambda self, study, trial: trial.number == 1)
    assert run_tune(n_trials=2) == 0
    states = [trial.state.name for trial in optuna.load_study(storage=_journal(), study_name="Navigation2D-v0").trials]
    assert states == ["COMPLETE", "PRUNED"]


def test_evaluations_of_trials_are_kept() -> None:
    assert run_tune("--optimization-log-path", "of/trials", n_trials=2) == 0
    for trial in optuna.load_study(storage=_journal(), study_name="Navigation2D-v0").trials:
        folder = Path(f"of/trials/trial_{trial.number}")
        assert np.load(folder / "evaluations.npz")["results"][-1, :, -1].mean() == pytest.approx(trial.value)
        assert SGMRL.load(folder / "best_model.zip").inner_lr == trial.params["inner_lr"]


def test_optimize_of_train_is_tune_with_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_train("-optimize", "--n-trials", "2", "--n-evaluations", "1", "--progress", "--algo", "maml") == 0
    captured = capsys.readouterr()
    assert "2.00/2.00" in captured.err and "Trial 1 finished" in captured.err
    assert Path("logs/maml/tuned_Navigation2D-v0_1.yml").exists()
    assert not list(Path("logs/maml").glob("Navigation2D-v0_*")), "a run folder without a model is left"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--n-trials", "0"], "`--n-trials` must be an integer from 1 to 1000000000, got 0"),
        (["--n-jobs", "0"], "`--n-jobs` must be an integer from 1 to 1024, got 0"),
        (["--n-evaluations", "0"], "`--n-evaluations` must be a positive integer, got 0"),
        (["--storage", "study.txt"], "`--storage` must be FILE.log or sqlite:///FILE, got study.txt"),
        (["--output", "best.txt"], "`--output` must end in .yml or .yaml, got best.txt"),
        (["--output", "file/best.yml"], "`--output` must be in a writable folder, got file/best.yml"),
        (["--optimization-log-path", "file"], "`--optimization-log-path` must be a writable folder, got file"),
        (["-params", "inner_lr:-1"], "`inner_lr` must be positive"),
        (["-params", "inner_lrr:1"], "did you mean 'inner_lr'"),
        (["-params", "policy_kwargs:dict(activation_fn=th.nn.ReLU)"], "must be text"),
    ],
)
def test_errors_are_one_sentence(arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert words in error_of(tune, ["-n", "1", *arguments], capfd)
    assert not list(Path().glob("logs/*/*.log"))


def test_what_is_not_searched_stays(tmp_path: Path) -> None:
    entry = {"policy": "MlpPolicy", "n_timesteps": 7, "policy_kwargs": "dict(net_arch=[8], activation_fn=nn.ReLU)"}
    study = optuna.create_study(direction="maximize")
    trial = optuna.trial.create_trial(params=PARAMS, distributions=_distributions("maml"), value=1.5)
    study.add_trial(trial)
    tuning.write_entry(str(tmp_path / "a.yml"), "X-v0", entry, study.best_trial, 10)
    written = yaml.safe_load((tmp_path / "a.yml").read_text())["X-v0"]
    assert written["n_timesteps"] == 7 and written["gamma"] == 0.95
    policy_kwargs = eval(written["policy_kwargs"], {"nn": types.SimpleNamespace(ReLU="ReLU")})
    assert policy_kwargs == {"net_arch": [64, 64], "activation_fn": "ReLU", "log_std_init": -0.5}


def _distributions(algo: str) -> dict[str, Any]:
    return tuning.search_space(algo, True)


def _journal(path: str = f"{STUDY}.log") -> Any:
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))

"""RL Zoo: playing and drawing runs, what a user may get wrong, and trainings that end early."""

from __future__ import annotations

import os
import signal
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv
from toys import error_of
from zoo_tools import FOLDER, make_manager, run_train, zoo_process  # noqa: F401

from sb3_sgmrl import SGMRL, AdaptationReport, evaluate_adaptation, plots
from sb3_sgmrl.cli import enjoy, plot, train, tune
from sb3_sgmrl.data.streams import REPORT_SEED

pytestmark = pytest.mark.usefixtures("short_episodes")


def test_enjoy(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_train(params=["n_inner_steps:2"]) == 0
    capsys.readouterr()
    arguments = ["--task", "0.3", "-0.4", "--adapt-steps", "2", "--n-episodes", "2", "--picture", "new/goal.png"]
    assert enjoy.main(arguments) == 0
    output = capsys.readouterr().out
    assert "Task [ 0.3 -0.4]" in output and "over 2 episodes" in output and Path("new/goal.png").exists()
    model = SGMRL.load("logs/sgmrl/Navigation2D-v0_1/Navigation2D-v0.zip")
    report = evaluate_adaptation(model, "Navigation2D-v0", tasks=[np.array([0.3, -0.4])], n_steps=2, n_episodes=2)
    rows = [line.split() for line in output.splitlines() if line.split()[:1] and line.split()[0] in "012"]
    assert [row[1] for row in rows] == [f"{mean:.2f}" for mean in report.mean_returns]
    for wrong in (
        ["--task", "3"],
        ["--task", "0.7", "0"],
        ["--exp-id", "7"],
        ["--load-last-checkpoint"],
        ["--adapt-steps", "0"],
    ):
        assert error_of(enjoy, wrong, capsys)


def test_plot_plays_a_run_as_it_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the statistics, the arguments of the environment and the settings of the run: the report at its end."""
    assert run_train("--eval-freq", "-1", "--env-kwargs", "squared:True", params=["normalize:True"]) == 0
    drawn: list[Any] = []
    monkeypatch.setattr(plot, "write_figure", lambda figure, *_: drawn.append(figure))
    run = Path("logs/sgmrl/Navigation2D-v0_1")
    assert plot.main(["adaptation", str(run / "Navigation2D-v0.zip"), "--n-tasks", "2", "--seed", str(REPORT_SEED)]) == 0
    report = AdaptationReport.from_csv(run / "adaptation.csv")
    np.testing.assert_allclose(drawn[0].axes[0].lines[0].get_ydata(), report.mean_returns)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--env", "Navigation3D-v0"], "Navigation"),
        (["--env", "CartPole-v1"], "has no tasks"),
        (["--algo", "ppo"], "sgmrl, maml"),
        (["-i", "none.zip"], "none.zip|trained_agent"),
        (["--conf-file", "none.yml"], "none.yml"),
        (["--device", "abacus"], "abacus"),
        (["--eval-tasks", "0"], "--eval-tasks"),
        (["--env-kwargs", "colour:1"], "colour"),
        (["-params", "inner_learning_rate:1"], "'inner_learning_rate' is not a hyperparameter of SGMRL: did you mean"),
        (["-params", "inner_lr:-1"], "inner_lr"),
        (["-params", "n_episodes:0"], "n_episodes"),
        (["-params", "learning_rate:'fast'"], "learning_rate"),
        (["-params", "baseline:critic"], "quotes"),
        (["-params", "baseline:'linaer'"], "linear, critic, none"),
        (["-params", "meta_batch_size:2.5"], "meta_batch_size"),
        (["-params", "n_envs:-1"], "n_envs"),
        (["-params", "policy_kwargs:dict(net_archh=[3])"], "'net_archh' of `policy_kwargs` is not an argument"),
        (["-params", "normalize:dict(norm_obss=True)"], "did you mean 'norm_obs'"),
        (["-params", "env_wrapper:'gymnasium.wrappers.Nope'"], "`env_wrapper` must name a class"),
        (["-params", "callback:['nope.Nope']"], "`callback` must name a class"),
        (["-n", "0"], "`--n-timesteps` must be positive, got 0"),
        (["--n-timesteps", "-500"], "`--n-timesteps` must be positive, got -500"),
        (["--alg", "maml"], "--alg maml; `--help` shows the options, which cannot be abbreviated"),
        (["--conf", "list.yml"], "--conf list.yml; `--help`"),
        (["--conf-file", "t2.log"], "`--conf-file` must be an existing .yml, .yaml or .py file, or a module, got t2.log"),
        (["--conf-file", "./t2.log"], "`--conf-file` must be an existing"),
        (["--conf-file", "t2.yml"], "`--conf-file` must be an existing"),
        (["--conf-file", "list.yml"], "lines per environment, got list.yml"),
        (["--conf-file", "none.yml"], "lines per environment, got none.yml"),
        (["--env", "nomodule:X-v0"], "must name modules that can be imported, got 'nomodule'"),
        (["--env", "Navigation2D"], "did you mean 'Navigation2D-v0'"),
        (["--eval-steps", "0"], "--eval-steps"),
        (["--eval-episodes", "-1"], "--eval-episodes"),
        (["--n-eval-envs", "-1"], "--n-eval-envs"),
        (["--log-interval", "0"], "log_interval"),
        (["-f", "list.yml"], "list.yml"),
        (["--tensorboard-log", "list.yml"], "list.yml"),
    ],
)
def test_errors_are_one_sentence(arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("list.yml").write_text("- Navigation2D-v0")
    Path("none.yml").write_text("Navigation2D-v0:")
    error = error_of(train, ["-n", "1", *arguments], capfd)
    assert any(part in error for part in words.split("|"))
    assert not list(Path().glob("logs/*/*")), "a run folder without a model is left"


def test_number_of_steps_of_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert "`n_timesteps` (here or as `-n`)" in error_of(train, ["-params", "n_timesteps:'x'"], capsys)
    assert "must be a positive number" in error_of(train, ["-params", "n_timesteps:0"], capsys)
    assert train.main(["--eval-freq", "-1", "--eval-tasks", "2", "-params", "n_timesteps:1", "meta_batch_size:2"]) == 0


def test_interrupted_training_leaves_a_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SGMRL, "train", interrupt)
    assert run_train() == 130
    path = "logs/sgmrl/Navigation2D-v0_1/Navigation2D-v0.zip"
    assert path in capsys.readouterr().err
    assert SGMRL.load(path).num_timesteps == 0  # the model as it was before the iteration that was interrupted
    assert not Path("logs/sgmrl/Navigation2D-v0_1/adaptation.csv").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("while_training", [True, False])
def test_ctrl_c_while_saving_leaves_a_model(
    while_training: bool, number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press_before(name: str) -> None:
        method = getattr(SGMRL, name)

        def pressed(*args: Any) -> Any:
            os.kill(os.getpid(), number)
            return method(*args)

        monkeypatch.setattr(SGMRL, name, pressed)

    press_before("save")
    if while_training:
        press_before("train")
    assert run_train("--eval-freq", "-1") == 130
    path = "logs/sgmrl/Navigation2D-v0_1/Navigation2D-v0.zip"
    assert path in capsys.readouterr().err
    assert SGMRL.load(path)._n_updates == 1 - while_training
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_ctrl_c_that_ends_the_workers_leaves_a_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    close = DummyVecEnv.close

    def gone(env: DummyVecEnv) -> None:
        close(env)
        raise BrokenPipeError

    def press(*_: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt as interrupt:
            raise BrokenPipeError from interrupt

    monkeypatch.setattr(DummyVecEnv, "close", gone)
    monkeypatch.setattr(SGMRL, "train", press)
    assert run_train("--vec-env", "dummy") == 130
    path = "logs/sgmrl/Navigation2D-v0_1/Navigation2D-v0.zip"
    assert path in capsys.readouterr().err
    assert SGMRL.load(path).num_timesteps == 0


def test_interrupted_report_says_where_the_model_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sb3_sgmrl.cli.zoo.manager.evaluate_adaptation", interrupt)
    assert run_train("--eval-freq", "-1") == 130
    path = "logs/sgmrl/Navigation2D-v0_1/Navigation2D-v0.zip"
    assert path in capsys.readouterr().err
    assert SGMRL.load(path)._n_updates == 1


def test_training_that_fails_keeps_the_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    train_once = SGMRL.train

    def fail_later(model: SGMRL, rollout: Any) -> None:
        if model._n_updates == 1:
            raise ValueError("The meta-gradient is NaN.")
        train_once(model, rollout)

    monkeypatch.setattr(SGMRL, "train", fail_later)
    assert run_train("-n", "2000", "--eval-freq", "-1") == 2
    assert "NaN" in capsys.readouterr().err
    assert SGMRL.load("logs/sgmrl/Navigation2D-v0_1/Navigation2D-v0.zip")._n_updates == 1


@pytest.mark.parametrize("command", [train, tune])
def test_help_names_all_options(command: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    output = capsys.readouterr().out
    for option in ("--eval-tasks", "--eval-steps", "--trained-agent", "--save-freq", "--vec-env", "--output", "--storage"):
        assert option in output


def test_navigation_pictures() -> None:
    model = SGMRL("MlpPolicy", "Navigation2D-v0", meta_batch_size=2, n_episodes=3, seed=0)
    goals = [np.array([0.3, 0.4]), np.array([-0.2, 0.1]), np.array([0.0, 0.4])]
    trajectories = plots.navigation_trajectories(model, "Navigation2D-v0", goals, n_steps=2, n_episodes=4)
    for goal, one in zip(goals, trajectories, strict=True):
        assert [len(episodes) for episodes in one.paths] == [4, 4, 4]
        assert all((path[0] == 0).all() and path.shape[1] == 2 for episodes in one.paths for path in episodes)
        # the reward of a step is minus the distance of the position it leads to
        last_seen = [-np.linalg.norm(path[1:] - goal, axis=1).sum() for path in one.paths[0]]
        assert np.mean(last_seen) - 2 < one.mean_returns[0] <= np.mean(last_seen)
    figure = plots.plot_trajectories({"SG-MRL": trajectories, "MAML": trajectories[:1]}, n_paths=2)
    visible = [axis for axis in figure.axes if axis.get_visible()]
    assert len(figure.axes) == 6 and len(visible) == 4
    assert all(len(axis.lines) == 3 * 2 + 1 for axis in visible)
    assert [text.get_text() for text in figure.legends[0].texts] == [
        *("before adaptation", "after 1 inner step", "after 2 inner steps", "goal")
    ]
    with pytest.raises(ValueError, match="trajectories"):
        plots.plot_trajectories({})
    with pytest.raises(ValueError, match="position in the plane"):
        plots.navigation_trajectories(SGMRL("MlpPolicy", "BernoulliBandit-v0"), "BernoulliBandit-v0", [np.full(5, 0.5)])


def test_adaptation_picture() -> None:
    report = AdaptationReport([0, 1, 2], np.array([[0.0, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 7.0]]))
    figure = plots.plot_adaptation({"SG-MRL": report, "MAML": report}, level=0.9)
    (axis,) = figure.axes
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [1, 2, 4])
    assert len(axis.collections) == 2 and "90 %" in axis.get_title()
    with pytest.raises(ValueError, match="level"):
        plots.plot_adaptation(report, level=95)

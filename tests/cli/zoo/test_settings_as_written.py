"""YAML means what people write, and settings that would fail later fail first."""

import pytest
from zoo_tools import SMALL, run_train, zoo_process  # noqa: F401

from sb3_sgmrl import SGMRL
from sb3_sgmrl.cli import train
from sb3_sgmrl.cli.zoo import manager
from sb3_sgmrl.cli.zoo.manager import _with_tasks
from sb3_sgmrl.cli.zoo.run_folder import saved_hyperparameters

ENTRY = "Navigation2D-v0:\n  policy: MlpPolicy\n  n_timesteps: 1\n  meta_batch_size: 2\n  n_episodes: 2\n"
RUN = ["--conf-file", "my.yml", "--eval-freq", "-1", "--eval-tasks", "2"]


def test_numbers_with_an_exponent_are_numbers(tmp_path, short_episodes):
    (tmp_path / "my.yml").write_text(
        ENTRY.replace("n_timesteps: 1\n", "n_timesteps: 1e1\n") + "  learning_rate: 3e-4\n  inner_lr: .2e0\n"
    )
    assert run_train(*RUN) == 0
    model = SGMRL.load("logs/sgmrl/Navigation2D-v0_1/Navigation2D-v0")
    assert (model.learning_rate(1.0), model.inner_lr) == (3e-4, 0.2)


def test_a_name_that_occurs_twice_is_refused(tmp_path, capfd):
    (tmp_path / "my.yml").write_text(ENTRY + "  inner_lr: 0.1\n  inner_lr: 0.2\n")
    assert train.main(RUN) == 2
    assert "'inner_lr' occurs twice" in capfd.readouterr().err
    assert not (tmp_path / "logs").exists()


def test_a_saved_name_that_nobody_reads_is_refused(tmp_path):
    (tmp_path / "config.yml").write_text("inner_lrr: 0.1\n")
    with pytest.raises(ValueError, match="'inner_lrr' is not a hyperparameter: did you mean 'inner_lr'"):
        saved_hyperparameters(tmp_path)


@pytest.mark.parametrize(
    ("given", "in_training", "in_evaluation"),
    [
        ([], {"squared": True}, {"squared": True}),
        (["--env-kwargs", "early_end:False"], {"squared": True, "early_end": False}, {"squared": True, "early_end": False}),
        (["--env-kwargs", "squared:False"], {"squared": False}, {"squared": False}),
        (["--eval-env-kwargs", "early_end:False"], {"squared": True}, {"squared": True, "early_end": False}),
    ],
)
def test_arguments_of_the_environment_in_the_file(tmp_path, monkeypatch, short_episodes, given, in_training, in_evaluation):
    (tmp_path / "my.yml").write_text(ENTRY + "  env_kwargs: {squared: True}\n")
    made = []
    monkeypatch.setattr(manager, "_with_tasks", lambda env: made.append(dict(env.spec.kwargs)) or _with_tasks(env))
    assert run_train(*RUN, *given) == 0
    assert [{name: of[name] for name in in_training} for of in made[:1]] == [in_training]
    assert [{name: of[name] for name in in_evaluation} for of in made[-1:]] == [in_evaluation]
    assert saved_hyperparameters(tmp_path / "logs/sgmrl/Navigation2D-v0_1/Navigation2D-v0")["env_kwargs"] == in_training


@pytest.mark.parametrize("eval_freq", ["-1", "0"])
def test_wrong_eval_env_kwargs_are_found_before_training(monkeypatch, capfd, eval_freq):
    monkeypatch.setattr(SGMRL, "learn", lambda *_, **__: pytest.fail("it trained"))
    arguments = ["-n", "1", "-params", *SMALL, "--eval-freq", eval_freq, "--eval-env-kwargs", "colour:1"]
    assert train.main(arguments) == 2
    assert "unexpected keyword argument 'colour'" in capfd.readouterr().err

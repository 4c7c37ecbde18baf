"""Sharing: the folder made by ``python -m sb3_sgmrl.card`` says what is so, and what it says to do works."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import huggingface_hub
import huggingface_sb3
import numpy as np
import pytest
import rl_zoo3.load_from_hub
import yaml
from huggingface_sb3 import EnvironmentName
from stable_baselines3.common.logger import configure
from toys import error_of, point, tiny
from zoo_tools import run_train, zoo_process  # noqa: F401

from sb3_sgmrl import MAML, SGMRL, evaluate_adaptation
from sb3_sgmrl.cli import card, enjoy
from sb3_sgmrl.data.streams import REPORT_SEED

SMALL = ["--n-tasks", "3", "--n-episodes", "2", "--n-steps", "2"]


def parts(folder: Path) -> tuple[dict[str, Any], str]:
    """Metadata and text of a card."""
    _, metadata, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(metadata), text


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads come from the folders in ``hub``."""

    def load_from_hub(repo_id: str, filename: str) -> str:
        path = Path("hub") / repo_id.split("/")[1] / filename
        if not path.exists():
            raise rl_zoo3.load_from_hub.HTTPError(filename)
        return str(path)

    for module in (huggingface_sb3, rl_zoo3.load_from_hub):
        monkeypatch.setattr(module, "load_from_hub", load_from_hub)


def run_usage(text: str) -> dict[str, Any]:
    (code,) = re.findall(r"## Use\n\n```python\n(.*?)```", text, re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(compile(code, "card", "exec"), namespace)
    return namespace


def test_run_to_repository_and_back(hub: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_train("--eval-steps", "2", params=["n_inner_steps:2"]) == 0
    assert card.main([*SMALL, "--repo-id", "someone/sgmrl-Navigation2D-v0"]) == 0
    folder = Path("hub/sgmrl-Navigation2D-v0")
    model = SGMRL.load("logs/sgmrl/Navigation2D-v0_1/Navigation2D-v0.zip")
    report = evaluate_adaptation(model, "Navigation2D-v0", 3, 2, 2, seed=REPORT_SEED)
    mean, std = report.returns[:, 2].mean(), report.returns[:, 2].std()

    metadata, text = parts(folder)
    assert metadata["library_name"] == "stable-baselines3"
    assert {"Navigation2D-v0", "reinforcement-learning", "stable-baselines3", "sgmrl"} <= set(metadata["tags"])
    (result,) = metadata["model-index"][0]["results"]
    assert result["dataset"]["type"] == "Navigation2D-v0"
    assert result["metrics"][0]["type"] == "mean_reward"
    assert result["metrics"][0]["value"] == f"{mean:.2f} +/- {std:.2f}"
    results = json.loads((folder / "results.json").read_text())
    assert results["mean_reward"] == mean and results["mean_returns"] == report.mean_returns.tolist()
    for k, value in enumerate(report.mean_returns):
        assert f"| {k} | {value:.2f} |" in text
    low, high = np.min(report.tasks, 0), np.max(report.tasks, 0)
    for part in (
        *(
            "| tasks | 3, drawn from the training distribution",
            f"seed {REPORT_SEED}",
            "from (-0.5 -0.5) to (0.5 0.5)",
            "| horizon | 100 steps |",
        ),
        *(f"from ({low[0]:.4g} {low[1]:.4g}) to ({high[0]:.4g} {high[1]:.4g})", "return after 2 inner steps"),
        *(
            "![learning_curve.png]",
            "![adaptation.png]",
            "'meta_batch_size': 2",
            f"{model._iteration} meta-iterations in total",
            f"{model.num_timesteps:,} environment steps",
        ),
        *(f"seed {model.seed};", "| torch |"),
    ):
        assert part in text, part
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (folder / picture).stat().st_size > 1000
    for file in folder.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes() and str(card.__file__).encode()[:12] not in file.read_bytes()

    loaded = run_usage(text)
    assert loaded["model"].n_inner_steps == 2 and loaded["policy"] is not loaded["model"].policy

    shutil.rmtree("logs")
    rl_zoo3.load_from_hub.download_from_hub("sgmrl", EnvironmentName("Navigation2D-v0"), 0, "logs", "someone")
    capsys.readouterr()
    assert enjoy.main(["--no-render", "--task", "0.1", "0.2", "--adapt-steps", "1", "--n-episodes", "2"]) == 0
    again = evaluate_adaptation(model, "Navigation2D-v0", tasks=[np.array([0.1, 0.2])], n_episodes=2)
    assert f"{again.mean_returns[1]:.2f}" in capsys.readouterr().out


def test_file_of_a_model(hub: None) -> None:
    model = MAML("MlpPolicy", "HalfCheetahVel-v0", lambda remaining: 1e-3 * remaining, meta_batch_size=2, n_episodes=2, seed=3)
    model.set_logger(configure("run", ["csv"]))
    model.learn(1).save("run/model")
    model.logger.close()
    arguments = ["--algo", "maml", "--env", "HalfCheetahVel-v0", "--env-kwargs", "task_range:(1.0, 2.0)", "-o", "hub/maml"]
    assert card.main([*SMALL, *arguments, "-i", "run/model.zip", "--command", "python mine.py", "--repo-id", "me/maml"]) == 0
    folder = Path("hub/maml")
    _, text = parts(folder)
    assert "```bash\npython mine.py\n```" in text and "from (1) to (2)" in text
    assert "'learning_rate': 'from 0.001 to 0'" in text and "![learning_curve.png]" in text
    shutil.move(folder / "maml-HalfCheetahVel-v0.zip", folder / "model.zip")
    usage = text.replace("maml-HalfCheetahVel-v0.zip", "model.zip")
    assert run_usage(usage)["env"].unwrapped.task_space.high == 2.0


def test_statistics_of_vec_normalize_go_along(hub: None) -> None:
    assert run_train("--eval-freq", "-1", params=["normalize:True"]) == 0
    assert card.main([*SMALL]) == 0
    folder = Path("hub/sgmrl-Navigation2D-v0")
    used = run_usage(parts(folder)[1])
    assert used["model"].env.obs_rms.count > 100 and not used["model"].env.training


def test_family_that_is_registered_as_a_distribution_of_tasks(hub: None, tmp_path: Path) -> None:
    gym.register("PointTasks-v0", entry_point=point, disable_env_checker=True)
    tiny(SGMRL, "PointTasks-v0").learn(1).save("model")
    model = SGMRL.load("model", env="PointTasks-v0")
    assert evaluate_adaptation(model, "PointTasks-v0", n_tasks=2, n_steps=1).returns.shape == (2, 2)
    (tmp_path / "salaries.csv").write_text("name,salary\n")
    (tmp_path / "0.monitor.csv").write_text("#\n")
    assert card.main([*SMALL, "--env", "PointTasks-v0", "-i", "model.zip"]) == 0
    folder = Path("hub/sgmrl-PointTasks-v0")
    shutil.copy(folder / "sgmrl-PointTasks-v0.zip", "hub/sgmrl-PointTasks-v0.zip")
    assert run_usage(parts(folder)[1])["policy"] is not None
    with zipfile.ZipFile(folder / "train_eval_metrics.zip") as archive:
        assert archive.namelist() == ["0.monitor.csv"]


def test_wrappers_of_training_are_named_and_not_left_out(hub: None) -> None:
    assert run_train("--eval-freq", "-1", params=["frame_stack:2", "normalize:True"]) == 0
    assert card.main([*SMALL]) == 0
    text = parts(Path("hub/sgmrl-Navigation2D-v0"))[1]
    assert (
        'env = ...  # TaskDistEnv("Navigation2D-v0"), in the wrappers of config.yml: frame_stack: 2 and VecNormalize'
    ) in text
    with pytest.raises(TypeError, match="`env` must be a gymnasium"):
        run_usage(text)


def test_log_of_something_else_is_no_learning_curve(capsys: pytest.CaptureFixture[str]) -> None:
    SGMRL("MlpPolicy", "BernoulliBandit-v0", seed=0).save("model")
    Path("progress.csv").write_text("time/total_timesteps,loss\n10,1\n")
    assert card.main([*SMALL, "--env", "BernoulliBandit-v0", "-i", "model.zip"]) == 0
    assert "No learning curve: progress.csv is not the log of a meta-training" in capsys.readouterr().out
    folder = Path("hub/sgmrl-BernoulliBandit-v0")
    assert (folder / "adaptation.png").exists() and not (folder / "learning_curve.png").exists()
    assert "learning_curve" not in parts(folder)[1]


def test_errors_leave_things_as_they_were(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    SGMRL("MlpPolicy", "BernoulliBandit-v0", seed=0).save("model")
    bandit = ["--env", "BernoulliBandit-v0", "-i", "model.zip"]
    for arguments, words in (
        ([], "logs"),
        ([*bandit, "--repo-id", "me"], "--repo-id"),
        ([*bandit, "--n-tasks", "0"], "`--n-tasks` must be a positive integer, got 0"),
        ([*bandit, "--n-steps", "0"], "`--n-steps` must be a positive integer, got 0"),
        ([*bandit, "--seed", "-1"], "seed"),
        (["-i", "model.zip", "--env", "Navigation3D-v0"], "Navigation3D-v0"),
        (["-i", "model.zip", "--env", "CartPole-v1"], "has no tasks"),
        (["-i", "model.zip"], "observation_space"),
        (["-i", "none.zip"], "`-i` must be an existing file, got none.zip"),
        ([*bandit, "--algo", "maml"], "SGMRL"),
    ):
        assert words in error_of(card, [*SMALL, *arguments], capsys)
        assert not Path("hub").exists()

    Path("hub/sgmrl-BernoulliBandit-v0").mkdir(parents=True)
    assert card.main(bandit) == 2
    assert "`--output` must be a new folder, got the existing hub/sgmrl-BernoulliBandit-v0" in capsys.readouterr().err
    assert not list(Path("hub/sgmrl-BernoulliBandit-v0").iterdir())

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(card, "card_text", interrupt)
    assert card.main([*SMALL, *bandit, "-o", "mine/new"]) == 130
    assert not list(Path("mine").iterdir())


def test_the_call_that_uploads_is_there() -> None:
    inspect.signature(huggingface_hub.HfApi.create_repo).bind(None, "me/model", exist_ok=True)
    inspect.signature(huggingface_hub.HfApi.upload_folder).bind(None, repo_id="me/model", folder_path="hub/model")

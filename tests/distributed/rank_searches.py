"""Searches for hyperparameters that ranks share; run in the process group of ``rank_runs``."""

from __future__ import annotations

import io
import os
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gymnasium as gym
import numpy as np
import optuna
import yaml
from optuna.storages.journal import JournalFileBackend
from toys import HORIZON

from sb3_sgmrl import SGMRL
from sb3_sgmrl.cli import tune

RANK = int(os.environ.get("RANK", 0))
SIZES = ["-n", "200", "--eval-tasks", "3", "--n-evaluations", "2", "--n-startup-trials", "1"]


def search(*arguments: str, n_trials: int = 3, verbose: int = 1, params: tuple[str, ...] = ()) -> str:
    """The exit code of a search, its trials, and the settings that it writes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        redirect_stdout(io.StringIO()),
        patch.object(gym.spec("Navigation2D-v0"), "max_episode_steps", HORIZON),
        np.errstate(over="ignore"),
    ):
        options = ["--seed", "0", *SIZES, "--n-trials", str(n_trials), "--verbose", str(verbose), "--log-folder", folder]
        small = ["n_episodes:2", "policy_kwargs:dict(net_arch=[4])"]
        code = tune.main([*options, *arguments, "-params", *small, *(params or ["meta_batch_size:3"])])
        files = sorted(path.suffix for path in Path(folder).rglob("*") if path.is_file())
        settings = [yaml.safe_load(path.read_text()) for path in Path(folder).rglob("*.yml")]
        journals = [str(path) for path in Path(folder).rglob("*.log")]
        trials = [trial for journal in journals for trial in _study(journal).trials]
    found = [(trial.state.name, trial.value, trial.params, trial.intermediate_values) for trial in trials]
    return f"{code} {files} {found} {settings}"


def _study(journal: str) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(JournalFileBackend(journal)))


def searched() -> str:
    """A search whose first trial overflows, and of which the pruner stops another."""
    return search(params=("meta_batch_size:3", "inner_lr:1e30", "learning_rate:1e30"))


def searched_with_a_fault() -> str:
    """A search of which rank 1 fails in one trial, by an error of values."""
    train, calls = SGMRL.train, 0

    def failing(model: Any, rollout: Any) -> None:
        nonlocal calls
        calls += 1
        if RANK == 1 and calls == 1:
            raise ValueError("of rank 1")
        train(model, rollout)

    with patch.object(SGMRL, "train", failing):
        return search(n_trials=2)


def refused(*arguments: str, params: tuple[str, ...] = ()) -> str:
    """A search that raises an error."""
    return search(*arguments, verbose=2, params=params)


def searched_without_an_environment() -> str:
    """A search of which rank 1 cannot make the environment."""
    if RANK == 1:
        with patch("sb3_sgmrl.cli.zoo.manager.as_task_vec_env", side_effect=_missing):
            return refused()
    return refused()


def _missing(*_: Any, **__: Any) -> None:
    raise ValueError("no file of the environment")

"""RL Zoo as in the commands, in the process of the tests."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from rl_zoo3.gym_patches import PatchedTimeLimit

import sb3_sgmrl
from sb3_sgmrl.cli import train
from sb3_sgmrl.cli.zoo.options import MetaOptions
from sb3_sgmrl.cli.zoo.search import SearchManager

FOLDER = Path(sb3_sgmrl.__file__).parent / "hyperparams"
SMALL = ["meta_batch_size:2", "n_episodes:3"]
PATCHED = ((gym.wrappers, "TimeLimit"), (gym.wrappers.common, "TimeLimit"), (gym.envs.registration, "TimeLimit"))


def _restore(original: type) -> None:
    for module, name in PATCHED:
        setattr(module, name, original)


_restore(PatchedTimeLimit.__mro__[1])


@pytest.fixture(autouse=True)
def zoo_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """RL Zoo's replacement of TimeLimit is in force, as in the commands, and undone for the other tests; an empty folder."""
    original = gym.wrappers.TimeLimit
    _restore(PatchedTimeLimit)
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.chdir(tmp_path)
    yield
    _restore(original)


def run_train(*arguments: str, params: list[str] | None = None) -> int:
    fixed = ["--seed", "0", "-n", "1", "--eval-tasks", "2"]
    return train.main([*fixed, *arguments, "-params", *SMALL, *(params or [])])


def make_manager(
    env_id: str = "Navigation2D-v0",
    algo: str = "sgmrl",
    meta: MetaOptions | None = None,
    vec_env_type: str = "dummy",
    **params: Any,
) -> SearchManager:
    manager = SearchManager(
        *(Namespace(), algo, env_id, "logs"),
        config=str(FOLDER / f"{algo}.yml"),
        hyperparams={"meta_batch_size": 2, "n_episodes": 3, **params},
        n_timesteps=1,
        n_eval_envs=0,
        n_eval_episodes=0,
        vec_env_type=vec_env_type,
        verbose=0,
        meta=meta or MetaOptions(n_tasks=2),
    )
    hyperparams, _ = manager.read_hyperparameters()
    manager.use_hyperparameters(hyperparams)
    return manager

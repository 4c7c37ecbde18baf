"""Runs of RL Zoo that are stopped at random moments and resumed end as if they had never stopped."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stopped_train
import torch as th
import torch._dynamo  # or each fork imports it for its first optimiser
from paths import ROOT
from toys import error_of
from zoo_tools import run_train, zoo_process  # noqa: F401

from sb3_sgmrl.cli import train
from sb3_sgmrl.common.files.model_file import ModelFile
from sb3_sgmrl.common.saving import read_file

SETTINGS: dict[str, tuple[str, list[str]]] = {
    "plain": ("sgmrl", []),
    "two steps": ("sgmrl", ["n_inner_steps:2"]),
    "normalized": ("sgmrl", ["normalize:True"]),
    "normalized by phase": ("maml", ["normalize:dict(norm_reward=False)", "normalizer_update:'phase'"]),
    "schedule": ("sgmrl", ["learning_rate:'lin_0.01'"]),
    "clip range": ("sgmrl", ["n_epochs:3", "clip_range:'lin_0.4'"]),
    "critic": ("sgmrl", ["baseline:'critic'", "learning_rate:'lin_0.01'"]),
    "step sizes": ("maml", ["inner_lr_learning_rate:0.1", "learning_rate:'lin_0.01'"]),
    "entries": ("sgmrl", ["inner_lr_learning_rate:0.1", "inner_lr_per:'entry'", "normalize:True"]),
    "scaled": ("sgmrl", ["control_variate:'task_regression'", "control_variate_scaling:True", "score_coef:1.0"]),
    "emaml": ("emaml", []),
    "promp": ("promp", ["n_epochs:2", "target_inner_kl:0.01"]),
    "trust region": ("trpomaml", []),
    "reptile": ("reptile", ["normalize:True"]),
    "many": ("sgmrl", ["normalize:True", "normalizer_update:'phase'", "baseline:'critic'", "n_epochs:2"]),
}
SETTINGS["many"][1].extend(["learning_rate:'lin_0.01'", "inner_lr_learning_rate:0.1"])
ENGINES: dict[str, tuple[list[str], list[str]]] = {
    "batched": ([], []),
    "three columns": ([], ["n_envs:3"]),
    "dummy": (["--vec-env", "dummy"], ["n_envs:2"]),
    "subproc": (["--vec-env", "subproc"], ["n_envs:2"]),
}
N_ITERATIONS = 7
SIGNALS = ["SIGINT", "SIGTERM", "SIGKILL", "SIGINT group"]
# settings of a file that belong to one process or its workers, and that no meta-iteration reads
OWN = {"start_time", "_num_timesteps_at_start", "n_envs", "_last_obs", "_last_original_obs", "_last_episode_starts"}

Run = Callable[[list[Any] | None, list[str], Path], int]


def run_as_program(stop: list[Any] | None, arguments: list[str], folder: Path) -> int:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, stopped_train.__file__, json.dumps(stop), *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


def run_as_fork(stop: list[Any] | None, arguments: list[str], folder: Path) -> int:
    """Run without the seconds of imports."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            os.chdir(folder)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = stopped_train.main(stop, arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def command_of(name: str, engine: str) -> tuple[list[str], list[str]]:
    algo, params = SETTINGS[name]
    options, workers = ENGINES[engine]
    n_steps = 2 * 2 * stopped_train.HORIZON * (3 if name == "two steps" else 2)
    arguments = ["--algo", algo, "--seed", "0", "-n", str(N_ITERATIONS * n_steps), "--num-threads", "1", *options]
    arguments += ["--eval-tasks", "2", "--eval-freq", str(2 * n_steps), "--save-freq", str(n_steps)]
    return arguments, ["meta_batch_size:2", "n_episodes:2", *params, *workers]


def comparable(value: Any) -> Any:
    """A value of a file in plain parts, without times."""
    if isinstance(value, dict):
        return {str(key): comparable(part) for key, part in value.items() if key not in {"t", *OWN}}
    if isinstance(value, (list, tuple, deque)):
        return [comparable(part) for part in value]
    if isinstance(value, (th.Tensor, np.ndarray)):
        return np.asarray(value).tolist()
    return comparable(vars(value)) if hasattr(value, "__dataclass_fields__") else repr(value)


def content(file: ModelFile) -> dict[str, Any]:
    return {name: comparable(getattr(file, name)) for name in ("algorithm", "settings", "parameters", "statistics")}


def result(run: Path) -> dict[str, Any]:
    """Everything that a finished run has learned and measured."""
    evaluations = np.load(run / "evaluations.npz")
    found: dict[str, Any] = {f"evaluated {name}": evaluations[name].tolist() for name in evaluations.files}
    for name in ("Navigation2D-v0.zip", "best_model.zip"):
        parts = content(read_file(run / name))
        found |= {f"{key} of {name}": value for key, value in (parts.pop("settings") | parts).items()}
    return {**found, "report": (run / "adaptation.csv").read_text()}


def runs_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("logs/*/Navigation2D-v0_*"), key=lambda path: int(path.name.rpartition("_")[2]))


def models_of(run: Path) -> list[Path]:
    """The models of a stopped run that can be resumed: the last one, the best one and the checkpoints."""
    checkpoints = sorted(run.glob("rl_model_*_steps.zip"), key=lambda path: int(path.stem.split("_")[2]))
    return [path for path in (run / "Navigation2D-v0.zip", run / "best_model.zip") if path.exists()] + checkpoints[-3:]


def resumes_exactly(seed: int, folder: Path, run: Run, finished: dict[Any, Any], names: list[str], engines: list[str]) -> str:
    rng = random.Random(seed)
    name, engine = rng.choice(names), rng.choice(engines)
    arguments, params = command_of(name, engine)
    # statistics depend on the number of workers unless whole phases update them, and SB3's processes send rewards as float64
    others = [engine]
    if "normalizer_update:'phase'" in params or not any("normalize" in param for param in params):
        others = [other for other in engines if (other == "subproc") == (engine == "subproc")]
    key = (name, tuple(others))
    if key not in finished:
        whole = folder / "whole"
        whole.mkdir()
        assert run(None, [*arguments, "-params", *params], whole) == 0
        finished[key] = result(runs_of(whole)[0])
    told, resume = [], []
    for n_stop in range(rng.choice([1, 1, 2])):
        where = rng.choice(["iteration", "iteration", "saving", "error"])
        how = "" if where == "error" else rng.choice(SIGNALS)
        count = rng.randint(2, N_ITERATIONS - 1 - 3 * n_stop)
        before = len(runs_of(folder))
        code = run([where, count, rng.random(), how], [*arguments, *resume, "-params", *params], folder)
        assert code in {"SIGKILL": (-9, 0), "": (2, 0)}.get(how, (130, 0)), (code, where, how)
        stopped = runs_of(folder)[-1]
        assert len(runs_of(folder)) == before + 1
        told.append(f"{how or 'error'} in {where} {count}")
        if code == 0:  # the signal came after the training, or after the end
            assert where == "iteration"
            break
        chosen = rng.choice(models_of(stopped))
        told[-1] += f", from {chosen.name}"
        if rng.random() < 0.5:
            arguments, params = command_of(name, rng.choice(others))
        resume = ["-i", str(chosen.relative_to(folder)), "--resume"]
    else:
        assert run(None, [*arguments, *resume, "-params", *params], folder) == 0
    found, expected = result(runs_of(folder)[-1]), finished[key]
    differing = [part for part, value in expected.items() if found.get(part) != value]
    assert found.keys() == expected.keys() and not differing, (differing, told)
    return f"{name}, {engine}: {'; '.join(told)}"


@pytest.fixture(scope="module")
def finished() -> dict[Any, Any]:
    return {}


@pytest.mark.parametrize("seed", [2, 49])
def test_a_few_stopped_runs(seed: int, tmp_path: Path, finished: dict[Any, Any]) -> None:
    print(resumes_exactly(seed, tmp_path, run_as_fork, finished, ["many"], ["batched", "three columns"]))


def test_what_cannot_be_resumed(short_episodes: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert "`--resume` must be used with `-i MODEL`" in error_of(train, ["-n", "1", "--resume"], capsys)
    assert run_train("--eval-freq", "-1") == 0
    run = Path("logs/sgmrl/Navigation2D-v0_1")
    (run / "evaluations.npz").write_bytes(b"PK")
    arguments = ["-n", "1", "-i", str(run / "Navigation2D-v0.zip"), "--resume"]
    assert "`--resume` cannot read" in error_of(train, arguments, capsys)
    assert "`-optimize` searches with new models" in error_of(train, [*arguments, "-optimize"], capsys)
    assert not run.with_name("Navigation2D-v0_2").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(100, 120))
def test_stopped_runs(seed: int, tmp_path: Path, finished: dict[Any, Any]) -> None:
    # a fourth of them with the seconds of imports, and with processes, which a fork cannot have
    run, engines = (run_as_fork, ["batched", "three columns", "dummy"]) if seed % 4 else (run_as_program, list(ENGINES))
    print(resumes_exactly(seed, tmp_path, run, finished, list(SETTINGS), engines))

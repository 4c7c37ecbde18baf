"""Damaged files and absurd values for every option of every command: one sentence and exit code 1 or 2, no traceback."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from zoo_tools import run_train, zoo_process  # noqa: F401

from sb3_sgmrl.cli import adapt, card, check, convert, enjoy, plot, record, train, tune
from sb3_sgmrl.cli.zoo.search import HYPERPARAMS_SAMPLER, SearchManager
from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm

pytestmark = pytest.mark.usefixtures("short_episodes")
RUN = "logs/sgmrl/Navigation2D-v0_1"
MODEL = f"{RUN}/Navigation2D-v0.zip"
ABSURD = ["", " ", "-7", "0", "1e400", "nan", "9" * 30, "x" * 300, "é☃", "/", "..", "a:b:c", "{'a': 1}", "[", "1/0", "None"]
SMALL = ["--n-episodes", "2"]
# a valid command of each kind, to which an attack adds an option
COMMANDS: dict[str, tuple[ModuleType, list[str]]] = {
    "train": (train, ["-n", "1", "--eval-tasks", "2", "--eval-freq", "-1", "--seed", "0"]),
    "tune": (tune, ["-n", "1", "--eval-tasks", "2", "--n-trials", "1", "--n-startup-trials", "1", "--n-evaluations", "1"]),
    "enjoy": (enjoy, ["--no-render", "--adapt-steps", "1", *SMALL]),
    "adapt": (adapt, ["--adapt-steps", "1", *SMALL]),
    "record": (record, ["--adapt-steps", "1", *SMALL, "-o", "video.gif"]),
    "plot": (plot, ["curves", RUN]),
    "plot adaptation": (plot, ["adaptation", MODEL, "--n-tasks", "2", *SMALL]),
    "card": (card, ["--n-tasks", "2", "--n-steps", "1", *SMALL, "-o", "hub"]),
    "check": (check, ["--env", "Navigation2D-v0", "--n-tasks", "2", "--n-episodes", "2"]),
    "convert": (convert, [MODEL]),
}
# a number of steps is a wish that takes as long as it takes
LONG = {"-n", "--n-timesteps", "--n-trials", "--max-total-trials"}
OF_ZOO = [
    *("--tensorboard-log", "-i", "-n", "--num-threads", "--log-interval", "--eval-freq", "--optimization-log-path"),
    *("--eval-episodes", "--n-eval-envs", "--save-freq", "-f", "--seed", "--vec-env", "--device", "--n-trials", "--n-jobs"),
    *("--max-total-trials", "--sampler", "--pruner", "--n-startup-trials", "--n-evaluations", "--storage", "--study-name"),
    *("--trial-id", "--verbose", "--gym-packages", "--env-kwargs", "--eval-env-kwargs", "-params", "--conf-file", "--env"),
    *("--algo", "--eval-tasks", "--eval-steps", "--output"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    folder, before = tmp_path_factory.mktemp("trained"), os.getcwd()
    os.chdir(folder)
    try:
        assert run_train("--save-freq", "1") == 0
    finally:
        os.chdir(before)
    return folder


def sample_only(manager: SearchManager, trial: Any) -> float:
    """A trial that trains nothing."""
    HYPERPARAMS_SAMPLER[manager.algo](trial, manager.n_actions, manager.n_envs, {})
    return 0.0


@pytest.fixture
def run_folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the test runs; nothing is trained or recorded."""
    shutil.copytree(trained / "logs", tmp_path / "logs")
    monkeypatch.setattr(MetaOnPolicyAlgorithm, "learn", lambda model, *_, **__: model)
    monkeypatch.setattr(SearchManager, "objective", sample_only)
    for module in (enjoy, record):
        monkeypatch.setattr(module, "record", lambda *_: None)
    return tmp_path


def run(name: str, *attack: str, sources: list[str] | None = None) -> tuple[int, str]:
    """The exit code of a command, and what it says."""
    command, arguments = COMMANDS[name]
    arguments = [arguments[0], *sources] if sources is not None else arguments
    out, error = io.StringIO(), io.StringIO()
    for path in ("hub", "video.gif", "curves.png", "adaptation.png"):
        shutil.rmtree(path, ignore_errors=True) if os.path.isdir(path) else Path(path).unlink(missing_ok=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = command.main([*arguments, *attack])
        except SystemExit as stop:  # of argparse
            code = int(stop.code or 0)
    return code, error.getvalue()


def survives(name: str, *attack: str, refused: bool = False, sources: list[str] | None = None) -> None:
    """It succeeds, or says one sentence."""
    try:
        code, error = run(name, *attack, sources=sources)
    except Exception as raised:
        raise AssertionError(f"{name} {attack}: a traceback of {type(raised).__name__}: {raised}") from raised
    assert code in ((1, 2) if refused else (0, 1, 2)), (name, attack, code)
    assert "Traceback" not in error
    if code == 2:
        sentences = [line for line in error.splitlines() if "error: " in line]
        assert len(sentences) == 1 and len(sentences[0]) < 1500, (name, attack, error)


def options_of(name: str) -> list[str]:
    """The options of a command that take a value."""
    if name in ("train", "tune"):
        return OF_ZOO
    parsers: list[argparse.ArgumentParser] = []
    original = argparse.ArgumentParser.parse_args

    def remember(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        parsers.append(parser)
        raise SystemExit(0)

    argparse.ArgumentParser.parse_args = remember  # type: ignore[method-assign, assignment]
    try:
        run(name)
    finally:
        argparse.ArgumentParser.parse_args = original  # type: ignore[method-assign]
    return [
        action.option_strings[-1]
        for action in parsers[0]._actions
        if action.option_strings and action.nargs != 0 and "--help" not in action.option_strings
    ]


def values_for(option: str, values: list[str]) -> Iterator[str]:
    for value in values:
        if not (option in LONG and value == "9" * 30):
            yield value


@pytest.mark.parametrize("name", COMMANDS)
def test_a_few_absurd_values(name: str, run_folder: Path) -> None:
    rng = random.Random(name)
    for option in rng.sample(options_of(name), 2):
        for value in values_for(option, rng.sample(ABSURD, 2)):
            survives(name, option, value)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", COMMANDS)
def test_absurd_values(name: str, run_folder: Path) -> None:
    failures = []
    for option in options_of(name):
        for value in values_for(option, ABSURD):
            try:
                survives(name, option, value)
            except AssertionError as failure:
                failures.append(" ".join(str(failure).split())[:300])
    assert not failures, "\n".join(failures)


def damage(path: Path, kind: str, rng: random.Random) -> None:
    """Damage a file."""
    content = path.read_bytes()
    if kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "missing":
        path.unlink()
    elif kind == "fifo":
        path.unlink()
        os.mkfifo(path)
    elif kind == "link to itself":
        path.unlink()
        path.symlink_to(path)
    elif kind == "other zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("data", "{}")
    else:
        changed = {
            "empty": b"",
            "text": b"hello: [world",
            "list": b"- 1\n- 2\n",
            "number": b"3",
            "null": b"null\n",
            "binary": bytes(rng.randrange(256) for _ in range(500)),
            "half": content[: len(content) // 2],
            "flipped": bytes(byte ^ (rng.random() < 0.05) for byte in content),
            "twice": content + content,
            "deep": b"[" * 5000,
            "anchors": b"a: &a [1]\n" + b"".join(b"b%d: [*a, *a]\n" % i for i in range(9)),
            "code": b"!!python/object/apply:os.system [echo hacked]\n",
            "unknown name": b"normalise: true\n",
            "wrong types": b"n_envs: x\nnormalize: [1]\nenv_kwargs: 3\nenv_wrapper: {1: 2}\nmeta_batch_size: -1\n",
            "table": b"a,b\n1\n2,3,4\nx,y\n",
        }[kind]
        path.write_bytes(changed)


KINDS = [
    *("folder", "missing", "link to itself", "other zip", "empty", "text", "list", "number", "null", "binary", "half"),
    *("flipped", "twice", "deep", "anchors", "fifo", "code", "unknown name", "wrong types", "table"),
]
FILES = {
    MODEL: ["enjoy", "adapt", "record", "plot adaptation", "card", "convert", "train"],
    f"{RUN}/Navigation2D-v0/config.yml": ["enjoy", "adapt", "record", "plot adaptation", "card"],
    f"{RUN}/Navigation2D-v0/args.yml": ["enjoy", "adapt", "plot adaptation", "card"],
    f"{RUN}/progress.csv": ["plot", "card"],
    f"{RUN}/evaluations.npz": ["plot", "card"],
    f"{RUN}/adaptation.csv": ["plot report", "card"],
    "my.yml": ["train conf", "tune conf"],
    "study.log": ["tune study"],
}
EXTRA = {
    "train": ["-i", MODEL],
    "train conf": ["--conf-file", "my.yml"],
    "tune conf": ["--conf-file", "my.yml"],
    "tune study": ["--storage", "study.log", "--study-name", "s"],
}


def attack_file(file: str, kind: str, names: list[str], rng: random.Random, folder: Path) -> None:
    path = folder / file
    path.parent.mkdir(exist_ok=True, parents=True)
    if not path.exists():
        path.write_text("Navigation2D-v0:\n  policy: MlpPolicy\n  n_timesteps: 1\n  meta_batch_size: 2\n  n_episodes: 2\n")
    original = path.read_bytes()
    damage(path, kind, rng)
    try:
        for name in names:
            sources = [f"{RUN}/adaptation.csv"] if name == "plot report" else None
            command = name.split()[0] if name not in COMMANDS else name
            command = "plot adaptation" if name == "plot report" else command
            survives(command, *EXTRA.get(name, []), sources=sources)
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(original)


@pytest.mark.parametrize("file", FILES)
def test_a_few_damaged_files(file: str, run_folder: Path) -> None:
    rng = random.Random(file)
    for kind in rng.sample(KINDS, 2):
        attack_file(file, kind, rng.sample(FILES[file], 1), rng, run_folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("file", FILES)
def test_damaged_files(file: str, run_folder: Path) -> None:
    failures = []
    for kind in KINDS:
        for name in FILES[file]:
            try:
                attack_file(file, kind, [name], random.Random(kind), run_folder)
            except AssertionError as failure:
                failures.append(f"{kind}: " + " ".join(str(failure).split())[:300])
    assert not failures, "\n".join(failures)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "tune", "check"])
def test_five_quick_ctrl_cs_end_without_a_traceback(name: str, tmp_path: Path) -> None:
    long = {"train": ["-n", "100000000"], "tune": ["-n", "100000000"], "check": ["--n-tasks", "1000", "--n-episodes", "1000"]}
    program = f"import sys; sys.argv = ['x', '--env', 'Navigation2D-v0', *{long[name]}]; print('begin', flush=True); "
    program += f"from sb3_sgmrl.cli.command_line import run_program; from sb3_sgmrl.cli.{name} import main; "
    program += "print('imported', flush=True); run_program(main)"
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    while "imported" not in child.stdout.readline():
        pass
    time.sleep(8)
    for _ in range(5):
        child.send_signal(signal.SIGINT)
        time.sleep(0.02)
    _, error = child.communicate(timeout=200)
    assert child.returncode == 130 and "Traceback" not in error, error

"""Nothing in the folder of a run is run: neither files that look like data nor names of modules in them."""

from __future__ import annotations

import base64
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from paths import FILES, needs_numpy_2
from zoo_tools import run_train, zoo_process  # noqa: F401

from sb3_sgmrl.cli import adapt, card, enjoy, plot, record
from sb3_sgmrl.cli.zoo.run_folder import parse_expression, saved_arguments, saved_hyperparameters

RUN = Path("logs/sgmrl/Navigation2D-v0_1")
SETTINGS = RUN / "Navigation2D-v0"
MODEL = RUN / "Navigation2D-v0.zip"
MARKER = "the code was run"
CODE = f"__import__('os').mkdir({MARKER!r})"
APPLY = f"!!python/object/apply:os.mkdir [{MARKER!r}]"


class Planted:
    """A pickle that runs code."""

    def __reduce__(self) -> Any:
        return os.mkdir, (MARKER,)


def old_model(path: Path) -> None:
    """A file of before 0.1 with a planted setting and a planted network."""
    with zipfile.ZipFile(FILES / "format_0.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(members["data"])
    data["policy_class"] = {":type:": "x", ":serialized:": base64.b64encode(pickle.dumps(Planted())).decode()}
    members |= {"data": json.dumps(data).encode(), "policy.pth": pickle.dumps(Planted())}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def model_with_pickles(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("policy.pth", pickle.dumps(Planted()))
        archive.writestr("data", json.dumps({"x": {":serialized:": base64.b64encode(pickle.dumps(Planted())).decode()}}))


def model_with_a_class(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name in ("data.json", "manifest.json"):
        members[name] = members[name].replace(b"stable_baselines3.common.policies.ActorCriticPolicy", b"planted_module.Policy")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def planted_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Planted()))


def objects(*names: str) -> Callable[[Path], None]:
    def plant(path: Path) -> None:
        with np.load(path) as file:
            arrays = dict(file)
        array = np.empty(1, dtype=object)
        array[0] = Planted()
        np.savez(path, **{**arrays, **dict.fromkeys(names, array)})

    return plant


def text(content: str) -> Callable[[Path], None]:
    def plant(path: Path) -> None:
        path.write_text(content)

    return plant


def argument(name: str, value: str) -> Callable[[Path], None]:
    """YAML of a value in the place of one that RL Zoo wrote."""

    def plant(path: Path) -> None:
        pairs = dict(yaml.load(path.read_text(), Loader=yaml.UnsafeLoader))
        pairs.pop(name, None)
        lines = yaml.safe_dump({key: value for key, value in pairs.items()})
        path.write_text(f"{lines}\n{name}: {value}\n")

    return plant


PLANTED: dict[str, tuple[Path, Callable[[Path], None]]] = {
    "old model": (MODEL, old_model),
    "model with pickles": (MODEL, model_with_pickles),
    "model with a class": (MODEL, model_with_a_class),
    "model that is a pickle": (MODEL, planted_pickle),
    "best model": (RUN / "best_model.zip", old_model),
    "args": (SETTINGS / "args.yml", text(APPLY)),
    "args: value": (SETTINGS / "args.yml", argument("seed", APPLY)),
    "args: name": (SETTINGS / "args.yml", argument("seed", "!!python/name:planted_module.x ''")),
    "args: module": (SETTINGS / "args.yml", argument("seed", "!!python/module:planted_module ''")),
    "args: env": (SETTINGS / "args.yml", argument("env", "'planted_module:Navigation2D-v0'")),
    "args: env_kwargs": (SETTINGS / "args.yml", argument("env_kwargs", "{env: 'planted_module:Navigation2D-v0'}")),
    "args: gym_packages": (SETTINGS / "args.yml", argument("gym_packages", "[planted_module]")),
    "config": (SETTINGS / "config.yml", text(APPLY)),
    "config: new": (SETTINGS / "config.yml", text("!!python/object/new:planted_module.X {}")),
    "config: ordered": (
        SETTINGS / "config.yml",
        text(f"!!python/object/apply:collections.OrderedDict\n- - - gamma\n    - {APPLY}\n"),
    ),
    "config: policy": (SETTINGS / "config.yml", argument("policy", "planted_module.Policy")),
    **{
        f"config: {name}": (SETTINGS / "config.yml", argument(name, json.dumps(CODE)))
        for name in (
            "policy_kwargs",
            "normalize",
            "monitor_kwargs",
            "env_kwargs",
            "n_envs",
            "meta_batch_size",
            "learning_rate",
        )
    },
    **{
        f"config: {name}": (SETTINGS / "config.yml", argument(name, "planted_module.Part"))
        for name in ("env_wrapper", "vec_env_wrapper", "callback")
    },
    "statistics": (SETTINGS / "vecnormalize.pkl", planted_pickle),
    "old statistics": (SETTINGS / "obs_rms.pkl", planted_pickle),
    "replay buffer": (RUN / "replay_buffer.pkl", planted_pickle),
    "evaluations": (RUN / "evaluations.npz", objects("timesteps", "results", "tasks")),
    "evaluations: tasks": (RUN / "evaluations.npz", objects("tasks")),
    "evaluations: pickle": (RUN / "evaluations.npz", planted_pickle),
    "report": (RUN / "adaptation.csv", text(f'task,return_after_0\n"{CODE}",1.0\n')),
    "log": (RUN / "progress.csv", text(f'time/total_timesteps,rollout/ep_rew_mean_pre\n"{CODE}",1\n')),
    "command": (SETTINGS / "command.txt", text(f"python -c {CODE!r}")),
}
PLAY = ["--n-episodes", "1", "--seed", "0"]
COMMANDS: dict[str, Callable[[], int]] = {
    "enjoy": lambda: enjoy.main(["--no-render", "--adapt-steps", "1", *PLAY]),
    "enjoy best": lambda: enjoy.main(["--no-render", "--adapt-steps", "1", "--load-best", *PLAY]),
    "adapt": lambda: adapt.main(["--adapt-steps", "1", "-o", "adapted.zip", *PLAY]),
    "card": lambda: card.main(["--n-tasks", "1", "--n-steps", "1", *PLAY]),
    "record": lambda: record.main(["--adapt-steps", "1", "-o", "video.gif", *PLAY]),
    "train -i": lambda: run_train("--eval-freq", "-1", "-i", str(MODEL)),
    "plot a model": lambda: plot.main(["adaptation", str(MODEL), "--n-tasks", "1", "--n-steps", "1", "--n-episodes", "1"]),
    **{
        f"plot {kind}": lambda kind=kind: plot.main([kind, str(RUN)])  # type: ignore[misc]
        for kind in ("adaptation", "curves", "profile", "tasks", "gradient")
    },
    "plot trajectories": lambda: plot.main(["trajectories", str(RUN), "--n-tasks", "1", "--n-episodes", "1"]),
}
# those that look at most of the folder, or at files of their own
QUICK = {
    **dict.fromkeys(PLANTED, ("enjoy",)),
    "best model": ("enjoy best",),
    **dict.fromkeys(("evaluations", "evaluations: pickle", "evaluations: tasks"), ("plot curves",)),
    "report": ("plot adaptation", "plot tasks"),
    "log": ("plot gradient",),
    "args: env": ("plot a model",),
    "statistics": ("enjoy", "train -i"),
    "replay buffer": ("train -i",),
}
PAIRS = [
    pytest.param(name, command, marks=[] if command in QUICK[name] else pytest.mark.slow, id=f"{name}-{command}")
    for name in PLANTED
    for command in COMMANDS
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"folder": tmp_path_factory.mktemp("made")}


@pytest.fixture
def run(made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder of a run, and beside it a module that must not be imported."""
    if not (made["folder"] / "logs").exists():
        assert run_train(params=["normalize:True"]) == 0
        shutil.move(tmp_path / "logs", made["folder"] / "logs")
    shutil.copytree(made["folder"] / "logs", tmp_path / "logs")
    (tmp_path / "planted_module.py").write_text(f"{CODE}\nPolicy = Part = X = x = object\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    capsys.readouterr()


@pytest.mark.parametrize("name, command", PAIRS)
def test_planted_code_is_not_run(run: None, name: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, plant = PLANTED[name]
    plant(path)
    code = COMMANDS[command]()
    error = capsys.readouterr().err
    assert not Path(MARKER).exists()
    assert code == 0 or (code == 2 and error.startswith("error: ") and error.count("\n") == 1), error


@pytest.mark.parametrize("command", ["enjoy", "plot a model", "train -i"])
def test_the_same_folder_as_it_was_made(run: None, command: str) -> None:
    assert COMMANDS[command]() == 0


@needs_numpy_2
def test_trusted_files_are_read(run: None, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(FILES / "format_0.zip", MODEL)
    (SETTINGS / "vecnormalize.pkl").unlink()
    assert enjoy.main(["--no-render", "--adapt-steps", "1", "--trusted", *PLAY]) == 2
    assert "vecnormalize.pkl is missing" in capsys.readouterr().err
    argument("normalize", "false")(SETTINGS / "config.yml")
    assert enjoy.main(["--no-render", "--adapt-steps", "1", *PLAY]) == 2
    assert "is from before 0.1, a pickle that can run code" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="unpickling"):
        assert enjoy.main(["--no-render", "--adapt-steps", "1", "--trusted", *PLAY]) == 0


# ------------------------------------------------------------------------------------------------ what RL Zoo writes


def test_settings_as_rl_zoo_writes_them(run: None) -> None:
    arguments = saved_arguments(SETTINGS)
    assert arguments["env"] == "Navigation2D-v0" and arguments["hyperparams"]["meta_batch_size"] == 2
    assert saved_hyperparameters(SETTINGS)["normalize"] is True


def test_python_of_hyperparameters() -> None:
    import torch as th

    said = "dict(net_arch=dict(pi=[64, 64], vf=[32]), activation_fn=nn.ReLU, log_std_init=-2, x=(1, 'a', None), y={'z': True})"
    assert parse_expression(said) == {
        **{"net_arch": {"pi": [64, 64], "vf": [32]}, "activation_fn": th.nn.ReLU, "log_std_init": -2},
        **{"x": (1, "a", None), "y": {"z": True}},
    }
    assert parse_expression("dict(optimizer_class=th.optim.RMSprop)") == {"optimizer_class": th.optim.RMSprop}
    for wrong in (
        *(
            CODE,
            "nn.Module",
            "nn.Linear",
            "dict(**x)",
            "dict([1])",
            "open('x')",
            "lambda: 1",
            "[x for x in (1,)]",
            "os.system",
        ),
        *("nn.ReLU()", "1 if 2 else 3", "f'{1}'", "(", "a", "th.load", "nn.ReLU.__init__", "{**{}}", "'a'.join('b')"),
    ):
        with pytest.raises(ValueError, match=r"is not Python|is neither a literal"):
            parse_expression(wrong)


@pytest.mark.parametrize(
    "content",
    [
        "a: &a [1]\nb: *a\nc: !!binary x",
        "- 1",
        "[",
        "\x00",
        "a: !!python/tuple",
        "&a [*a]",
        "!!python/object/apply:collections.OrderedDict [1]",
    ],
)
def test_settings_that_are_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "args.yml").write_text(content)
    with pytest.raises(ValueError, match=r"args.yml (holds something else than data|must hold)") as caught:
        saved_arguments(tmp_path)
    assert "\n" not in str(caught.value)


def laughs(start: str, level: str) -> str:
    """References to references: each line doubles what it stands for."""
    return "\n".join([start, *(level.format(now=i, before=i - 1) for i in range(1, 60))])


def test_settings_that_would_be_huge(tmp_path: Path) -> None:
    references = "policy_kwargs:\n" + laughs(" x0: &a0 [lol]", " x{now}: &a{now} [*a{before}, *a{before}]")
    (tmp_path / "config.yml").write_text(f"{references}\nnormalize: *a59\n")
    with pytest.raises(ValueError, match="normalize must be a dictionary") as caught:
        saved_hyperparameters(tmp_path)
    assert len(str(caught.value)) < 1000
    (tmp_path / "config.yml").write_text(f"{references}\nenv_kwargs: {{x: *a59}}\n")
    assert list(saved_hyperparameters(tmp_path)) == ["env_kwargs"]
    merges = laughs("x0: &a0 {y: 1}", "x{now}: &a{now} {{<<: [*a{before}, *a{before}]}}")
    (tmp_path / "config.yml").write_text(merges)
    with pytest.raises(ValueError, match="it merges dictionaries"):
        saved_hyperparameters(tmp_path)


def test_settings_that_are_too_large(tmp_path: Path) -> None:
    (tmp_path / "args.yml").write_text("a: " + "x" * 2**20)
    with pytest.raises(ValueError, match="larger than 1048576 bytes"):
        saved_arguments(tmp_path)

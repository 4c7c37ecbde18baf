"""RL Zoo: training, which engine plays, what is evaluated and written, and how it goes on."""

from __future__ import annotations

import csv
import pickle
import subprocess
import sys
import types
from argparse import Namespace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from toys import error_of
from zoo_tools import FOLDER, make_manager, run_train, zoo_process  # noqa: F401

from sb3_sgmrl import MAML, SGMRL, TaskDistEnv, evaluate_adaptation
from sb3_sgmrl.algorithms import ALGORITHMS
from sb3_sgmrl.cli import enjoy, plot, train
from sb3_sgmrl.cli.compare.kinds import family_arguments
from sb3_sgmrl.cli.zoo.checks import check_hyperparameters
from sb3_sgmrl.cli.zoo.options import MetaOptions
from sb3_sgmrl.plots.runs import logged, read_progress
from sb3_sgmrl.vec_env.engines import DEFAULT_WORKERS
from sb3_sgmrl.vec_env.task_vec_env import TaskVecEnv

OWN_FAMILIES = [id for id, spec in gym.registry.items() if str(spec.entry_point).startswith("sb3_sgmrl.")]


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_hyperparameters_for_every_family(algo: str) -> None:
    entries = yaml.safe_load((FOLDER / f"{algo}.yml").read_text())
    assert set(entries) == {"default", *OWN_FAMILIES}
    algorithm = ALGORITHMS[algo].cls
    for params in entries.values():
        check_hyperparameters(algorithm, params)
        others = ("n_timesteps", "policy", "policy_kwargs", "env_kwargs")
        arguments = {name: value for name, value in params.items() if name not in others}
        algorithm("MlpPolicy", None, _init_setup_model=False, **arguments)
        assert params["n_timesteps"] >= 1_000_000
    # a comparison has one environment for all
    assert {name: params.get("env_kwargs", {}) for name, params in entries.items() if name != "default"} == {
        family: family_arguments(family) for family in OWN_FAMILIES
    }


def test_import_of_the_package_leaves_rl_zoo_out() -> None:
    # SB3 itself imports matplotlib before 2.9
    code = "import stable_baselines3 as _, sys; before = {*sys.modules}; import sb3_sgmrl; new = {*sys.modules} - before; "
    code += "sys.exit('rl_zoo3' in new or 'matplotlib' in new)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_train_reports_adaptation(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_train("--save-freq", "200", "--eval-steps", "2") == 0
    run = Path("logs/sgmrl/Navigation2D-v0_1")
    output = capsys.readouterr().out
    table = output[output.index("Return before and after adaptation") :].splitlines()
    assert [line.split()[0] for line in table[2:5]] == ["0", "1", "2"]
    for name in ("adaptation.csv", "adaptation.png", "trajectories.png"):
        assert f"Wrote {run / name}" in output
        assert (run / name).stat().st_size > 100
    with open(run / "adaptation.csv") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 3 and len(rows[0]) == 4
    np.testing.assert_allclose(np.mean([float(row[2]) for row in rows[1:]]), float(table[3].split()[1]), atol=0.01)
    evaluations = np.load(run / "evaluations.npz")
    assert evaluations["results"].shape == (2, 2, 2)
    assert len(logged(read_progress(run), "eval/mean_reward")[1]) == 2
    for picture in ("curves", "gradient"):
        assert plot.main([picture, str(run), "-o", f"{picture}.png"]) == 0
    assert list(run.glob("rl_model_*_steps.zip"))
    best = max(result[:, -1].mean() for result in evaluations["results"])
    model = SGMRL.load(run / "best_model.zip")
    manager = make_manager()
    report = evaluate_adaptation(model, manager.create_envs(0, eval_env=True), n_tasks=2, seed=2**40)
    assert report.mean_returns[-1] == pytest.approx(best)


def test_batched_engine_is_the_default() -> None:
    env = make_manager().create_envs(1)
    assert isinstance(env, TaskVecEnv) and env.num_envs == 6
    assert make_manager(n_outer_episodes=5).create_envs(1).num_envs == 10
    assert make_manager(n_envs=4).create_envs(4).num_envs == 4
    assert make_manager().create_envs(3, eval_env=True).num_envs == 3


def test_engines_asked_for() -> None:
    wrapped = make_manager(env_wrapper="gymnasium.wrappers.FlattenObservation")
    for manager in (make_manager(meta=MetaOptions(zoo_workers=True)), wrapped):
        env = manager.create_envs(manager.n_envs, no_log=True)
        assert type(env) is DummyVecEnv and env.num_envs == DEFAULT_WORKERS
        assert all(env.env_is_wrapped(TaskDistEnv))
    assert all(env.env_is_wrapped(gym.wrappers.FlattenObservation))
    # one worker: each takes seconds to start
    env = make_manager(meta=MetaOptions(zoo_workers=True), vec_env_type="subproc").create_envs(1, no_log=True)
    assert type(env) is SubprocVecEnv and all(env.env_is_wrapped(TaskDistEnv))
    env.close()


def test_engine_makes_no_difference() -> None:
    for arguments in ([], ["--vec-env", "dummy"]):
        assert run_train("--eval-freq", "-1", *arguments) == 0
    batched, single = (Path(f"logs/sgmrl/Navigation2D-v0_{i}/adaptation.csv").read_text() for i in (1, 2))
    assert batched == single


def test_normalized_evaluation_adapts_as_in_training() -> None:
    manager = make_manager(normalize=True)
    env, training_env = manager.create_envs(0, eval_env=True), manager.create_envs(1)
    assert isinstance(env, VecNormalize) and isinstance(training_env, VecNormalize)
    assert isinstance(env.venv, TaskVecEnv)
    assert env.norm_reward and not env.training and training_env.training
    assert run_train(params=["normalize:True"]) == 0
    statistics = Path("logs/sgmrl/Navigation2D-v0_1/Navigation2D-v0/vecnormalize.pkl")
    assert VecNormalize.load(str(statistics), env.venv).obs_rms.count > 100
    assert enjoy.main(["--adapt-steps", "1", "--no-render"]) == 0


def test_continue_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_train("--eval-freq", "-1") == 0
    first = Path("logs/sgmrl/Navigation2D-v0_1/Navigation2D-v0.zip")
    assert run_train("--eval-freq", "-1", "-i", str(first)) == 0
    model = SGMRL.load("logs/sgmrl/Navigation2D-v0_2/Navigation2D-v0.zip")
    assert model._n_updates == 2 and model._iteration == 2
    words = f"`normalize` must be False with `-i {first}`, a model without VecNormalize, got True"
    assert words in error_of(train, ["-n", "1", "-i", str(first), "-params", "normalize:True"], capsys)
    assert not Path("logs/sgmrl/Navigation2D-v0_3").exists()


def test_continued_model_keeps_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    own = [
        "inner_lr:0.5",
        "n_inner_steps:2",
        "score_coef:0.0",
        "learning_rate:'lin_0.002'",
        "policy_kwargs:dict(net_arch=[8])",
    ]
    assert run_train("--eval-freq", "-1", params=own) == 0
    runs = [Path(f"logs/sgmrl/Navigation2D-v0_{i}") for i in (1, 2)]
    capsys.readouterr()
    arguments = ["--seed", "5", "-n", "1", "--eval-tasks", "2", "-i", str(runs[0] / "Navigation2D-v0.zip")]
    assert train.main([*arguments, "-params", "gamma:0.9", "n_episodes:2"]) == 0
    assert capsys.readouterr().out.count("`--seed` has no effect") == 1
    model = SGMRL.load(runs[1] / "Navigation2D-v0.zip")
    assert (model.inner_lr, model.n_inner_steps, model.score_coef, model.meta_batch_size) == (0.5, 2, 0.0, 2)
    assert (model.gamma, model.n_episodes) == (0.9, 2) and model.lr_schedule(0.5) == 0.001
    config = yaml.unsafe_load((runs[1] / "Navigation2D-v0" / "config.yml").read_text())
    used = {"inner_lr": 0.5, "n_inner_steps": 2, "score_coef": 0.0, "meta_batch_size": 2, "gamma": 0.9, "n_episodes": 2}
    used |= {"learning_rate": "lin_0.002", "policy": "MlpPolicy", "policy_kwargs": {"net_arch": [8]}, "baseline": "linear"}
    assert used.items() <= config.items()
    assert len(np.load(runs[1] / "evaluations.npz")["results"][0][0]) == 3  # steps of the model, from 0
    for wrong, words in (
        (["-params", "policy_kwargs:dict(net_arch=[9])"], "`-params` must not contain policy_kwargs with `-i`"),
        (["--algo", "maml"], "`--algo` must be sgmrl for `-i "),
    ):
        assert words in error_of(train, [*arguments, *wrong], capsys)
    assert not runs[1].with_name("Navigation2D-v0_3").exists()
    looked_at = ["--algo", "maml", "-i", str(runs[0] / "Navigation2D-v0.zip")]
    assert "`--algo` must be sgmrl for `-i " in error_of(enjoy, looked_at, capsys)


def test_continue_from_a_checkpoint_with_normalized_observations(capsys: pytest.CaptureFixture[str]) -> None:
    same = "normalize:dict(norm_reward=False)"
    assert run_train("--save-freq", "100", "--eval-freq", "-1", params=[same]) == 0
    run = Path("logs/sgmrl/Navigation2D-v0_1")
    first, *_ = sorted(run.glob("rl_model_*_steps.zip"))
    assert run_train("-i", str(first), "--eval-freq", "-1", "-n", "2000", params=["inner_lr:0.3", same]) == 0
    second = Path("logs/sgmrl/Navigation2D-v0_2")
    counts = []
    for folder in (run, second):
        with open(folder / "Navigation2D-v0" / "vecnormalize.pkl", "rb") as file:
            counts.append(pickle.load(file).obs_rms.count)
    assert counts[1] > counts[0] > 100
    for wrong in ("False", "True", "dict(norm_reward=False,clip_obs=5)"):
        words = f"`normalize` must be dict(norm_reward=False) with `-i {first}`, as the model was trained, got"
        assert words in error_of(train, ["-n", "1", "-i", str(first), "-params", f"normalize:{wrong}"], capsys)
    assert SGMRL.load(second / "Navigation2D-v0.zip").inner_lr == 0.3


@pytest.mark.parametrize("arguments", [[], ["--vec-env", "dummy"]])
def test_number_of_checkpoints(arguments: list[str]) -> None:
    # 12 episodes of at most 100 steps, played by up to 64 workers
    assert run_train("--save-freq", "300", "--eval-freq", "-1", *arguments) == 0
    run = Path("logs/sgmrl/Navigation2D-v0_1")
    n_steps = SGMRL.load(run / "Navigation2D-v0.zip").num_timesteps
    checkpoints = [int(file.stem.split("_")[2]) for file in run.glob("rl_model_*_steps.zip")]
    assert n_steps > 600
    np.testing.assert_allclose(sorted(checkpoints), np.arange(300, n_steps + 1, 300), atol=20)


def test_number_of_threads() -> None:
    n_threads = th.get_num_threads()
    try:
        for given, params, expected in (("1", [], 1), ("2", ["n_threads:1"], 1), ("2", ["n_threads:None"], 2)):
            assert run_train("--num-threads", given, "--eval-freq", "-1", params=params) == 0
            assert SGMRL.load(max(Path().glob("logs/sgmrl/*/Navigation2D-v0.zip"))).n_threads == expected
        assert (
            run_train("--num-threads", "1", "--eval-freq", "-1", "-i", "logs/sgmrl/Navigation2D-v0_3/Navigation2D-v0.zip") == 0
        )
        assert SGMRL.load("logs/sgmrl/Navigation2D-v0_4/Navigation2D-v0.zip").n_threads == 1
    finally:
        th.set_num_threads(n_threads)


def test_number_of_evaluations() -> None:
    # one meta-iteration of 2 · (3 + 3) episodes of at most 100 steps
    assert run_train("-n", "2500", "--eval-freq", "1200") == 0
    evaluations = np.load("logs/sgmrl/Navigation2D-v0_1/evaluations.npz")
    assert len(evaluations["timesteps"]) == 4 and evaluations["timesteps"][0] == 0
    assert run_train("--eval-freq", "-1") == 0
    assert not Path("logs/sgmrl/Navigation2D-v0_2/evaluations.npz").exists()
    assert not Path("logs/sgmrl/Navigation2D-v0_2/best_model.zip").exists()


def test_callbacks_and_wrappers_of_a_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own_parts.py").write_text("""
import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnvWrapper

calls = []

class Counter(BaseCallback):
    def __init__(self, name="plain"):
        super().__init__()
        self.name = name
    def _on_step(self):
        return True
    def _on_training_end(self):
        calls.append((self.name, self.n_calls))

class Below(gym.Wrapper):
    def __init__(self, env, name):
        super().__init__(env)
        calls.append(name)

class Above(VecEnvWrapper):
    def __init__(self, venv):
        super().__init__(venv)
        calls.append("above")
    def reset(self):
        return self.venv.reset()
    def step_wait(self):
        return self.venv.step_wait()
""")
    Path("own.yml").write_text("""
Navigation2D-v0:
  policy: MlpPolicy
  n_timesteps: 1
  n_envs: 2
  env_wrapper: [{own_parts.Below: {name: below}}]
  vec_env_wrapper: own_parts.Above
  callback:
    - own_parts.Counter: {name: counter}
    - own_parts.Counter
""")
    monkeypatch.syspath_prepend(Path.cwd())
    assert run_train("--conf-file", "own.yml", "--eval-freq", "-1") == 0
    import own_parts  # type: ignore[import-not-found]

    assert "above" in own_parts.calls and own_parts.calls.count("below") >= 2
    counts = dict(call for call in own_parts.calls if isinstance(call, tuple))
    assert counts["counter"] == counts["plain"] > 50
    assert enjoy.main(["--adapt-steps", "1", "--load-checkpoint", "1"]) == 2  # there is none
    capsys.readouterr()
    words = "env_wrapper names own_parts.Below, which a run folder may not import: --gym-packages own_parts allows it"
    assert words in error_of(enjoy, ["--adapt-steps", "1"], capsys)
    assert enjoy.main(["--adapt-steps", "1", "--gym-packages", "own_parts"]) == 0


def test_tracking(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert train.main(["--track", "-n", "1"]) == 2
    assert "pip install wandb" in capsys.readouterr().err
    started: dict[str, Any] = {}
    settings: dict[str, Any] = {}

    def init(**kwargs: Any) -> Namespace:
        started.update(kwargs)
        return Namespace(config=Namespace(setdefaults=settings.update))

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    assert run_train("--track", "--wandb-project-name", "meta", "-tags", "a", "--eval-freq", "-1") == 0
    assert started["project"] == "meta" and "a" in started["tags"] and started["sync_tensorboard"]
    assert settings["algo"] == "sgmrl" and settings["saved_hyperparams"]["n_episodes"] == 3
    assert list(Path("runs").glob("Navigation2D-v0__sgmrl__0__*/*/SGMRL_1/events*"))


def test_environment_of_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own_tasks_module.py").write_text("""
import gymnasium as gym
gym.register("OwnNavigation-v0", entry_point="sb3_sgmrl.envs.navigation:Navigation2DEnv", max_episode_steps=20)
""")
    monkeypatch.syspath_prepend(Path.cwd())  # before Python 3.11, "." may be the folder of an earlier test
    try:
        assert run_train("--env", "own_tasks_module:OwnNavigation-v0", "--eval-freq", "-1") == 0
        assert Path("logs/sgmrl/OwnNavigation-v0_1/OwnNavigation-v0.zip").exists()
        assert enjoy.main(["--env", "own_tasks_module:OwnNavigation-v0", "--task", "0.1", "0.1", "--adapt-steps", "1"]) == 0
    finally:
        gym.registry.pop("OwnNavigation-v0", None)


def test_tensorboard_and_overrides() -> None:
    pytest.importorskip("tensorboard")
    arguments = ["--algo", "maml", "--tensorboard-log", "tb", "--eval-freq", "-1", "--env-kwargs", "squared:True"]
    assert (
        run_train(*arguments, params=["inner_lr:0.05", "learning_rate:'lin_0.002'", "policy_kwargs:dict(net_arch=[8])"]) == 0
    )
    assert list(Path("tb/Navigation2D-v0/MAML_1").iterdir())
    model = MAML.load("logs/maml/Navigation2D-v0_1/Navigation2D-v0.zip")
    assert model.inner_lr == 0.05 and model.lr_schedule(0.5) == 0.001
    assert model.policy.action_net.in_features == 8


class _Window(gym.Wrapper):
    """Pendulum whose task is gravity; a "window" that counts the pictures it was asked for."""

    shown = 0
    metadata = {"render_modes": ["human", "rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        pendulum = gym.make("Pendulum-v1", max_episode_steps=20)
        super().__init__(TaskDistEnv(pendulum, task_space=gym.spaces.Box(5.0, 15.0, (1,)), set_task="g"))
        self.window = render_mode

    @property
    def render_mode(self) -> str | None:
        return self.window

    def step(self, action: Any) -> Any:
        _Window.shown += self.window == "human"
        return super().step(action)


def test_own_environment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(gym.registry, "Gravity-v0", gym.envs.registration.EnvSpec("Gravity-v0", entry_point=_Window))
    assert run_train("--env", "Gravity-v0", "--eval-freq", "-1") == 0
    assert (Path("logs/sgmrl/Gravity-v0_1") / "adaptation.png").exists()
    assert not (Path("logs/sgmrl/Gravity-v0_1") / "trajectories.png").exists()
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(_Window, "shown", 0)
    assert enjoy.main(["--env", "Gravity-v0", "--adapt-steps", "1", "--task", "9.81"]) == 0
    assert _Window.shown == 2 * 20
    assert capsys.readouterr().out.count("Shown ") == 2


class _EndsItself(gym.Env):
    """Ends its episodes of four steps itself, without a time limit; the reward is the distance to the task."""

    observation_space = gym.spaces.Dict({"position": gym.spaces.Box(-1.0, 1.0, (1,))})
    action_space = task_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def set_task(self, task: Any) -> None:
        self.task = task

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.left = 4
        return {"position": self.np_random.uniform(-1, 1, 1).astype("float32")}, {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        return {"position": action}, -abs(float(action[0] - self.task[0])), False, self.left == 0, {}


def test_an_environment_that_truncates_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gym.registry, "Ends-v0", gym.envs.registration.EnvSpec("Ends-v0", entry_point=_EndsItself))
    options = ["--env", "Ends-v0", "--eval-freq", "60"]  # two meta-iterations of 48 steps
    assert run_train(*options, "-n", "96", params=["policy:'MultiInputPolicy'", "n_outer_episodes:3"]) == 0
    run = Path("logs/sgmrl/Ends-v0_1")
    assert np.load(run / "evaluations.npz")["timesteps"].tolist()[-1] > 0
    assert (run / "Ends-v0.zip").exists()


def test_a_clip_range_that_decays_is_continued() -> None:
    assert run_train("--eval-freq", "-1", params=["n_epochs:2", "clip_range:'lin_0.4'"]) == 0
    assert run_train("--eval-freq", "-1", "-i", "logs/sgmrl/Navigation2D-v0_1/Navigation2D-v0.zip") == 0
    assert SGMRL.load("logs/sgmrl/Navigation2D-v0_2/Navigation2D-v0.zip").clip_range(0.5) == 0.2

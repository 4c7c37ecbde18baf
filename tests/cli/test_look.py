"""What the commands do with a trained model: enjoy, record, adapt."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticPolicy
from toys import error_of
from zoo_tools import run_train, zoo_process  # noqa: F401

from sb3_sgmrl import SGMRL, TaskDistEnv, to_sb3
from sb3_sgmrl.cli import adapt, enjoy, record, video
from sb3_sgmrl.data.streams import REPORT_SEED

imageio = pytest.importorskip("imageio.v2")
TASK = ["--task", "0.3", "-0.4"]
MODEL = "logs/sgmrl/Navigation2D-v0_1/Navigation2D-v0.zip"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("trained")
    model = SGMRL(
        "MlpPolicy", "Navigation2D-v0", meta_batch_size=2, n_episodes=3, seed=0, policy_kwargs={"log_std_init": -1.0}
    )
    model.save(folder / "model.zip")
    yield folder / "model.zip"


@pytest.fixture
def model_file(trained: Path) -> list[str]:
    return ["-i", str(trained), *TASK, "--env-kwargs", "max_episode_steps:20"]


def _short() -> TaskDistEnv:
    return TaskDistEnv(gym.make("Navigation2D-v0", max_episode_steps=20))


def test_video_of_navigation(
    model_file: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert record.main([*model_file, "--adapt-steps", "2", "-o", "new/goal.gif"]) == 0
    frames = imageio.mimread("new/goal.gif")
    # three panels of 400 pixels under their captions, one picture per step
    assert len(frames) == 20 and frames[0].shape[:2] == (424, 1200)
    for panel in np.split(np.stack([frame[..., :3] for frame in (frames[0], frames[-1])]), 3, axis=2):
        assert (panel[0] != panel[1]).any(), "nothing moves"
        assert (panel[:, :24] < 128).any(), "no caption"
    output = capsys.readouterr().out
    assert "before adaptation" in output and "after 1 inner step:" in output and "after 2 inner steps:" in output
    before = Path("new/goal.gif").read_bytes()
    assert record.main([*model_file, "-o", "new/goal.gif"]) == 2
    assert Path("new/goal.gif").read_bytes() == before
    assert enjoy.main([*model_file, "--adapt-steps", "1", "--video", "new/goal.gif", "--overwrite"]) == 0
    assert imageio.mimread("new/goal.gif")[0].shape[:2] == (424, 800)


def test_video_beside_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert run_train("--eval-freq", "-1") == 0
    for _ in range(2):
        assert record.main([*TASK, "--adapt-steps", "1", "--n-episodes", "2"]) == 0
    videos = sorted(Path(MODEL).parent.glob("*.mp4"))
    assert [path.name for path in videos] == ["video_1.mp4", "video_2.mp4"]
    with imageio.get_reader(videos[0]) as reader:
        assert reader.count_frames() == 100 and reader.get_meta_data()["size"] == (800, 424)


def test_panels_of_unequal_size_and_length() -> None:
    short, long = (np.full((n, 7, 5, 3), 200, dtype=np.uint8) for n in (2, 5))
    frames = video.side_by_side([short, long, long, long, long], "abcde")
    assert len(frames) == 5 and len({frame.shape for frame in frames}) == 1
    height, width, _ = frames[0].shape
    assert height % 2 == width % 2 == 0 and height == 2 * (24 + 7 * 46) and width == 4 * 5 * 46


def test_where_mujoco_draws_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    works = ["egl"]

    def run(command: list[str], **_: Any) -> types.SimpleNamespace:
        tried.append(command[-1])
        return types.SimpleNamespace(returncode=0 if works[0] in command[-1] else 1)

    monkeypatch.setattr(video.subprocess, "run", run)
    monkeypatch.setattr(video, "has_display", lambda: False)
    for works[0], chosen in (("egl", "egl"), ("osmesa", "osmesa"), ("neither", None)):
        monkeypatch.delenv("MUJOCO_GL", raising=False)
        assert video.choose_gl_backend() == chosen == os.environ.get("MUJOCO_GL")
    tried.clear()
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert video.choose_gl_backend() == "osmesa" and not tried
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setattr(video, "has_display", lambda: True)
    assert video.choose_gl_backend() is None and not tried


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="without a display is for Linux")
def test_video_of_a_robot_without_a_display() -> None:
    """In a process of its own, because the kind of OpenGL is chosen when MuJoCo is imported."""
    hidden = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL")}
    code = "from sb3_sgmrl.cli.video import choose_gl_backend; print(choose_gl_backend())"
    works = subprocess.run([sys.executable, "-c", code], env=hidden, capture_output=True, text=True, check=True)
    if works.stdout.strip() == "None":
        pytest.skip("neither EGL nor OSMesa")
    SGMRL("MlpPolicy", "HalfCheetahDir-v0", meta_batch_size=1, n_episodes=2, seed=0).save("model.zip")
    command = ["-m", "sb3_sgmrl.record", "--env", "HalfCheetahDir-v0", "-i", "model.zip", "--task", "-1", "--adapt-steps", "1"]
    arguments = [*command, "--env-kwargs", "width:64", "height:64", "-o", "cheetah.gif"]
    run = subprocess.run([sys.executable, *arguments], env=hidden, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    frames = imageio.mimread("cheetah.gif")
    assert len(frames) == 200 and frames[0][30:].std() > 1 and (frames[0] != frames[100]).any()


def test_adapted_policy_is_an_ordinary_one(model_file: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert adapt.main([*model_file, "--adapt-steps", "2", "-o", "adapted.zip"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:1] and line.split()[0] in "012"]
    assert len(rows) == 3
    policy = ActorCriticPolicy.load("adapted.zip")
    env = _short()
    env.set_task([0.3, -0.4])
    wanted = SGMRL.load(model_file[1]).adapt(_short(), [0.3, -0.4], n_steps=2)
    observations = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 2)).astype(np.float32)
    for one, other in zip(policy.state_dict().values(), wanted.state_dict().values(), strict=True):
        assert (one == other).all()
    np.testing.assert_array_equal(
        policy.predict(observations, deterministic=True)[0], wanted.predict(observations, deterministic=True)[0]
    )
    mean, _ = evaluate_policy(policy, env, 100, deterministic=False, warn=False)
    assert float(rows[2][1]) == pytest.approx(mean, abs=4 * float(rows[2][2]) + 1)


def test_steps_of_training_are_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    SGMRL("MlpPolicy", _short(), n_inner_steps=2, meta_batch_size=2, n_episodes=2, seed=0).save("two.zip")
    assert adapt.main(["-i", "two.zip", "--n-episodes", "2", *TASK, "--seed", str(REPORT_SEED)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[0] == "2"


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_adapted_policy_goes_on_in_sb3(algorithm: Any, model_file: list[str]) -> None:
    assert adapt.main([*model_file, "--adapt-steps", "1", "-o", "policy.zip"]) == 0
    assert adapt.main([*model_file, "--adapt-steps", "1", "-o", "model.zip", "--export", algorithm.__name__]) == 0
    policy = ActorCriticPolicy.load("policy.zip")
    env = TaskDistEnv("Navigation2D-v0")
    env.set_task([0.3, -0.4])
    model = algorithm.load("model.zip", env=env, n_steps=64)
    observations = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 2)).astype(np.float32)
    np.testing.assert_array_equal(
        model.predict(observations, deterministic=True)[0], policy.predict(observations, deterministic=True)[0]
    )
    assert algorithm.load("model.zip").n_envs == 1
    assert model.gamma == 0.99 and model.policy.log_std_init == -1.0
    model.learn(64)
    assert (model.predict(observations, deterministic=True)[0] != policy.predict(observations, deterministic=True)[0]).any()


def test_export_refuses_what_does_not_fit(trained: Path) -> None:
    model = SGMRL.load(trained)
    with pytest.raises(ValueError, match="`policy` must be an ActorCriticPolicy"):
        to_sb3(model, "Navigation2D-v0", PPO)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`algorithm` must be an on-policy algorithm"):
        to_sb3(model.policy, "Navigation2D-v0", DQN)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="`policy_kwargs` must be left out"):
        to_sb3(model.policy, "Navigation2D-v0", PPO, policy_kwargs={})
    with pytest.raises(ValueError, match="observation_space of `policy`"):
        to_sb3(model.policy, "Pendulum-v1", PPO)


def test_normalized_model_says_where_the_statistics_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_train("--eval-freq", "-1", params=["normalize:True"]) == 0
    assert adapt.main([*TASK, "--adapt-steps", "1", "-o", "adapted.zip"]) == 0
    assert f'SGMRL.load("{MODEL}").get_vec_normalize_env()' in capsys.readouterr().out
    assert SGMRL.load(MODEL).get_vec_normalize_env().obs_rms.count > 100


def test_own_environment_of_a_model_trained_elsewhere(
    model_file: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own_goals.py").write_text("""
import gymnasium as gym
from sb3_sgmrl import TaskDistEnv

def make():
    env = gym.make("Navigation2D-v0", max_episode_steps=30)
    goals = [{"goal": (0.1, 0.1)}, {"goal": (0.2, 0.2)}]
    return TaskDistEnv(env, tasks=goals, set_task=lambda env, task: env.set_task(task["goal"]))

gym.register("OwnGoals-v0", entry_point=make)
""")
    monkeypatch.syspath_prepend(".")
    try:
        own = ["-i", model_file[1], "--env", "own_goals:OwnGoals-v0", "--adapt-steps", "1"]
        assert adapt.main([*own, "--task", "{'goal': (0.1, 0.1)}", "-o", "own.zip"]) == 0
        assert "Task {'goal': (0.1, 0.1)}" in capsys.readouterr().out
        ActorCriticPolicy.load("own.zip")
    finally:
        gym.registry.pop("OwnGoals-v0", None)


@pytest.mark.parametrize("command", [enjoy, record, adapt])
@pytest.mark.parametrize(
    "arguments, words",
    [
        (["-f", "nofolder"], "nofolder"),
        (["--env", "Navigatio2D-v0"], "did you mean 'Navigation2D-v0'"),
        (["--env", "nomodule:X-v0"], "must name modules that can be imported, got 'nomodule'"),
        (["-i", "none.zip"], "`-i` must be an existing file, got none.zip"),
        (["-i", "junk.zip"], "junk.zip is cut off"),
        (["-i", "MODEL", "--algo", "maml"], "a model of SGMRL, got maml"),
        (["-i", "MODEL", "--env", "BernoulliBandit-v0"], "observation_space of the model"),
        (["-i", "MODEL", "--env", "CartPole-v1"], "has no tasks"),
        (["-i", "MODEL", "--task", "1", "2", "3"], "not in the task space"),
        (["-i", "MODEL", "--task", "north"], "not in the task space"),
        (
            ["-i", "MODEL", "--device", "abacus"],
            "`--device` must be a PyTorch device of this machine, such as auto, cpu or cuda, got 'abacus'",
        ),
        (["-i", "MODEL", "--env-kwargs", "squared"], "name:value"),
        (["-i", "MODEL", "--env-kwargs", "squared:yes"], "text in quotes"),
        (["--adapt-steps", "0"], "`--adapt-steps` must be a positive integer, got 0"),
        (["--n-episodes", "-1"], "`--n-episodes` must be a positive integer, got -1"),
        (["--seed", "-1"], "seed"),
    ],
)
def test_errors_are_one_sentence(
    command: types.ModuleType, arguments: list[str], words: str, trained: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("junk.zip").write_text("junk")
    assert words in error_of(command, [str(trained) if argument == "MODEL" else argument for argument in arguments], capfd)


@pytest.mark.parametrize(
    "command, arguments, words",
    [
        (adapt, ["-o", "adapted.pt"], "`--output` must end in .zip, got adapted.pt"),
        (adapt, ["-o", "there.zip"], "got the existing there.zip: pass `--overwrite`"),
        (adapt, ["-o", "there.zip/adapted.zip"], "must be in a writable folder"),
        (adapt, ["-o", "folder.zip"], "`--output` must be a file, got the folder folder.zip"),
        (adapt, ["--export", "PPO"], "needs a file"),
        (record, ["-o", "video.avi"], "must end in .mp4 or .gif"),
        (record, ["-o", "there.zip/video.gif"], "must be in a writable folder"),
        (enjoy, ["--picture", "there.zip"], "`--picture` must end in .png"),
        (enjoy, ["--video", "there.zip"], "`--video` must end in .mp4"),
    ],
)
def test_outputs_are_checked_first(
    command: types.ModuleType, arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("there.zip").write_text("there")
    Path("folder.zip").mkdir()
    assert words in error_of(command, arguments, capfd)
    assert Path("there.zip").read_text() == "there"


@pytest.mark.parametrize("command", [enjoy, record, adapt])
def test_help_and_interrupt(
    command: types.ModuleType, model_file: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0 and "--adapt-steps" in capsys.readouterr().out

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr(SGMRL, "load", interrupt)
    assert command.main(model_file) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_environment_without_pictures(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr("sb3_sgmrl.envs.navigation.Navigation2DEnv.metadata", {"render_modes": []})
    assert record.main(["-i", str(trained), *TASK, "-o", "a.gif"]) == 2
    assert "must have the render mode 'rgb_array'" in capsys.readouterr().err and not Path("a.gif").exists()


def test_way_of_navigation_is_drawn() -> None:
    env = gym.make("Navigation2D-v0", render_mode="rgb_array")
    env.reset(seed=0)
    env.unwrapped.set_task(np.array([0.4, -0.4]))  # type: ignore[attr-defined]
    first: Any = env.render()
    env.step(np.array([-1.0, 1.0]))
    env.step(np.array([-1.0, 1.0]))
    image: Any = env.render()
    green = np.argwhere((image == (60, 160, 60)).all(2)).mean(0)
    black = np.argwhere((image == 0).all(2)).mean(0)
    np.testing.assert_allclose(green, [180, 180], atol=2)
    np.testing.assert_allclose(black, [60, 60], atol=2)
    assert (image[100, 100] == 170).all() and (image[80, 80] == 170).all(), "where it was"
    assert (first[80, 80] == 255).all()
    env.reset()
    assert (env.render()[80, 80] == 255).all()  # type: ignore[index, call-overload]

"""The command adapt on recorded episodes, and its exports."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from toys import error_of
from zoo_tools import zoo_process  # noqa: F401

from sb3_sgmrl import SGMRL, EpisodeRecorder, PhaseBatch, TaskDistEnv, guarded_adapt, load_episodes
from sb3_sgmrl.cli import adapt


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A normalised model, and two logs of a robot that is no task family."""
    folder = tmp_path_factory.mktemp("trained")

    def make() -> TaskDistEnv:
        return TaskDistEnv(gym.make("Navigation2D-v0", max_episode_steps=8))

    env = VecNormalize(make_vec_env(make, 2))
    model = SGMRL("MlpPolicy", env, meta_batch_size=2, n_episodes=3, inner_lr=0.02, seed=0).learn(1)
    env.training = False
    model.save(folder / "model.zip")
    robot = EpisodeRecorder(gym.make("Navigation2D-v0", max_episode_steps=8))
    first = robot.play(model, 6)
    robot.save(folder / "first.npz")
    robot.play(model, 6, policy=model.adapt(episodes=first), seed=1)
    robot.save(folder / "second.npz")
    return folder


def saved_state(path: str) -> dict[str, th.Tensor]:
    return ActorCriticPolicy.load(path).state_dict()


def test_episodes_are_adapted_to_without_an_environment(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = [str(trained / "first.npz"), str(trained / "second.npz")]
    files = ["-o", "adapted.zip", "--onnx", "policy.onnx", "--torchscript", "policy.pt"]
    # the environment is not asked for
    assert adapt.main(["-i", str(trained / "model.zip"), "--env", "Robot-v7", "--episodes", *logs, *files]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows[1:3]] == [["1", "6"], ["2", "6"]]
    model = SGMRL.load(trained / "model.zip")
    batches = [PhaseBatch.from_episodes(load_episodes(log)) for log in logs]
    assert float(rows[1][2]) == pytest.approx(batches[0].episode_returns.mean(), abs=0.006)
    wanted = model.adapt(episodes=batches)
    for name, value in saved_state("adapted.zip").items():
        assert (value == wanted.state_dict()[name]).all()
    # what was exported takes raw observations
    raw = np.random.default_rng(0).uniform(-2, 2, (20, 2)).astype(np.float32)
    normalizer = model.get_vec_normalize_env()
    assert normalizer is not None
    action, _ = wanted.predict(normalizer.normalize_obs(raw), deterministic=True)
    np.testing.assert_allclose(th.jit.load("policy.pt")(th.as_tensor(raw)).numpy(), action, atol=1e-5)
    session = pytest.importorskip("onnxruntime").InferenceSession("policy.onnx")
    np.testing.assert_allclose(session.run(["action"], {"observation": raw})[0], action, atol=1e-5)


def test_the_guard_says_what_it_decided(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, first = SGMRL.load(trained / "model.zip"), str(trained / "first.npz")
    usual = ["-i", str(trained / "model.zip"), "--episodes", first, "--guard", "-o", "a.zip", "--overwrite"]
    batch = PhaseBatch.from_episodes(load_episodes(first))
    for more, held_out in (([], None), (["--held-out", first], batch)):
        assert adapt.main([*usual, *more]) == 0
        wanted = guarded_adapt(model, batch, held_out)
        assert str(wanted) in capsys.readouterr().out
        for name, value in saved_state("a.zip").items():
            assert (value == wanted.policy.state_dict()[name]).all()


def test_an_adapted_policy_of_a_task_is_exported(trained: Path) -> None:
    task = ["--task", "0.3", "-0.4", "--adapt-steps", "1", "--env-kwargs", "max_episode_steps:8"]
    assert adapt.main(["-i", str(trained / "model.zip"), *task, "-o", "adapted.zip", "--onnx", "policy.onnx"]) == 0
    session = pytest.importorskip("onnxruntime").InferenceSession("policy.onnx")
    raw = np.ones((1, 2), np.float32)
    normalizer = SGMRL.load(trained / "model.zip").get_vec_normalize_env()
    assert normalizer is not None
    action, _ = ActorCriticPolicy.load("adapted.zip").predict(normalizer.normalize_obs(raw), deterministic=True)
    np.testing.assert_allclose(session.run(["action"], {"observation": raw})[0], action, atol=1e-5)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--episodes", "LOG", "--task", "1", "2"], "`--task` must be left out with `--episodes`"),
        (["--episodes", "LOG", "--adapt-steps", "2"], "`--adapt-steps` must be left out"),
        (["--episodes", "LOG", "--n-episodes", "2"], "`--n-episodes` must be left out"),
        (["--episodes", "LOG", "--export", "PPO", "-o", "a.zip"], "`--export` must be left out"),
        (["--episodes", "none.npz"], "There are no episodes at `path` none.npz"),
        (["--episodes", "junk.npz"], "`path` junk.npz must be an .npz of episodes"),
        (["--episodes", "other.npz"], "`episodes` must hold"),
        (["--episodes", "LOG", "--guard", "--held-out", "junk.npz"], "`path` junk.npz must be"),
        (["--episodes", "LOG", "--held-out", "LOG"], "`--held-out` needs `--guard`"),
        (["--guard"], "need recorded episodes"),
        (["--onnx", "policy.pt"], "`--onnx` must end in .onnx, got policy.pt"),
        (["--torchscript", "policy.onnx"], "`--torchscript` must end in .pt"),
        (["--onnx", "there.onnx"], "got the existing there.onnx: pass `--overwrite`"),
    ],
)
def test_errors_are_one_sentence_before_anything_is_written(
    arguments: list[str], words: str, trained: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("junk.npz").write_text("junk")
    Path("there.onnx").write_text("there")
    np.savez("other.npz", lengths=[2], observations=np.zeros((2, 5)), actions=np.zeros((2, 2)), rewards=np.zeros(2))
    named = {"LOG": str(trained / "first.npz")}
    command = ["-i", str(trained / "model.zip"), *(named.get(argument, argument) for argument in arguments)]
    assert words in error_of(adapt, command, capfd)
    assert {path.name for path in Path(".").iterdir()} == {"junk.npz", "there.onnx", "other.npz"}

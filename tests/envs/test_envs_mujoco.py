"""The MuJoCo families: batched and single form agree to the bit, both are Gymnasium's robots."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from mujoco_tools import draw_actions, needs_batch
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from sb3_sgmrl.envs.mujoco_registry import FAMILIES, HORIZON, register_mujoco

ROBOTS = ("HalfCheetah", "Swimmer", "Hopper", "Walker2d", "Ant", "Humanoid")

CAN_FALL = [env_id for env_id, (robot, _) in FAMILIES.items() if robot not in ("HalfCheetah", "Swimmer")]


def first_family(robot: str) -> str:
    return next(env_id for env_id, (other, _) in FAMILIES.items() if other == robot)


def assert_equal_to_single(env_id: str, schedules: list, n_steps: int, **kwargs) -> int:
    """Play schedules in the batched form, and each again in the single form. Return the number of terminations."""
    vector = gym.make_vec(env_id, num_envs=len(schedules), **kwargs)
    single = gym.make(env_id, **kwargs)
    actions = draw_actions(vector.single_action_space, n_steps, len(schedules))
    for column, schedule in enumerate(schedules):
        vector.set_schedule(column, schedule)
    first, _ = vector.reset()
    steps = [vector.step(action) for action in actions]
    n_terminations = 0
    for column, schedule in enumerate(schedules):
        episodes = iter(schedule)
        task, seed = next(episodes)
        single.unwrapped.set_task(task)
        observation, _ = single.reset(seed=seed)
        np.testing.assert_array_equal(first[column], observation)
        idle = False
        for action, (observations, rewards, terminations, truncations, infos) in zip(actions, steps, strict=True):
            reward, terminated, truncated = 0.0, False, False
            if not idle:
                observation, reward, terminated, truncated, _ = single.step(action[column])
                n_terminations += terminated
            assert (rewards[column], terminations[column], truncations[column]) == (reward, terminated, truncated)
            if terminated or truncated:
                np.testing.assert_array_equal(infos["final_obs"][column], observation)
                task, seed = next(episodes, (None, None))
                idle = task is None
                if not idle:
                    single.unwrapped.set_task(task)
                    observation, _ = single.reset(seed=seed)
            np.testing.assert_array_equal(observations[column], observation)
    vector.close()
    single.close()
    return n_terminations


def draw_schedules(env_id: str, lengths: tuple[int, ...]) -> list:
    rng = np.random.default_rng(1)
    env = gym.make(env_id).unwrapped
    return [[(task, int(rng.integers(1000))) for task in env.sample_tasks(n, rng)] for n in lengths]


@needs_batch
@pytest.mark.parametrize("env_id", FAMILIES)
def test_batched_form_equals_single_form(env_id):
    """To the bit, with tasks and seeds by schedule, idle columns, and whatever ends the episodes."""
    schedules = draw_schedules(env_id, (3, 1, 2, 2))
    n_terminations = assert_equal_to_single(env_id, schedules, 220)
    assert (n_terminations > 0) == (env_id in CAN_FALL and not env_id.endswith("Goal-v0"))


@needs_batch
@pytest.mark.parametrize("env_id", [env_id for env_id in CAN_FALL if env_id.endswith("Dir-v0")])
def test_batched_form_equals_single_form_over_whole_episodes(env_id):
    """Robots that have fallen go on here, so that contacts of the whole body are compared over 200 steps."""
    schedules = draw_schedules(env_id, (2, 2))
    assert assert_equal_to_single(env_id, schedules, 210, terminate_when_unhealthy=False) == 0


@needs_batch
def test_many_columns_and_any_number_of_threads():
    """Vectorised arithmetic and threads must not change a bit of any column."""
    envs = [gym.make_vec("HumanoidDir-v0", num_envs=n, n_threads=threads) for n, threads in ((67, 1), (67, 3), (1, None))]
    tasks = envs[0].sample_tasks(67, np.random.default_rng(0))
    actions = draw_actions(envs[0].single_action_space, 15, 67)
    played = []
    for env in envs:
        env.set_tasks(tasks[: env.num_envs])
        env.reset(seed=3)
        steps = [env.step(action[: env.num_envs])[:3] for action in actions]
        played.append([np.stack(values) for values in zip(*steps, strict=True)])
    for one, other, alone in zip(*played, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one[:, :1], alone)


@needs_batch
def test_autoreset_without_schedule_goes_on_with_the_columns_generator():
    vector = gym.make_vec("SwimmerVel-v0", num_envs=2, max_episode_steps=3)
    single = gym.make("SwimmerVel-v0", max_episode_steps=3)
    vector.set_tasks([0.1, 0.15])
    single.unwrapped.set_task(0.15)
    vector.reset(seed=5)
    single.reset(seed=6)
    action = np.ones((2, 2), dtype=np.float32)
    for step in range(7):
        observations, rewards, _, truncations, _ = vector.step(action)
        observation, reward, _, truncated, _ = single.step(action[1])
        if truncated:
            observation, _ = single.reset()
        assert truncated == (step % 3 == 2)
        assert (rewards[1], truncations[1]) == (reward, truncated)
        np.testing.assert_array_equal(observations[1], observation)


@needs_batch
@pytest.mark.parametrize("env_id", ["HalfCheetahVel-v0", "AntDir-v0"])
def test_batched_form_can_be_pickled_within_an_episode(env_id):
    env = gym.make_vec(env_id, num_envs=3)
    env.reset(seed=0)
    env.set_schedule(1, [(1.0, 7)])
    actions = draw_actions(env.single_action_space, 220, 3)
    for action in actions[:10]:
        env.step(action)
    copy = pickle.loads(pickle.dumps(env))
    for action in actions[10:]:
        for ours, theirs in zip(env.step(action)[:4], copy.step(action)[:4], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_single_form_keeps_its_task_when_pickled():
    env = gym.make("HalfCheetahVel-v0", task_range=(0.0, 9.0), action_bound=2.0)
    env.unwrapped.set_task(8.5)
    copy = pickle.loads(pickle.dumps(env))
    assert copy.unwrapped.get_task() == 8.5
    assert copy.action_space == env.action_space
    np.testing.assert_array_equal(env.reset(seed=1)[0], copy.reset(seed=1)[0])


@pytest.mark.parametrize("robot", ROBOTS)
def test_dynamics_observations_and_ends_are_gymnasiums(robot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MuJoCo writes MUJOCO_LOG.TXT when Gymnasium makes its cheetah
    theirs_kwargs = {
        "Ant": {"include_cfrc_ext_in_observation": False},
        "Humanoid": {f"include_{name}_in_observation": False for name in ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")},
    }
    ours = gym.make(first_family(robot))
    theirs = gym.make(f"{robot}-v5", max_episode_steps=HORIZON, **theirs_kwargs.get(robot, {}))
    ours.action_space.seed(0)
    n_terminations = 0
    for seed in range(2):
        ours_obs, _ = ours.reset(seed=seed)
        theirs_obs, _ = theirs.reset(seed=seed)
        done = False
        while not done:
            np.testing.assert_array_equal(ours_obs, theirs_obs)
            action = ours.action_space.sample()
            ours_obs, _, terminated, truncated, ours_info = ours.step(action)
            theirs_obs, _, theirs_terminated, theirs_truncated, theirs_info = theirs.step(action)
            assert (terminated, truncated) == (theirs_terminated, theirs_truncated)
            assert ours_info["x_velocity"] == pytest.approx(theirs_info["x_velocity"], rel=1e-9, abs=1e-12)
            done = terminated or truncated
            n_terminations += terminated
    assert (n_terminations > 0) == (robot not in ("HalfCheetah", "Swimmer"))


@needs_batch
def test_invalid_number_of_threads_is_refused():
    with pytest.raises(ValueError, match="`n_threads` must be at least 1"):
        gym.make_vec("HalfCheetahDir-v0", num_envs=2, n_threads=0)


def test_batched_form_says_which_mujoco_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco.batch", None)
    with pytest.raises(ImportError, match=r"needs mujoco>=3\.17"):
        gym.make_vec("HalfCheetahDir-v0", num_envs=2)


@pytest.mark.filterwarnings("ignore:.*(infinity|symmetric and normalized).*")
@pytest.mark.parametrize("env_id", FAMILIES)
def test_env_checkers_and_registration(env_id):
    register_mujoco()  # a second time
    env = gym.make(env_id)
    assert env.spec.max_episode_steps == HORIZON
    gymnasium_check_env(env.unwrapped, skip_render_check=True)
    sb3_check_env(env.unwrapped, warn=False, skip_render_check=True)


@needs_batch
@pytest.mark.parametrize("robot", ROBOTS)
def test_make_vec(robot):
    env = gym.make_vec(first_family(robot), num_envs=3)
    assert env.metadata["autoreset_mode"] is gym.vector.AutoresetMode.SAME_STEP
    assert env.max_episode_steps == HORIZON
    observations, infos = env.reset(seed=[1, 2, 3])
    assert env.observation_space.contains(observations)
    assert infos == {}
    observations, rewards, *_ = env.step(env.action_space.sample())
    assert env.observation_space.contains(observations)
    assert rewards.dtype == np.float64


def test_making_an_env_leaves_no_log_and_no_handler_behind(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    handler = mujoco.get_mju_user_warning()
    gym.make("HalfCheetahDir-v0")
    assert mujoco.get_mju_user_warning() is handler
    assert list(tmp_path.iterdir()) == []
    assert "settotalmass" not in "".join(capfd.readouterr())


RENDER = """
import sys
import gymnasium as gym, mujoco, numpy as np
from sb3_sgmrl import TaskDistEnv
from sb3_sgmrl.vec_env.clones import edited_model_fields
from sb3_sgmrl.envs.mujoco_registry import register_mujoco
try:
    context = mujoco.GLContext(64, 64)
    context.make_current()
except Exception:
    sys.exit(77)
context.free()
register_mujoco()
kwargs = dict(render_mode="rgb_array", width=64, height=64)
env = gym.make("HalfCheetahDir-v0", **kwargs)
vector = gym.make_vec("HalfCheetahDir-v0", num_envs=2, **kwargs)
env.reset(seed=0)
vector.reset(seed=0)
for _ in range(20):
    env.step(np.ones(6))
    vector.step(np.ones((2, 6)))
first, second = vector.render()
mujoco.mj_forward(env.unwrapped.model, env.unwrapped.data)  # mj_step leaves the bodies' places one substep behind
np.testing.assert_array_equal(first, env.render())
assert first.shape == (64, 64, 3) and first.std() > 1 and (first != second).any()
"""


@needs_batch
def test_single_and_batched_form_render_the_same():
    """In a process of its own, because the kind of OpenGL is chosen when MuJoCo is imported."""
    platform = {"MUJOCO_GL": "egl"} if sys.platform == "linux" else {}
    run = subprocess.run([sys.executable, "-c", RENDER], env={**os.environ, **platform}, capture_output=True, text=True)
    if run.returncode == 77:
        pytest.skip("no OpenGL")
    assert run.returncode == 0, run.stderr


@needs_batch
def test_a_pickled_batch_keeps_its_robots():
    env = gym.make_vec("HopperRandParams-v0", num_envs=3)
    env.set_tasks(env.sample_tasks(3, np.random.default_rng(0)))
    env.reset(seed=0)
    copy = pickle.loads(pickle.dumps(env))
    for action in draw_actions(env.single_action_space, 5, 3):
        np.testing.assert_array_equal(env.step(action)[0], copy.step(action)[0])

"""The MuJoCo families: rewards, actions, tasks and bodies."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
from mujoco_tools import draw_actions, needs_batch

from sb3_sgmrl import TaskDistEnv
from sb3_sgmrl.envs.mujoco_registry import FAMILIES
from sb3_sgmrl.vec_env.clones import edited_model_fields


def step_with(env_id: str, task, action, **kwargs):
    """The third step of an episode: its reward, its info and the simulator's control."""
    env = gym.make(env_id, **kwargs)
    env.unwrapped.set_task(task)
    env.reset(seed=0)
    action = np.array(action, dtype=np.float32)
    for _ in range(2):
        env.step(action)
    _, reward, _, _, info = env.step(action)
    return reward, info, env.unwrapped.data.ctrl.copy()


@pytest.mark.parametrize("task", [-1.0, 1.0])
def test_cheetah_direction_reward(task):
    env = gym.make("HalfCheetahDir-v0")
    env.unwrapped.set_task(task)
    env.reset(seed=0)
    action = np.array([0.5, -0.5, 1.0, -1.0, 0.25, 0.0], dtype=np.float32)
    before = env.unwrapped.data.qpos[0]
    _, reward, *_ = env.step(action)
    velocity = (env.unwrapped.data.qpos[0] - before) / 0.05
    assert reward == pytest.approx(task * velocity - 0.05 * 2.5625, rel=1e-12)


def test_cheetah_velocity_reward():
    reward, info, _ = step_with("HalfCheetahVel-v0", 2.0, [0.5] * 6)
    assert reward == pytest.approx(-abs(info["x_velocity"] - 2.0) - 0.05 * 6 * 0.25, rel=1e-12)


@pytest.mark.parametrize(("env_id", "sign", "control"), [("SwimmerVel-v0", -1, 1.0), ("SwimmerVelPaper-v0", +1, 0.1)])
def test_swimmer_velocity_reward_has_the_right_sign_but_in_the_papers_settings(env_id, sign, control):
    reward, info, controls = step_with(env_id, 0.15, [1.0, -1.0])
    np.testing.assert_allclose(controls, [control, -control], rtol=1e-12)
    assert reward == pytest.approx(sign * abs(info["x_velocity"] - 0.15) - 1e-4 * 2 * control**2, rel=1e-9)


@pytest.mark.parametrize("task", [-1.0, 1.0])
def test_ant_direction_reward(task):
    reward, info, _ = step_with("AntDir-v0", task, [0.5] * 8)
    assert reward == pytest.approx(task * info["x_velocity"] + 1.0 - 0.5 * 2.0, rel=1e-12)


@pytest.mark.parametrize(
    ("env_id", "survive", "cost"),
    [("HopperVel-v0", 2.0, 1e-3 * 3), ("Walker2dVel-v0", 3.0, 1e-3 * 6), ("AntVel-v0", 3.0, 0.005 * 8)],
)
def test_velocity_reward_of_robots_that_can_fall(env_id, survive, cost):
    action = np.full(gym.make(env_id).action_space.shape, 0.5)
    reward, info, _ = step_with(env_id, 1.0, action)
    assert reward == pytest.approx(-abs(info["x_velocity"] - 1.0) + survive - cost * 0.25, rel=1e-12)


def test_ant_goal_reward_and_observation_depend_on_its_place():
    env = gym.make("AntGoal-v0").unwrapped
    env.set_task([1.0, -2.0])
    env.reset(seed=0)
    observation, reward, *_ = env.step(np.zeros(8))
    assert observation.shape == (29,)
    x, y = env.data.body("torso").xpos[:2]
    assert reward == pytest.approx(-(abs(x - 1.0) + abs(y + 2.0)), rel=1e-12)


def test_humanoid_runs_in_a_direction_of_the_plane():
    angle = 2.0
    reward, info, _ = step_with("HumanoidDir-v0", angle, [0.1] * 17)
    along = math.cos(angle) * info["x_velocity"] + math.sin(angle) * info["y_velocity"]
    assert reward == pytest.approx(1.25 * along + 5.0 - 0.1 * 17 * 0.01, rel=1e-6)


def test_fallen_robots_get_no_healthy_reward():
    env = gym.make("Walker2dDir-v0").unwrapped
    env.reset(seed=0)
    env.data.qpos[1] = 0.5
    _, _, terminated, _, info = env.step(np.zeros(6))
    assert terminated
    assert info["reward_survive"] == 0.0


@pytest.mark.parametrize("env_id", ["HalfCheetahDirPaper-v0", "HalfCheetahVelPaper-v0", "SwimmerVelPaper-v0"])
def test_action_map_of_the_paper_is_rescale_action(env_id):
    paper = gym.make(env_id)
    plain = gym.make(env_id, action_bound=None)
    rescaled = gym.wrappers.RescaleAction(plain, np.float32(-10), np.float32(10))
    assert paper.action_space == rescaled.action_space
    for env in (paper, rescaled):
        env.reset(seed=0)
    for action in np.random.default_rng(0).uniform(-10, 10, size=(5, *paper.action_space.shape)).astype(np.float32):
        paper.step(action)
        rescaled.step(action)
        np.testing.assert_allclose(paper.unwrapped.data.ctrl, plain.unwrapped.data.ctrl, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("action_bound", "limit"), [(None, 1.0), (10.0, 10.0)])
def test_actions_outside_of_the_box_are_clipped_before_they_cost(action_bound, limit):
    inside = step_with("HalfCheetahDir-v0", 1.0, [limit] * 6, action_bound=action_bound)
    outside = step_with("HalfCheetahDir-v0", 1.0, [3 * limit] * 6, action_bound=action_bound)
    assert inside[0] == outside[0]
    np.testing.assert_array_equal(outside[2], 1.0)
    assert outside[1]["reward_ctrl"] == pytest.approx(-0.3)


@pytest.mark.parametrize(
    ("env_id", "task", "message"),
    [
        ("HalfCheetahDir-v0", 0.5, "direction, -1 or \\+1, got 0.5"),
        ("HalfCheetahDir-v0", [1.0, 1.0], "shape \\(1,\\)"),
        ("HalfCheetahVel-v0", 3.1, "must lie in Box"),
        ("SwimmerVel-v0", float("nan"), "must lie in Box"),
        ("AntGoal-v0", [4.0, 0.0], "must lie in Box"),
        ("AntGoal-v0", 1.0, "shape \\(2,\\)"),
        ("HumanoidDir-v0", -1.0, "must lie in Box"),
    ],
)
def test_invalid_tasks_are_refused(env_id, task, message):
    with pytest.raises(ValueError, match=message):
        gym.make(env_id).unwrapped.set_task(task)


@pytest.mark.parametrize("env_id", FAMILIES)
def test_sampled_tasks_are_valid_and_cover_the_range(env_id):
    env = gym.make(env_id).unwrapped
    tasks = env.sample_tasks(400, np.random.default_rng(0))
    for task in tasks:
        env.set_task(task)
        np.testing.assert_array_equal(env.get_task(), task)
        assert env.task_space.contains(task)
    spread = np.ptp(tasks, axis=0) / (env.task_space.high - env.task_space.low)
    assert (spread > 0.9).all()
    if env_id == "AntGoal-v0":
        radii = np.linalg.norm(tasks, axis=1)
        assert radii.max() <= 3.0
        assert np.mean(radii**2) == pytest.approx(4.5, rel=0.1)  # uniform on the disc


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "fly"}, "`task` must be one of"),
        ({"task": "velocity", "task_range": (1.0, 1.0)}, "low < high"),
        ({"task_range": (0.0, 1.0)}, "`task_range` must be None"),
        ({"action_bound": 0.0}, "`action_bound` must be positive"),
    ],
)
def test_invalid_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        gym.make("HalfCheetahDir-v0", **kwargs)


# Tasks that change the robot


@pytest.mark.parametrize("robot", ["Hopper", "Walker2d"])
def test_factors_of_one_are_gymnasiums_robot_and_others_are_another(robot):
    ours, theirs = gym.make(f"{robot}RandParams-v0").unwrapped, gym.make(f"{robot}-v5").unwrapped
    size = ours.task_space.shape[0]
    assert size == ours.model.nbody - 1 + ours.model.nv + ours.model.ngeom
    actions = draw_actions(theirs.action_space, 10, 1)[:, 0] * 0.1

    def play(env, task=None):
        if task is not None:
            env.set_task(task)
        observation, _ = env.reset(seed=4)
        played = [env.step(np.clip(action, -1, 1)) for action in actions]
        return np.array([observation, *(step[0] for step in played)]), [step[1] for step in played]

    heavy, plain = np.ones(size), np.ones(size)
    heavy[0] = 3.0
    before = play(ours, plain)
    observations, rewards = play(theirs)
    np.testing.assert_array_equal(before[0], observations)
    np.testing.assert_allclose(before[1], rewards, rtol=1e-9)  # Gymnasium's cost is of float32 actions
    assert np.abs(play(ours, heavy)[0] - before[0]).max() > 1e-3
    assert ours.model.body_mass[1] == 3.0 * theirs.model.body_mass[1]
    np.testing.assert_array_equal(play(ours, plain)[0], before[0])  # nothing is left behind


def test_factors_are_log_uniform_and_checked():
    env = gym.make("HopperRandParams-v0").unwrapped
    tasks = np.log(env.sample_tasks(2000, np.random.default_rng(0))) / np.log(1.5)
    assert abs(tasks.mean()) < 0.05 and abs(tasks.std() - 6 / np.sqrt(12)) < 0.05 and np.abs(tasks).max() <= 3 + 1e-9
    assert env.task_space.contains(env.sample_tasks(1, np.random.default_rng(0))[0])
    with pytest.raises(ValueError, match="must lie in"):
        env.set_task(np.full(15, 4.0))
    with pytest.raises(ValueError, match="positive factors"):
        gym.make("HopperRandParams-v0", task_range=(0.0, 1.0))


@needs_batch
def test_the_robot_of_a_task_is_no_edit():
    task_env = TaskDistEnv("HopperRandParams-v0")
    task_env.reset(seed=0)
    assert edited_model_fields(task_env) == []
    task_env.unwrapped.model.opt.gravity[2] = -5
    assert edited_model_fields(task_env) == ["opt.gravity"]

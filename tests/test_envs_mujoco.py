"""The MuJoCo families: batched and single form agree to the bit, both agree with Gymnasium, and rewards are as documented."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from sb3_sgmrl import TaskDistEnv
from sb3_sgmrl.envs.mujoco_registry import FAMILIES, HORIZON, register_mujoco
from sb3_sgmrl.vec_env.clones import edited_model_fields

needs_batch = pytest.mark.skipif(
    tuple(int(part) for part in mujoco.__version__.split(".")[:2]) < (3, 17), reason="mujoco.batch came with mujoco 3.17"
)

register_mujoco()

ROBOTS = ("HalfCheetah", "Swimmer", "Hopper", "Walker2d", "Ant", "Humanoid")
CAN_FALL = [env_id for env_id, (robot, _) in FAMILIES.items() if robot not in ("HalfCheetah", "Swimmer")]


def first_family(robot: str) -> str:
    return next(env_id for env_id, (other, _) in FAMILIES.items() if other == robot)


def draw_actions(space: gym.spaces.Box, n_steps: int, n_columns: int, seed: int = 0) -> np.ndarray:
    """Gaussian actions, many of them outside of the box; the last column's are small."""
    scale = space.high * np.linspace(1.5, 0.1, n_columns)[:, None]
    return (np.random.default_rng(seed).normal(size=(n_steps, n_columns, *space.shape)) * scale).astype(np.float32)


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
        ({"task": "fly"}, "task must be one of"),
        ({"task": "velocity", "task_range": (1.0, 1.0)}, "low < high"),
        ({"task_range": (0.0, 1.0)}, "task_range must be None"),
        ({"action_bound": 0.0}, "action_bound must be positive"),
    ],
)
def test_invalid_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        gym.make("HalfCheetahDir-v0", **kwargs)


@needs_batch
def test_invalid_number_of_threads_is_refused():
    with pytest.raises(ValueError, match="n_threads must be at least 1"):
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
def test_a_pickled_batch_keeps_its_robots():
    env = gym.make_vec("HopperRandParams-v0", num_envs=3)
    env.set_tasks(env.sample_tasks(3, np.random.default_rng(0)))
    env.reset(seed=0)
    copy = pickle.loads(pickle.dumps(env))
    for action in draw_actions(env.single_action_space, 5, 3):
        np.testing.assert_array_equal(env.step(action)[0], copy.step(action)[0])


@needs_batch
def test_the_robot_of_a_task_is_no_edit():
    task_env = TaskDistEnv("HopperRandParams-v0")
    task_env.reset(seed=0)
    assert edited_model_fields(task_env) == []
    task_env.unwrapped.model.opt.gravity[2] = -5
    assert edited_model_fields(task_env) == ["opt.gravity"]

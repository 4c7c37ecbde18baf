"""Families on MuJoCo models of one's own: both forms agree, and a checker says where they do not."""

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
from own_robots import ARM, PLACE, RICH, Arm, arm, rich
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from toys import assert_same, state, tiny

from sb3_sgmrl import SGMRL, TaskDistEnv, check_family
from sb3_sgmrl.envs.mujoco_batch import MujocoTaskVectorEnv
from sb3_sgmrl.envs.mujoco_registry import FAMILIES
from sb3_sgmrl.envs.mujoco_single import MujocoTaskEnv
from sb3_sgmrl.vec_env.engines import as_task_vec_env


class Sharing(Arm):
    """The distance is computed once per step, for the reward and the end."""

    def distance(self, state, tasks):
        if "distance" not in state.cache:
            state.cache["distance"] = -super().reward(state, None, tasks)
        return state.cache["distance"]

    def reward(self, state, controls, tasks):
        return -self.distance(state, tasks)

    def terminated(self, state, tasks):
        return self.distance(state, tasks) < 0.05


@needs_batch
@pytest.mark.parametrize("make", [arm, rich, lambda: rich(action_bound=2.0, keyframe=None), lambda: arm(Sharing)])
def test_both_forms_of_an_own_family_agree(make):
    check_family(make())


@needs_batch
@pytest.mark.parametrize("robot", ["Ant-AntVel-v0", "Hopper-HopperRandParams-v0", "Humanoid-HumanoidGoal-v0"])
def test_the_checker_knows_the_registered_robots(robot):
    env_id = robot.split("-", 1)[1]
    assert env_id in FAMILIES
    check_family(gym.make(env_id).unwrapped.family, n_steps=40)


class RandomReward(Arm):
    def reward(self, state, controls, tasks):
        return np.random.default_rng().random(len(tasks))


class MeanReward(Arm):
    def reward(self, state, controls, tasks):
        return state.qpos[:, 0] - state.qpos[:, 0].mean()


class FirstTask(Arm):
    def reward(self, state, controls, tasks):
        return super().reward(state, controls, np.broadcast_to(tasks[0], tasks.shape))


class MixedObservation(Arm):
    def observe(self, state):
        return np.concatenate([state.qpos, state.qvel[::-1]], axis=1)


class EndsTogether(Arm):
    def terminated(self, state, tasks):
        return np.broadcast_to((np.abs(state.qpos[:, 0]) > 0.3).any(), len(tasks)).copy()


class MixedModels(Arm):
    def model_values(self, tasks):
        return {name: value[::-1] for name, value in super().model_values(tasks).items()}


@needs_batch
@pytest.mark.parametrize(
    ("cls", "where"),
    [
        (RandomReward, "reward, column 0, step 1: "),
        (MeanReward, "reward, column 0, step 1: 0.0 and "),
        (FirstTask, "reward, column 1, step 1: "),
        (MixedObservation, r"observation\[2\], column 0, step 0: "),
        (EndsTogether, "terminated, column 0, step "),
        (MixedModels, r"the model's body_mass\[3\], column 0, step 0: "),
    ],
)
def test_the_checker_names_what_differs(cls, where):
    factors = {"body_mass": {"payload": (0.5, 2.0)}}
    with pytest.raises(ValueError, match=f"The single and the batched form of {cls.__name__} differ in {where}"):
        check_family(arm(cls, factors=factors))


class BadReward(Arm):
    def reward(self, state, controls, tasks):
        return np.where(state.qpos[:, 0] == 0, super().reward(state, controls, tasks), np.nan)


class BadObservation(Arm):
    def observe(self, state):
        return np.full_like(super().observe(state), np.inf)


@needs_batch
@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (BadReward, "reward of BadReward must be finite, got nan, column 0, step 1"),
        (BadObservation, "observation of BadObservation must be finite, got inf, column 0, step 0"),
    ],
)
def test_the_checker_names_what_is_not_finite(cls, words):
    with pytest.raises(ValueError, match=words):
        check_family(arm(cls))


@needs_batch
def test_the_checker_names_an_unstable_simulation(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # for MUJOCO_LOG.TXT
    strong = {"actuator_gear": {"elbow": ([1e9] + [0] * 5, [1e10] + [0] * 5)}}
    with pytest.raises(ValueError, match=r"simulation of Arm is unstable .* column 0, step \d+: use a smaller time step"):
        check_family(arm(values=strong))


@needs_batch
def test_every_engine_gives_the_same():
    family = rich()
    family.register("OwnRich-v0", max_episode_steps=12)
    trained = []
    for settings in ({"engine": "batched"}, {"engine": "in_process"}, {"engine": "subprocess", "n_envs": 3}):
        model = tiny(SGMRL, TaskDistEnv("OwnRich-v0"), **settings).learn(200)
        trained.append(state(model))
        model.env.close()
    assert_same(trained[0], trained[1])
    assert_same(trained[0], trained[2])


@needs_batch
def test_both_forms_can_be_pickled():
    family = rich()
    batched, actions = MujocoTaskVectorEnv(3, family, 30), draw_actions(family.action_space, 40, 3)
    batched.set_tasks(family.sample_tasks(3, np.random.default_rng(0)))
    batched.reset(seed=1)
    for action in actions[:10]:
        batched.step(action)
    copy = pickle.loads(pickle.dumps(batched))
    for action in actions[10:]:
        for ours, theirs in zip(batched.step(action)[:4], copy.step(action)[:4], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    family.register("OwnPickled-v0", max_episode_steps=30)
    env = gym.make("OwnPickled-v0")
    env.unwrapped.set_task(batched.tasks[0])
    copy = pickle.loads(pickle.dumps(env))
    np.testing.assert_array_equal(copy.unwrapped.get_task(), batched.tasks[0])
    np.testing.assert_array_equal(copy.reset(seed=4)[0], env.reset(seed=4)[0])
    # a copy still has its batched form
    assert as_task_vec_env(pickle.loads(pickle.dumps(TaskDistEnv(env))), engine="batched").num_envs > 1


@pytest.mark.filterwarnings("ignore:.*(infinity|symmetric and normalized).*")
def test_the_single_form_passes_the_checkers_of_others():
    for family in (arm(), rich(keyframe=None)):
        gymnasium_check_env(MujocoTaskEnv(family), skip_render_check=True)
        sb3_check_env(MujocoTaskEnv(family), warn=False, skip_render_check=True)


@needs_batch
def test_a_model_edited_by_hand_is_refused():
    arm().register("OwnEdited-v0", max_episode_steps=20)
    env = TaskDistEnv("OwnEdited-v0")
    env.unwrapped.model.dof_damping[0] = 7.0
    with pytest.raises(ValueError, match=r"was edited \(dof_damping\)"):
        as_task_vec_env(env)


def test_an_id_can_be_registered_again_but_not_taken_from_others():
    arm().register("OwnAgain-v0", max_episode_steps=20)
    arm().register("OwnAgain-v0", max_episode_steps=30)
    assert gym.make("OwnAgain-v0").spec.max_episode_steps == 30
    with pytest.raises(ValueError, match="`env_id` must be one that is not registered for something else, got 'CartPole-v1'"):
        arm().register("CartPole-v1", max_episode_steps=30)
    with pytest.raises(ValueError, match="`max_episode_steps` must be a positive integer, got 0"):
        arm().register("OwnAgain-v0", max_episode_steps=0)


# ---------------------------------------------------------------- what the functions read


def test_positions_of_sites_are_those_of_the_state_after_the_step():
    env = MujocoTaskEnv(arm())
    env.reset(seed=0)
    observation, reward, *_ = env.step(np.ones(2))
    data = mujoco.MjData(env.model)
    data.qpos[:] = observation[:2]
    mujoco.mj_kinematics(env.model, data)
    assert reward == -np.square(data.site("tip").xpos[:2]).sum()


@needs_batch
def test_what_is_read_cannot_be_written_to():
    class Writes(Arm):
        def reward(self, state, controls, tasks):
            state.qpos[:, 0] -= 1.0
            return state.qpos[:, 0]

    for make in (MujocoTaskEnv, lambda family: MujocoTaskVectorEnv(3, family)):
        with pytest.raises(ValueError, match="read-only"):
            make(arm(Writes))


def test_sensors_are_observed_by_their_names():
    env = MujocoTaskEnv(Arm(RICH, task_space=PLACE, sensors=["imu", "tip"]))
    observation, _ = env.reset(seed=0)
    expected = [env.data.qpos, env.data.qvel, env.data.sensor("imu").data, env.data.sensor("tip").data]
    np.testing.assert_array_equal(observation, np.concatenate(expected))
    assert env.observation_space.shape == observation.shape


# ---------------------------------------------------------------- pictures

RENDER = """
import sys
import mujoco, numpy as np
try:
    context = mujoco.GLContext(64, 64)
    context.make_current()
except Exception:
    sys.exit(77)
context.free()
import gymnasium as gym
from gymnasium import spaces
from sb3_sgmrl import MujocoFamily

class Arm(MujocoFamily):
    def reward(self, state, controls, tasks):
        return -np.square(state.site("tip")[:, :2] - tasks).sum(axis=1)

Arm(sys.argv[1], frame_skip=5, task_space=spaces.Box(-0.5, 0.5, (2,))).register("OwnPicture-v0", max_episode_steps=50)
kwargs = dict(render_mode="rgb_array", width=64, height=64, camera_name="above")
env, vector = gym.make("OwnPicture-v0", **kwargs), gym.make_vec("OwnPicture-v0", num_envs=2, **kwargs)
env.reset(seed=0)
vector.reset(seed=0)
start = env.render()
for _ in range(10):
    env.step(np.ones(2))
    vector.step(np.ones((2, 2)))
picture = env.render()
np.testing.assert_array_equal(vector.render()[0], picture)
assert picture.shape == (64, 64, 3) and (picture != start).any()
"""


@needs_batch
def test_both_forms_are_rendered():
    platform = {"MUJOCO_GL": "egl"} if sys.platform == "linux" else {}
    command = [sys.executable, "-c", RENDER, str(ARM)]
    run = subprocess.run(command, env={**os.environ, **platform}, capture_output=True, text=True)
    if run.returncode == 77:
        pytest.skip("no OpenGL")
    assert run.returncode == 0, run.stderr

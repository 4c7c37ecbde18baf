"""Copies of one environment: that disturb each other, that are no copies, and whose tasks make no difference."""

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import make_vec_env
from toys import PointEnv, assert_same, point, state, tiny

from sb3_sgmrl import MAML, TaskDistEnv
from sb3_sgmrl.vec_env.clones import make_task_vec_env

MASSES = spaces.Box(0.5, 5.0, (), np.float64)
REFUSED = r"cannot be copied to 3 workers \({}.*pass make_vec_env\(.*or --vec-env dummy on the command line\.$"


class Ball(gym.Env):
    """Plays in a world of a simulator, of which it knows the number only."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    worlds: dict = {}  # noqa: RUF012  # as in a library written in C

    def __init__(self):
        self.client, self.mass = len(self.worlds), 1.0
        self.worlds[self.client] = np.zeros(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.worlds[self.client][:] = 0
        return self.worlds[self.client].astype(np.float32), {}

    def step(self, action):
        world = self.worlds[self.client]
        world[1] += 0.1 * float(action[0]) / self.mass
        world[0] += world[1]
        return world.astype(np.float32), float(world[0]), False, False, {}

    def close(self):
        self.worlds.pop(self.client, None)


class Told(Ball):
    """All worlds have one mass, that of the task told last."""

    mass_of_all = [1.0]  # noqa: RUF012

    def __getstate__(self):
        return {}

    def __setstate__(self, state):
        self.__init__()

    def tell(self, task):
        self.mass_of_all[0] = float(task)

    def step(self, action):
        self.mass = self.mass_of_all[0]
        return super().step(action)


class Connected(PointEnv):
    """Plays by itself, but ends the connection that all copies have when it is closed."""

    connected = [True]  # noqa: RUF012

    def step(self, action):
        if not self.connected[0]:
            raise ConnectionError("not connected")
        return super().step(action)

    def close(self):
        self.connected[0] = False


def ball():
    return TaskDistEnv(TimeLimit(Ball(), 10), task_space=MASSES, set_task="mass")


def test_copies_that_play_in_one_world_are_refused_and_the_environment_lives():
    env = ball()
    with pytest.raises(ValueError, match=REFUSED.format("what one copy plays changes another one")):
        make_task_vec_env(env, 3)
    env.reset(seed=0)
    env.step(np.zeros(1, np.float32))  # nobody has closed its world
    tiny(MAML, make_vec_env(ball, 2)).learn(1)  # what is advised


def test_a_task_that_all_copies_share_is_refused():
    env = TaskDistEnv(TimeLimit(Told(), 10), task_space=MASSES, set_task=Told.tell)
    with pytest.raises(ValueError, match=REFUSED.format("what one copy plays changes another one")):
        make_task_vec_env(env, 3)


def test_copies_that_are_closed_together_are_refused():
    with pytest.raises(ValueError, match=REFUSED.format("closing one copy closes another one")):
        make_task_vec_env(TaskDistEnv(TimeLimit(Connected(), 5)), 3)


def test_noise_that_all_draw_from_one_generator_is_no_simulator():
    class Noisy(PointEnv):
        def reset(self, *, seed=None, options=None):
            np.random.seed(seed)
            return super().reset(seed=seed)

        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, reward + np.random.normal(), *rest

    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    assert make_task_vec_env(TaskDistEnv(TimeLimit(Noisy(), 5)), 3).num_envs == 3
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_episodes_that_are_never_the_same_are_warned_of():
    class Drifting(PointEnv):
        n = 0

        def reset(self, *, seed=None, options=None):
            self.n += 1
            return super().reset(seed=seed)

        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, reward * self.n, *rest

    with pytest.warns(UserWarning, match="`env` plays different episodes with the same task, seed and actions"):
        make_task_vec_env(TaskDistEnv(TimeLimit(Drifting(), 5)), 2)


# Tasks without effect


def nothing(env, task):
    env.nobody_reads_this = task


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: TaskDistEnv("CartPole-v1", task_space=MASSES, set_task="masscart"), "`set_task` may have no effect: 5 tasks"),
        (lambda: TaskDistEnv(TimeLimit(PointEnv(), 5), tasks=["a", "b"], set_task=nothing), "no effect: 2 tasks"),
        (
            lambda: TaskDistEnv(
                "CartPole-v1",
                task_space=spaces.Box(np.array([0.5, 0.05]), np.array([2.0, 0.5]), dtype=np.float64),
                set_task=("masscart", "masspole"),
            ),
            r"may ignore a part of the task: other values at index 0 \(counted from 0\)",
        ),
    ],
)
def test_tasks_that_make_no_difference_are_warned_of(make, match):
    with pytest.warns(UserWarning, match=match):
        make_task_vec_env(make(), 2)


@pytest.mark.parametrize("env_id", ["Navigation2D-v0", "BernoulliBandit-v0", "TabularMDP-v0", "HalfCheetahDir-v0"])
def test_registered_families_are_not_warned_of(env_id):
    """A warning is an error in the tests."""
    make_task_vec_env(TaskDistEnv(env_id), 2)


def test_large_objects_are_announced_and_arrays_are_not():
    def heavier(env, task):
        env.goal = np.full(2, len(task["series"]) / 1e5 if isinstance(task, dict) else task[0])

    large = [{"series": list(range(n))} for n in (5000, 6000)]
    with pytest.warns(UserWarning, match="Tasks of `env` are large objects that are copied for every episode"):
        make_task_vec_env(TaskDistEnv(TimeLimit(PointEnv(), 5), tasks=large, set_task=heavier), 2)
    arrays = [np.zeros(100_000), np.ones(100_000)]
    make_task_vec_env(TaskDistEnv(TimeLimit(PointEnv(), 5), tasks=arrays, set_task=heavier), 2)


# MuJoCo without EzPickle

ARM = """<mujoco><worldbody><body name="arm"><joint name="j" type="hinge" axis="0 1 0"/>
<geom type="capsule" fromto="0 0 0 0 0 1" size="0.05"/></body></worldbody>
<actuator><motor joint="j" ctrlrange="-1 1"/></actuator></mujoco>"""


class Arm(MujocoEnv):
    """Truncates itself."""

    metadata = {"render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"], "render_fps": 250}  # noqa: RUF012

    def __init__(self, path):
        super().__init__(str(path), 2, spaces.Box(-np.inf, np.inf, (2,), np.float64))
        self.n_played = 0

    def reset_model(self):
        self.n_played = 0
        self.set_state(self.init_qpos + self.np_random.uniform(-0.1, 0.1, 1), self.init_qvel)
        return self._observe()

    def step(self, action):
        self.do_simulation(action, self.frame_skip)
        self.n_played += 1
        return self._observe(), -abs(float(self.data.qpos[0])), False, self.n_played >= 8, {}

    def _observe(self):
        return np.concatenate([self.data.qpos, self.data.qvel])


def set_mass(env, task):
    env.model.body_mass[1] = float(task)


def test_a_mujoco_environment_without_ezpickle_is_copied_with_its_edits(tmp_path):
    (tmp_path / "arm.xml").write_text(ARM)

    def make():
        env = TaskDistEnv(Arm(tmp_path / "arm.xml"), task_space=MASSES, set_task=set_mass, horizon=8)
        env.unwrapped.model.dof_damping[0] = 3.0
        return env

    env = make()
    clones = tiny(MAML, env).learn(1)
    assert [worker.unwrapped.model.dof_damping[0] for worker in clones.env.envs] == [3.0] * clones.env.num_envs
    assert_same(state(clones), state(tiny(MAML, make_vec_env(make, 2)).learn(1)))
    assert isinstance(env.unwrapped.model, mujoco.MjModel) and env.horizon == 8


def test_a_horizon_ends_episodes():
    limited = tiny(MAML, TaskDistEnv(PointEnv(), horizon=5)).learn(1)
    assert_same(state(limited), state(tiny(MAML, point(5)).learn(1)))
    assert TaskDistEnv(TimeLimit(PointEnv(), 4), horizon=6).horizon == 4
    with pytest.raises(ValueError, match="`horizon` must be a positive integer, got 0"):
        TaskDistEnv(PointEnv(), horizon=0)

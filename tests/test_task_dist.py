"""TaskDistEnv: where tasks come from, which task an episode has, and life among other wrappers."""

import copy
import pickle
import re
import threading
import time
from pathlib import Path
from typing import NamedTuple

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as check_gymnasium_env
from gymnasium.wrappers import FrameStackObservation, TimeLimit
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from stable_baselines3.common.env_checker import check_env as check_sb3_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_sgmrl.envs import register_envs
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv

GRAVITY = spaces.Box(5.0, 15.0, (1,))
GUIDE = Path(__file__).parents[1] / "docs" / "guide" / "task_distributions.md"


class Point(gym.Env):
    """Walks on a plane; every observation and reward shows the goal in force, episodes end after ``length`` steps."""

    def __init__(self, length: int = 3, render_mode: str | None = None):
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.goal = np.zeros(2)
        self.speed = 1.0
        self.length = length
        self.render_mode = render_mode
        self.closed = False
        self.n_steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if options:
            self.goal = np.asarray(options["goal"])
        self.t = 0
        self.place = self.np_random.normal(size=2)
        return np.concatenate([self.place, self.goal]), {}

    def step(self, action):
        self.t += 1
        self.n_steps += 1
        self.place = self.place + self.speed * action
        reward = -float(np.linalg.norm(self.place - self.goal))
        return np.concatenate([self.place, self.goal]), reward, self.t >= self.length, False, {}

    def close(self):
        self.closed = True


class OwnTasks(Point):
    """A point with tasks of its own, and no declared space of them."""

    def sample_tasks(self, n, rng):
        return rng.uniform(-1.0, 1.0, (n, 2))

    def set_task(self, task):
        if np.shape(task) != (2,):
            raise ValueError(f"task must have shape (2,), got {np.shape(task)}.")
        self.goal = task

    def get_task(self):
        return self.goal


class Wrong(OwnTasks):
    """One of its methods is not what it should be."""

    def __init__(self, name, method):
        super().__init__()
        setattr(self, name, method)


class ScaledReward(gym.Wrapper):
    """Has an attribute that the base environment lacks."""

    scale = 1.0


class Named(NamedTuple):
    """A task that is not a number."""

    name: str
    goal: tuple[float, float]


class Opaque:
    """A task that can be compared by identity only."""

    def __init__(self, name: str):
        self.name = name


NAMED = [Named("east", (1.0, 0.0)), Named("west", (-1.0, 0.0)), Named("north", (0.0, 1.0))]


def set_goal(env, task):
    env.goal = np.array(task.goal)


def set_length(env, task):
    env.length = 1 + int(task * 20)


def pendulum(**kwargs) -> TaskDistEnv:
    return TaskDistEnv("Pendulum-v1", task_space=GRAVITY, set_task="g", **kwargs)


def envs_of_lengths() -> TaskDistEnv:
    return TaskDistEnv([lambda: Point(1), lambda: Point(2), Point(3)])


register_envs()

MAKERS = {
    "space, attribute": pendulum,
    "list, callable": lambda: TaskDistEnv("CartPole-v1", tasks=[0.3, 0.5, 0.7], set_task=set_length),
    "list of things": lambda: TaskDistEnv(Point, tasks=NAMED, set_task=set_goal),
    "own": lambda: TaskDistEnv(OwnTasks()),
    "own on a wrapper": lambda: TaskDistEnv(FrameStackObservation(OwnTasks(), 2)),
    "options": lambda: TaskDistEnv(Point, task_space=spaces.Box(-1, 1, (2,)), set_task=lambda env, task: {"goal": task}),
    "family": lambda: TaskDistEnv("Navigation2D-v0"),
    "environments": envs_of_lengths,
    "environments by id": lambda: TaskDistEnv(["CartPole-v1", "CartPole-v1"], max_episode_steps=7),
}
any_source = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def play(env, n_episodes=1):
    """Tasks of the following episodes, as the infos tell them."""
    tasks = []
    for _ in range(n_episodes):
        _, info = env.reset()
        tasks.append(info["task"])
        *_, info = env.step(env.action_space.sample())
        np.testing.assert_equal(info["task"], tasks[-1])
    return tasks


def same(a, b):
    return pickle.dumps(a) == pickle.dumps(b)


# Every source of tasks


@any_source
@pytest.mark.filterwarnings("ignore")
def test_passes_the_environment_checkers(make):
    check_gymnasium_env(make(), skip_render_check=True)
    check_sb3_env(make())


@any_source
def test_reset_draws_tasks_that_the_seed_determines(make):
    env, other = make(), make()
    runs = []
    for one, seed in ((env, 3), (other, 3), (env, 3), (env, 4)):
        observation, info = one.reset(seed=seed)
        runs.append((observation.tolist(), info["task"], play(one, 8), [one.reset()[0].tolist() for _ in range(2)]))
    assert same(runs[0], runs[1]) and same(runs[0], runs[2])
    assert not same(runs[0], runs[3])
    assert len({pickle.dumps(task) for task in runs[0][2]}) > 1


@any_source
def test_pin_and_release(make):
    env = make()
    env.reset(seed=0)
    first, second = env.sample_tasks(40, 0)[:2], env.sample_tasks(40, 1)[-1]
    for task in (first[0], second):
        env.set_task(task)
        assert same(env.get_task(), task)
        assert all(same(played, task) for played in play(env, 3))
        assert same(env.reset(seed=5)[1]["task"], task)
    env.set_task(None)
    assert len({pickle.dumps(task) for task in play(env, 20)}) > 1


@any_source
def test_a_pinned_task_survives_copies(make):
    env = make()
    env.reset(seed=0)
    task = env.sample_tasks(3, 7)[2]
    env.set_task(task)
    copies = [copy.deepcopy(env), cloudpickle.loads(cloudpickle.dumps(env))]
    original = env.reset(seed=11)[0]
    for other in copies:
        assert same(other.get_task(), task)
        observation, info = other.reset(seed=11)
        assert same(info["task"], task)
        np.testing.assert_array_equal(observation, original)
        other.set_task(None)
    assert same(env.get_task(), task)


@any_source
def test_sample_tasks(make):
    env = make()
    env.reset(seed=0)
    assert same(env.sample_tasks(5, 2), env.sample_tasks(5, np.random.default_rng(2)))
    assert not same(env.sample_tasks(5, [2, 3]), env.sample_tasks(5, [2, 4]))
    assert not same(env.sample_tasks(20), env.sample_tasks(20))
    assert same(env.sample_tasks(5, 2), env.sample_tasks(5, 2, split="test"))
    assert not env.has_test_tasks
    features = [env.task_features(task) for task in env.sample_tasks(5, 2)]
    assert all(f.dtype == np.float64 and f.shape == features[0].shape and f.ndim == 1 for f in features)
    for n in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=r"n, the number of tasks, must be a positive integer"):
            env.sample_tasks(n, 0)
    with pytest.raises(ValueError, match='split must be "train" or "test"'):
        env.sample_tasks(1, 0, split="valid")


@any_source
def test_schedule_names_episodes(make):
    env, reference = make(), make()
    env.reset(seed=0)
    tasks = env.sample_tasks(3, 4)
    schedule = [(task, 100 + i) for i, task in enumerate(tasks)]
    env.set_schedule(schedule)
    for task, seed in schedule:
        observation, info = env.reset(seed=1234)
        assert same(info["task"], task) and same(env.get_task(), task) and "idle" not in info
        reference.set_task(task)
        np.testing.assert_array_equal(observation, reference.reset(seed=seed)[0])
    observation, info = env.reset()
    assert info["idle"]
    for _ in range(30):
        again, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert info["idle"] and same(info["task"], tasks[-1]) and (reward, terminated, truncated) == (0.0, False, False)
        np.testing.assert_array_equal(again, observation)
    env.set_schedule(None)
    assert "idle" not in env.reset()[1]
    assert len({pickle.dumps(task) for task in play(env, 20)}) > 1


@any_source
def test_under_monitor_in_a_vec_env(make):
    vec_env = make_vec_env(make, n_envs=2, seed=0)
    vec_env.reset()
    assert vec_env.env_is_wrapped(TaskDistEnv) == [True, True]
    task = vec_env.env_method("sample_tasks", 1, 5, indices=0)[0][0]
    vec_env.env_method("set_task", task)
    vec_env.reset()
    for _ in range(30):
        *_, infos = vec_env.step(np.stack([vec_env.action_space.sample() for _ in range(2)]))
        assert all(same(info["task"], task) for info in infos)


# What tasks do


@pytest.mark.parametrize("g", [6.0, 14.0])
def test_the_task_acts_on_the_dynamics(g):
    env, reference = pendulum(), gym.make("Pendulum-v1", g=g)
    env.set_task(g)
    env.reset(seed=1)
    reference.reset(seed=1)
    for _ in range(5):
        action = env.action_space.sample()
        observation, reward, *_ = env.step(action)
        expected, expected_reward, *_ = reference.step(action)
        np.testing.assert_array_equal(observation, expected)
        assert reward == expected_reward


def test_set_task_acts_at_once():
    env = pendulum()
    env.reset(seed=0)
    env.set_task([7])
    assert env.unwrapped.g == 7.0 and isinstance(env.unwrapped.g, float)
    assert env.step(env.action_space.sample())[4]["task"] == 7.0


def test_attributes_take_numbers_and_arrays_in_their_own_shape():
    env = TaskDistEnv(Point, task_space=spaces.Box(0, 1, (2,)), set_task="goal")
    env.set_task([0.25, 0.5])
    np.testing.assert_array_equal(env.unwrapped.goal, [0.25, 0.5])
    env = TaskDistEnv(Point, task_space=spaces.Box(0, 9, (2,), np.float64), set_task=("speed", "length"))
    env.set_task((0.5, 4))
    assert (env.unwrapped.speed, env.unwrapped.length) == (0.5, 4)
    env = TaskDistEnv(Point, task_space=spaces.Discrete(4, start=1), set_task="length")
    env.set_task(np.int64(4))
    assert env.unwrapped.length == 4 and env.get_task() == 4


def test_an_attribute_that_reset_overwrites_is_an_error():
    class Forgetful(Point):
        def reset(self, **kwargs):
            self.speed = 1.0
            return super().reset(**kwargs)

    env = TaskDistEnv(Forgetful, tasks=[2.0, 3.0], set_task="speed")
    with pytest.raises(RuntimeError, match="'speed', which reset of Forgetful overwrites"):
        env.reset()


def test_options_of_the_task_join_those_of_the_caller():
    seen = []

    class Recorder(Point):
        def reset(self, *, seed=None, options=None):
            seen.append(options)
            return super().reset(seed=seed)

    env = TaskDistEnv(Recorder, tasks=[1, 2], set_task=lambda env, task: {"level": task})
    env.set_task(2)
    env.reset(options={"level": 0, "other": 1})
    assert seen == [{"level": 2, "other": 1}]
    env = TaskDistEnv(Recorder, tasks=[1, 2], set_task="length")
    env.reset()
    assert seen[1] is None


def test_own_tasks():
    env = TaskDistEnv(OwnTasks())
    assert env.sets_own_tasks and env.task_space is None
    np.testing.assert_array_equal(env.get_task(), np.zeros(2))
    with pytest.raises(ValueError, match=r"task must have shape \(2,\)"):
        env.set_task([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(env.get_task(), np.zeros(2))
    # A narrower distribution over the tasks of an environment.
    env = TaskDistEnv(OwnTasks(), tasks=[[0.0, 1.0], [1.0, 0.0]])
    assert {tuple(task) for task in play(env, 20)} == {(0.0, 1.0), (1.0, 0.0)}
    assert env.sets_own_tasks and not pendulum().sets_own_tasks


def test_an_own_sampler_is_checked():
    class Short(OwnTasks):
        def sample_tasks(self, n, rng):
            return super().sample_tasks(n - 1, rng)

    class Wild(OwnTasks):
        task_space = spaces.Box(-1, 1, (2,))

        def sample_tasks(self, n, rng):
            return [np.array([0.0, 2.0])] * n

    with pytest.raises(ValueError, match="must return 3 tasks, got 2"):
        TaskDistEnv(Short()).sample_tasks(3, 0)
    with pytest.raises(ValueError, match=r"Task array\(\[0., 2.\]\) of shape \(2,\) is not in the task space Box"):
        TaskDistEnv(Wild()).sample_tasks(3, 0)


def test_an_own_space_is_enough():
    class Spaced(OwnTasks):
        sample_tasks = None
        task_space = spaces.Box(-1, 1, (2,), np.float64)

    env = TaskDistEnv(Spaced())
    assert all(task in Spaced.task_space for task in play(env, 5))


def test_float64_tasks_keep_their_precision_in_a_float32_space():
    task = np.array([1 / 3, 2 / 3])
    env = TaskDistEnv(OwnTasks(), task_space=spaces.Box(-1, 1, (2,)))
    env.set_task(task)
    np.testing.assert_array_equal(env.unwrapped.goal, task)
    np.testing.assert_array_equal(env.task_features(task), task)


def test_nothing_a_person_holds_is_the_task_itself():
    env = TaskDistEnv(OwnTasks())
    task = np.array([0.5, 0.5])
    env.set_task(task)
    task[:] = 9
    env.get_task()[:] = 9
    _, info = env.reset()
    info["task"][:] = 9
    env.unwrapped.goal[:] = 9
    *_, info = env.step(env.action_space.sample())
    np.testing.assert_array_equal(info["task"], [0.5, 0.5])
    np.testing.assert_array_equal(env.reset()[1]["task"], [0.5, 0.5])


# Finite lists


def test_weights():
    env = TaskDistEnv(Point, tasks=[1, 2, 3], weights=[3, 0, 1], set_task="length")
    counts = np.bincount(env.sample_tasks(2000, 0), minlength=4)
    assert counts[2] == 0 and 1400 < counts[1] < 1600


def test_split():
    def make(seed):
        return TaskDistEnv(Point, tasks=list(range(1, 11)), set_task="length", split=0.3, split_seed=seed)

    train, test = (set(make(0).sample_tasks(200, 0, split)) for split in ("train", "test"))
    assert len(test) == 3 and train | test == set(range(1, 11)) and not train & test
    assert set(make(0).sample_tasks(200, 5, "test")) == test
    assert any(set(make(seed).sample_tasks(200, 0, "test")) != test for seed in range(1, 4))
    assert make(0).has_test_tasks
    assert set(play(make(0), 100)) == train
    held_out = TaskDistEnv([Point] * 4, split=0.5)
    assert not set(held_out.sample_tasks(50, 0)) & set(held_out.sample_tasks(50, 0, "test"))


def test_each_listed_test_task_is_drawn_once_before_any_is_drawn_twice():
    env = TaskDistEnv(Point, tasks=[1, 2], test_tasks=[3, 4, 5, 6], set_task="length")
    for seed in range(5):
        drawn = env.sample_tasks(6, seed, "test")
        assert set(drawn[:4]) == {3, 4, 5, 6} and len(set(drawn[4:])) == 2


def test_test_tasks_beyond_the_training_space():
    listed = pendulum(test_tasks=[18.0, [20.0]])
    spaced = pendulum(test_tasks=spaces.Box(18.0, 20.0, (1,)))
    for env in (listed, spaced):
        assert all(float(task[0]) >= 18 for task in env.sample_tasks(8, 0, "test"))
        assert all(float(task[0]) <= 15 for task in env.sample_tasks(8, 0))
        env.set_task(20.0)
        assert env.reset()[1]["task"] == 20.0
        with pytest.raises(ValueError, match=r"Task 16\.0"):
            env.set_task(16.0)


def test_numeric_lists_admit_new_tasks_of_their_shape():
    env = TaskDistEnv(Point, tasks=[[0.0, 1.0], [1.0, 0.0]], set_task="goal")
    env.set_task([0.5, 0.5])
    np.testing.assert_array_equal(env.unwrapped.goal, [0.5, 0.5])
    np.testing.assert_array_equal(env.task_features([0.5, 0.25]), [0.5, 0.25])
    with pytest.raises(ValueError, match=r"\[0.5\] of shape \(1,\) is not numeric and of shape \(2,\)"):
        env.set_task([0.5])


def test_features():
    assert pendulum().task_features(7.5).tolist() == [7.5]
    things = TaskDistEnv(Point, tasks=NAMED[:2], test_tasks=NAMED[2:], set_task=set_goal)
    assert [things.task_features(task).tolist() for task in NAMED] == np.eye(3).tolist()
    assert envs_of_lengths().task_features(1).tolist() == [0.0, 1.0, 0.0]
    space = spaces.Dict(goal=spaces.Box(-1, 1, (2,)), mode=spaces.Discrete(2))
    env = TaskDistEnv(Point, task_space=space, set_task=lambda env, task: setattr(env, "goal", task["goal"]))
    np.testing.assert_allclose(env.task_features({"goal": [0.5, -0.5], "mode": 1}), [0.5, -0.5, 0.0, 1.0])
    tasks = [Opaque("a"), Opaque("b")]
    env = TaskDistEnv(Point, tasks=tasks, set_task=lambda env, task: None)
    back_from_a_process = pickle.loads(pickle.dumps(tasks[1]))
    assert env.task_features(back_from_a_process).tolist() == [0.0, 1.0]


# A list of environments


def test_members_are_switched_reset_and_closed():
    members = [gym.make("CartPole-v1", render_mode="rgb_array") for _ in range(3)]
    env = TaskDistEnv(members)
    for task in (2, 0, 1, 1):
        env.set_task(task)
        env.reset(seed=0)
        assert env.env is members[task]
        env.step(env.action_space.sample())
        assert env.render().ndim == 3
    assert env.spec is None and env.horizon == 500
    points = [Point(), Point()]
    TaskDistEnv(points).close()
    assert all(point.closed for point in points)


def test_one_seed_seeds_every_member():
    starts = []
    for _ in range(2):
        env = envs_of_lengths()
        env.reset(seed=8)
        starts.append([env.reset()[0].tolist() for _ in range(20)])
    assert starts[0] == starts[1]
    assert len({tuple(start) for start in starts[0]}) == 20


def test_pinning_a_member_waits_for_the_reset():
    env = envs_of_lengths()
    env.set_task(1)
    env.reset()
    env.set_task(2)
    assert env.step(env.action_space.sample())[4]["task"] == 1
    assert env.get_task() == 2 and env.reset()[1]["task"] == 2


# Schedules


def test_a_worker_plays_its_schedule_without_a_word_from_outside_and_then_idles():
    vec_env = DummyVecEnv([lambda: Monitor(TaskDistEnv(OwnTasks(length=3)))] * 2)
    vec_env.reset()
    tasks = vec_env.env_method("sample_tasks", 3, 0, indices=0)[0]
    vec_env.env_method("set_schedule", [(tasks[0], 1), (tasks[1], 2)], indices=0)
    vec_env.env_method("set_schedule", [(tasks[2], 3)], indices=1)
    before = [env.unwrapped.n_steps for env in vec_env.envs]
    vec_env.reset()
    episodes = [[], []]
    for _ in range(10):
        _, rewards, dones, infos = vec_env.step(np.ones((2, 2), np.float32))
        for i in range(2):
            if dones[i]:
                episodes[i].append((infos[i]["task"].tolist(), infos[i]["episode"]["l"]))
            assert not infos[i].get("idle") or (rewards[i] == 0 and not dones[i])
    assert episodes == [[(tasks[0].tolist(), 3), (tasks[1].tolist(), 3)], [(tasks[2].tolist(), 3)]]
    assert [env.unwrapped.n_steps for env in vec_env.envs] == [before[0] + 6, before[1] + 3]
    assert all(info["idle"] for info in infos)


def test_idle_lasts_until_the_next_real_reset():
    env = TaskDistEnv(OwnTasks())
    env.set_schedule([])
    observation, info = env.reset()
    assert info["idle"] and observation.shape == (4,)
    env.set_schedule([(np.ones(2), 1)])
    assert env.step(env.action_space.sample())[4]["idle"]
    assert "idle" not in env.reset()[1]
    assert "idle" not in env.step(env.action_space.sample())[4]


def test_a_schedule_and_a_pinned_task_do_not_mix():
    env = TaskDistEnv(OwnTasks())
    env.set_schedule([(np.ones(2), 1)] * 2)
    env.reset()
    env.set_task(np.zeros(2))
    assert env.unwrapped.goal.tolist() == [1.0, 1.0]
    assert env.reset()[1]["task"].tolist() == [1.0, 1.0]
    env.set_schedule(None)
    assert env.reset()[1]["task"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("pair", [(7.0, -1), (7.0, 1.5), (7.0, None), (20.0, 1), (np.nan, 1)])
def test_a_bad_schedule_leaves_the_old_one(pair):
    env = pendulum()
    env.set_schedule([(6.0, 1)])
    with pytest.raises(ValueError, match=r"schedule\[1\] must be|is not in the task space"):
        env.set_schedule([(8.0, 1), pair])
    assert env.reset()[1]["task"] == 6.0


# Other wrappers, specifications, processes


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_subprocesses(start_method):
    vec_env = SubprocVecEnv([lambda: Monitor(pendulum())] * 2, start_method=start_method)
    try:
        vec_env.seed(0)
        vec_env.reset()
        drawn = vec_env.env_method("sample_tasks", 2, 3)
        assert same(drawn[0], drawn[1])
        vec_env.env_method("set_task", drawn[0][0], indices=0)
        vec_env.env_method("set_schedule", [(drawn[0][1], 9)], indices=1)
        assert vec_env.env_is_wrapped(TaskDistEnv) == [True, True]
        observations = vec_env.reset()
        *_, infos = vec_env.step(np.zeros((2, 1), np.float32))
        assert [info["task"] for info in infos] == drawn[0]
        assert vec_env.get_attr("horizon") == [200, 200]
    finally:
        vec_env.close()
    env = pendulum()
    env.set_task(drawn[0][1])
    np.testing.assert_array_equal(observations[1], env.reset(seed=9)[0])


def test_wrappers_outside():
    env = Monitor(FrameStackObservation(TimeLimit(TaskDistEnv(OwnTasks(length=100)), 2), 3))
    env.get_wrapper_attr("set_task")([0.5, 0.5])
    _, info = env.reset(seed=0)
    assert info["task"] == [0.5, 0.5]
    assert not env.step(env.action_space.sample())[3]
    assert env.step(env.action_space.sample())[3]


def test_wrapped_by_make_vec_env_above_the_monitor():
    vec_env = make_vec_env(
        "Pendulum-v1", n_envs=2, wrapper_class=TaskDistEnv, wrapper_kwargs={"task_space": GRAVITY, "set_task": "g"}
    )
    vec_env.env_method("set_task", 9.0)
    vec_env.reset()
    assert vec_env.get_attr("unwrapped")[0].g == 9.0


def test_the_specification_makes_the_environment_again():
    env = pendulum(tasks=[6.0, 7.0, 8.0], weights=[1, 2, 3], split=0.4, max_episode_steps=50)
    again = gym.make(env.spec)
    assert isinstance(again, TaskDistEnv) and again.horizon == 50
    assert same(again.sample_tasks(20, 0, "test"), env.sample_tasks(20, 0, "test"))
    assert same(again.reset(seed=0)[1], env.reset(seed=0)[1])
    assert gym.make(env.spec, max_episode_steps=20).horizon == 20


def test_set_task_may_be_a_method_of_something_that_cannot_be_copied():
    class Simulator:
        def __init__(self):
            self.lock = threading.Lock()
            self.seen = []

        def set_task(self, env, task):
            self.seen.append(task)

    simulator = Simulator()
    env = TaskDistEnv(Point, tasks=[1, 2], set_task=simulator.set_task)
    assert simulator.seen == play(env, 3)


def test_horizon():
    assert pendulum().horizon == 200
    assert TaskDistEnv(OwnTasks()).horizon is None
    assert TaskDistEnv(FrameStackObservation(TimeLimit(OwnTasks(), 9), 2)).horizon == 9
    assert TaskDistEnv(TimeLimit(gym.make("Pendulum-v1"), 30), task_space=GRAVITY, set_task="g").horizon == 30
    assert TaskDistEnv([TimeLimit(Point(), 9), TimeLimit(Point(), 4)]).horizon == 9
    assert TaskDistEnv([TimeLimit(Point(), 9), Point()]).horizon is None


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL))
def test_the_guide_runs(block):
    exec(compile(block, str(GUIDE), "exec"), {"__name__": "guide"})


# Bad input: one sentence that names the argument


def bad(make, match, error=ValueError):
    return pytest.param(make, match, error, id=match)


@pytest.mark.parametrize(
    "make, match, error",
    [
        bad(lambda: TaskDistEnv("CartPole-v1"), "has no tasks.*sample_tasks.*task_space=.*tasks="),
        bad(lambda: TaskDistEnv(Point, task_space=GRAVITY), "no way to set one"),
        bad(lambda: TaskDistEnv(Point, set_task="goal"), "has no tasks"),
        bad(lambda: TaskDistEnv(Point, task_space=5.0, set_task="goal"), "task_space must be a gymnasium space", TypeError),
        bad(lambda: TaskDistEnv(Point, task_space=GRAVITY, set_task="gaol"), "'gaol', but Point has no such attribute"),
        bad(lambda: TaskDistEnv(Point, task_space=GRAVITY, set_task=("speed", "length")), "must name 1 attributes"),
        bad(lambda: TaskDistEnv(Point, task_space=GRAVITY, set_task="goal"), r"'goal' of shape \(2,\)"),
        bad(lambda: TaskDistEnv(Point, tasks=[], set_task="speed"), "tasks must not be empty"),
        bad(lambda: TaskDistEnv(Point, tasks=[1.0, np.nan], set_task="speed"), r"tasks\[1\]: Task nan"),
        bad(lambda: TaskDistEnv(Point, tasks=[1.0, None], set_task="speed"), r"tasks\[1\]: A task must not be None"),
        bad(lambda: TaskDistEnv(Point, tasks=[1, 2], weights=[1], set_task="speed"), "weights must be 2 non-negative"),
        bad(lambda: TaskDistEnv(Point, tasks=[1, 2], weights=[1, -1], set_task="speed"), r"got \[1, -1\]"),
        bad(lambda: TaskDistEnv(Point, tasks=[1, 2], weights=[0, 0], set_task="speed"), "not all zero"),
        bad(lambda: TaskDistEnv(OwnTasks(), weights=[1]), "weights needs a finite list"),
        bad(lambda: TaskDistEnv(OwnTasks(), split=0.5), "split needs a finite list"),
        bad(lambda: TaskDistEnv(Point, tasks=[1, 2], split=1.0, set_task="speed"), "split, the fraction"),
        bad(
            lambda: TaskDistEnv(Point, tasks=[1, 2], split=0.5, test_tasks=[3], set_task="speed"), "either split or test_tasks"
        ),
        bad(lambda: pendulum(test_tasks=[[7.0, 8.0]]), r"test_tasks\[0\]: Task \[7.0, 8.0\] of shape \(2,\)"),
        bad(lambda: pendulum(test_tasks=spaces.Box(0, 1, (2,))), "test_tasks must be a space of the kind and shape"),
        bad(lambda: pendulum(test_tasks=[]), "test_tasks must not be empty"),
        bad(lambda: TaskDistEnv([]), "must not be empty"),
        bad(lambda: TaskDistEnv([Point(), "CartPole-v1"]), "observation_space of environment 1 is"),
        bad(lambda: TaskDistEnv([Point(), Point()], set_task="speed"), "leave out task_space, set_task and tasks"),
        bad(lambda: TaskDistEnv([Point(), Point()], test_tasks=[2]), r"test_tasks\[0\]: Task 2"),
        bad(lambda: TaskDistEnv(TaskDistEnv(OwnTasks())), "must not be a TaskDistEnv already"),
        bad(lambda: TaskDistEnv(OwnTasks(), length=5), "length cannot be passed to an environment that is made", TypeError),
        bad(
            lambda: TaskDistEnv(ScaledReward(Point()), task_space=GRAVITY, set_task="scale"),
            "has no such attribute: a wrapper",
        ),
        bad(lambda: TaskDistEnv(Point, tasks=["a", "b"], set_task="speed"), "'speed', which is a number .* task '[ab]'"),
        bad(lambda: TaskDistEnv(Point, tasks=[1], set_task=3), "set_task must be a callable .*, got 3", TypeError),
        bad(lambda: TaskDistEnv(Point, tasks=[1], set_task=lambda t: 0), r"set_task must .* but takes \(t\)", TypeError),
        bad(
            lambda: TaskDistEnv(Point, tasks="east", set_task="speed"), "tasks must be a list of tasks, got 'east'", TypeError
        ),
        bad(lambda: TaskDistEnv(Point, tasks=GRAVITY, set_task="speed"), "tasks must be .*passed as task_space", TypeError),
        bad(lambda: pendulum(test_tasks=7.0), r"test_tasks must be a list of tasks, got 7.0", TypeError),
        bad(
            lambda: TaskDistEnv(Wrong("sample_tasks", lambda n: [])), r"sample_tasks .* \(n, rng\), but takes \(n\)", TypeError
        ),
        bad(lambda: TaskDistEnv(Wrong("set_task", lambda: None)), r"set_task of the env.* but takes \(\)", TypeError),
        bad(lambda: TaskDistEnv(7), "env must be a gymnasium.Env, a registered id", TypeError),
        bad(lambda: TaskDistEnv(lambda: 7), "must return a gymnasium.Env when called, got 7", TypeError),
    ],
)
def test_bad_arguments(make, match, error):
    with pytest.raises(error, match=match) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, answer, match, error",
    [
        ("reset", np.zeros(4), r"reset of Wrong must return an observation and a dictionary, got array\(", TypeError),
        (
            "reset",
            (np.zeros(3), {}),
            r"reset of Wrong must return an observation of Box.*, got one of shape \(3,\)",
            ValueError,
        ),
        ("step", (np.zeros(4), None, False, False, {}), "The reward of Wrong must be a number, got None", TypeError),
        ("step", (np.zeros(4), np.zeros(2), False, False, {}), "The reward of Wrong must be a number, got array", TypeError),
        ("sample_tasks", None, r"sample_tasks\(1, rng\) of the environment must return 1 tasks, got None", ValueError),
    ],
)
def test_an_environment_that_does_not_keep_to_the_interface(name, answer, match, error):
    env = TaskDistEnv(Wrong(name, lambda *args, **kwargs: answer))
    with pytest.raises(error, match=match) as caught:
        env.reset(seed=0)
        env.step(np.zeros(2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", [4.9, [5.0, 6.0], [[7.0]] * 2, np.inf, np.nan, "7", None, {"g": 7}, [[1], [1, 2]]])
def test_tasks_outside_the_space(task):
    env = pendulum()
    env.set_task(6.0)
    for call in (env.set_task, env.check_task, env.task_features):
        if task is None and call == env.set_task:
            continue
        with pytest.raises(ValueError, match=r"^(Task .* is not in the task space Box\(5.0, 15.0|A task must not be None)"):
            call(task)
    assert env.get_task() == 6.0


def test_infinite_tasks_of_an_unbounded_space():
    env = TaskDistEnv(Point, task_space=spaces.Box(-np.inf, np.inf, ()), set_task="speed")
    env.set_task(1e6)
    for task in (np.inf, -np.inf, np.nan):
        with pytest.raises(ValueError, match="is not in the task space"):
            env.set_task(task)


@pytest.mark.parametrize("task", ["east", NAMED[0]._replace(name="south"), 1])
def test_tasks_that_are_not_listed(task):
    env = TaskDistEnv(Point, tasks=NAMED, set_task=set_goal)
    with pytest.raises(ValueError, match="is not one of the 3 tasks"):
        env.set_task(task)


@pytest.mark.parametrize("task", [3, -1, 0.5, [0, 1]])
def test_tasks_that_are_no_member(task):
    with pytest.raises(ValueError, match=r"is not in the task space Discrete\(3\)"):
        envs_of_lengths().set_task(task)


# Properties

task_spaces = st.recursive(
    st.one_of(
        st.builds(
            lambda low, width, shape, dtype: spaces.Box(low, low + width, shape, dtype),
            st.integers(-5, 5),
            st.integers(1, 9),
            hnp.array_shapes(min_dims=0, max_dims=2, max_side=3),
            st.sampled_from([np.float32, np.float64, np.int64]),
        ),
        st.builds(spaces.Discrete, st.integers(1, 5), start=st.integers(-2, 2)),
        st.builds(spaces.MultiBinary, st.integers(1, 4)),
        st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 4), min_size=1, max_size=3)),
    ),
    lambda inner: st.one_of(
        st.builds(spaces.Tuple, st.lists(inner, min_size=1, max_size=3)),
        st.builds(spaces.Dict, st.dictionaries(st.sampled_from("abc"), inner, min_size=1)),
    ),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(space=task_spaces, seed=st.integers(0, 2**32), n=st.integers(1, 4))
def test_drawn_tasks_lie_in_their_space(space, seed, n):
    env = TaskDistEnv(Point, task_space=space, set_task=lambda env, task: None)
    state = copy.deepcopy(space.np_random.bit_generator.state)
    tasks = env.sample_tasks(n, seed)
    assert len(tasks) == n and all(space.contains(task) for task in tasks)
    assert same(tasks, env.sample_tasks(n, seed))
    assert space.np_random.bit_generator.state == state
    for task in tasks:
        assert same(env.check_task(task), task)
        np.testing.assert_allclose(env.task_features(task), spaces.flatten(space, task))
        env.set_task(task)
        assert same(env.reset()[1]["task"], task)


@settings(max_examples=100, deadline=None)
@given(task=hnp.arrays(np.float64, st.sampled_from([(), (1,), (2,), (2, 1)]), elements=st.floats(allow_nan=True)))
def test_a_box_admits_just_its_elements(task):
    env = TaskDistEnv(Point, task_space=spaces.Box(-1, 1, (2,), np.float64), set_task="goal")
    if task.shape == (2,) and (np.abs(task) <= 1).all():
        np.testing.assert_array_equal(env.check_task(task.tolist()), task)
    else:
        with pytest.raises(ValueError, match="is not in the task space"):
            env.check_task(task)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(2, 12), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_a_split_parts_the_list(data, n, fraction, seed):
    weights = data.draw(st.none() | st.lists(st.floats(0.5, 1.0), min_size=n, max_size=n))
    env = TaskDistEnv(Point, tasks=list(range(1, n + 1)), weights=weights, set_task="length", split=fraction, split_seed=seed)
    train, test = (set(env.sample_tasks(600, 0, split)) for split in ("train", "test"))
    assert not train & test and train | test == set(range(1, n + 1))
    assert abs(len(test) - fraction * n) <= 1


# What a person gives goes before what the environment has


def test_thousands_of_listed_tasks_are_found_at_once():
    tasks = [("reach", i) for i in range(2000)]
    env = TaskDistEnv(Point, tasks=tasks, set_task=lambda env, task: None)
    started = time.process_time()
    for task in tasks:
        env.check_task(task)
    assert time.process_time() - started < 1.0  # compared one by one it takes many times as long
    assert env.task_features(("reach", 7))[7] == 1.0
    with pytest.raises(ValueError, match="is not one of the 2000 tasks"):
        env.check_task(("reach", 2000))


def test_listed_tasks_with_a_set_task_need_not_lie_in_the_space_of_the_environment():
    goals = {"left": np.array([-0.4, 0.0]), "right": np.array([0.4, 0.0])}
    env = TaskDistEnv(
        "Navigation2D-v0", tasks=["left", "right"], set_task=lambda base, task: base.unwrapped.set_task(goals[task])
    )
    env.set_task("left")
    env.reset()
    np.testing.assert_array_equal(env.unwrapped.get_task(), goals["left"])


def test_test_tasks_must_be_tasks_the_environment_takes():
    outside = spaces.Box(0.6, 0.7, (2,), np.float64)
    with pytest.raises(ValueError, match=r"^`test_tasks` must be tasks the environment takes: task must lie in Box"):
        TaskDistEnv("Navigation2D-v0", test_tasks=outside)
    with pytest.raises(ValueError, match="`test_tasks` must be tasks"):
        TaskDistEnv("Navigation2D-v0", test_tasks=[[0.1, 0.1], [0.6, 0.1]])
    base = gym.make("Navigation2D-v0")
    base.unwrapped.set_task([0.2, 0.3])
    TaskDistEnv(base, test_tasks=[[0.1, 0.1]])
    assert base.unwrapped.get_task().tolist() == [0.2, 0.3]


def test_one_environment_cannot_be_two_tasks():
    env = gym.make("CartPole-v1")
    with pytest.raises(ValueError, match="must be different objects"):
        TaskDistEnv([env, env])

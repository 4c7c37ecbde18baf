"""TaskDistEnv: what holds for every source of tasks, what tasks do, and life in a training environment."""

import copy
import pickle
import re
import threading

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as check_gymnasium_env
from gymnasium.wrappers import FrameStackObservation, TimeLimit
from paths import ROOT
from stable_baselines3.common.env_checker import check_env as check_sb3_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from task_toys import GRAVITY, NAMED, OwnTasks, Point, envs_of_lengths, pendulum, play, same, set_goal

from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv

GUIDE = ROOT / "docs" / "guide" / "task_distributions.md"


def set_length(env, task):
    env.length = 1 + int(task * 20)


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
        with pytest.raises(ValueError, match=r"`n`, the number of tasks, must be a positive integer"):
            env.sample_tasks(n, 0)
    with pytest.raises(ValueError, match='`split` must be "train" or "test"'):
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
    with pytest.raises(RuntimeError, match="'speed', which `reset` of Forgetful overwrites"):
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
    played = play(env, 3)
    # the first two are set twice, to see that the second time changes nothing
    assert simulator.seen == [played[0], played[0], played[1], played[1], played[2]]


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

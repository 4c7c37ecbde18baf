"""TaskDistEnv: finite lists, own samplers, lists of environments, and which of several sources counts."""

import copy
import pickle
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from task_toys import NAMED, OwnTasks, Point, envs_of_lengths, pendulum, play, same, set_goal

from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv


class Opaque:
    """A task that can be compared by identity only."""

    def __init__(self, name: str):
        self.name = name


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


# What a user gives goes before what the environment has


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
    with pytest.raises(ValueError, match=r"^`test_tasks` must be tasks that the environment accepts: `task` must lie in Box"):
        TaskDistEnv("Navigation2D-v0", test_tasks=outside)
    with pytest.raises(ValueError, match="`test_tasks` must be tasks"):
        TaskDistEnv("Navigation2D-v0", test_tasks=[[0.1, 0.1], [0.6, 0.1]])
    base = gym.make("Navigation2D-v0")
    base.unwrapped.set_task([0.2, 0.3])
    TaskDistEnv(base, test_tasks=[[0.1, 0.1]])
    assert base.unwrapped.get_task().tolist() == [0.2, 0.3]

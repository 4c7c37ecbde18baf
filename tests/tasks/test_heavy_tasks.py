"""Tasks put in force twice, large tasks, long lists of tasks, and seeds that simulators refuse."""

import pickle
import time
from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from toys import PointEnv, assert_same, point, state, tiny

from sb3_sgmrl import MAML, TaskDistEnv
from sb3_sgmrl.tasks.copies import is_heavy, lookup_key

FACTORS = spaces.Box(1.5, 2.0, (), np.float64)


def heavier(env, task):
    env.model.body_mass[1:] *= float(task)


def longer(env, task):
    env.length = getattr(env, "length", 1.0) * float(task)


def nothing(env, task):
    pass


def nested(env, task):
    env.settings = getattr(env, "settings", {"arm": [1.0, 2.0]})
    env.settings["arm"][1] += float(task)


@pytest.mark.parametrize(
    "env, set_task, name",
    [
        ("HalfCheetah-v5", heavier, r"model\.body_mass"),
        (PointEnv, longer, "length"),
        (PointEnv, nested, r"settings\['arm'\]\[1\]"),
    ],
)
@pytest.mark.parametrize("by", ["set_task", "reset", "model"])
def test_a_task_that_compounds_is_refused(env, set_task, name, by):
    env = TaskDistEnv(env, task_space=FACTORS, set_task=set_task, horizon=5)
    match = rf"`set_task` must give the same environment when it is called twice with the same task, but changed {name} from "
    with pytest.raises(ValueError, match=match):
        if by == "model":
            tiny(MAML, env)
        elif by == "reset":
            env.reset(seed=0)
        else:
            env.set_task(2.0)


def test_an_own_set_task_that_compounds_is_refused():
    class Own(PointEnv):
        def set_task(self, task):
            self.goal = self.goal + task

    with pytest.raises(ValueError, match=r"`set_task` must give the same environment .* changed goal from"):
        TaskDistEnv(Own(), horizon=5).reset(seed=0)


def test_what_is_drawn_counted_and_clocked_by_set_task_does_not_compound():
    class Drawn(PointEnv):
        n_set, history, at = 0, (), 0.0

        def set_task(self, task):
            self.goal = task + self.np_random.normal(size=2) + np.random.normal()
            self.n_set += 1
            self.history = [*self.history, float(task[0])]
            self.at = time.time()

    env = TaskDistEnv(Drawn(), horizon=5)
    for seed in range(4):
        env.reset(seed=seed)
    assert env.unwrapped.n_set == 6


# Large tasks


def test_large_arrays_are_read_only_and_not_copied_again():
    env = TaskDistEnv(PointEnv(), tasks=[np.zeros(10_000), np.ones(10_000)], set_task=nothing, horizon=2)
    task = env.sample_tasks(1, 0)[0]
    assert np.shares_memory(task, env.check_task(task)) and not task.flags.writeable
    given = np.ones(10_000)
    env.set_task(given)
    given[:] = 7
    _, info = env.reset(seed=0)
    np.testing.assert_array_equal(info["task"], 1.0)
    with pytest.raises(ValueError, match="read-only"):
        info["task"][0] = 3
    assert "task" not in env.step(env.action_space.sample())[4]
    assert "task" in env.step(env.action_space.sample())[4]  # the last
    copied = pickle.loads(pickle.dumps(env))
    np.testing.assert_array_equal(copied.get_task(), 1.0)


def test_results_do_not_depend_on_how_large_a_task_is():
    def first(env, task):
        env.goal = task[:2]

    def make(size):
        tasks = [np.full(size, goal) for goal in (-0.5, 0.5)]
        return TaskDistEnv(PointEnv(), tasks=tasks, set_task=first, horizon=5)

    small = state(tiny(MAML, make(2)).learn(1))
    for engine in ("in_process", "subprocess"):
        model = tiny(MAML, make(20_000), engine=engine).learn(1)
        model.env.close()
        assert_same(small, state(model))


@pytest.mark.parametrize(
    "task, heavy",
    [
        (3.0, False),
        ("a", False),
        (np.zeros(8000), False),
        (np.zeros(9000), True),
        ({"a": [np.zeros(5000), np.zeros(5000)]}, True),
        ([{"x": i} for i in range(10_000)], True),
        ("a" * 100_000, True),
    ],
)
def test_what_is_heavy(task, heavy):
    assert is_heavy(task) == heavy


@dataclass
class Maze:
    walls: list = field(default_factory=list)


class Plain:
    def __init__(self, i):
        self.i = i


@pytest.mark.parametrize("make", [lambda i: {"wall": i, "at": [i, i]}, lambda i: Maze([i, "x"]), Plain, lambda i: [i, "x"]])
def test_long_lists_of_tasks_without_a_hash(make):
    tasks = [make(i) for i in range(5000)]
    env = TaskDistEnv(PointEnv(), tasks=tasks, set_task=lambda env, task: None, horizon=2)
    copies = pickle.loads(pickle.dumps(tasks))
    start = time.process_time()
    env.set_schedule([(task, 0) for task in copies])
    assert time.process_time() - start < 5  # a minute by comparing each with all
    with pytest.raises(ValueError, match="is not one of the 5000 tasks"):
        env.check_task(make(-1))


def test_keys_tell_tasks_apart():
    different = [np.zeros(2), np.zeros(3), np.ones(2), {"a": 1}, {"a": 2}, [1, 2], (1, 2), Maze([1]), Maze([2]), Plain(1), 5]
    assert len({lookup_key(task) for task in different}) == len(different)
    for task in different:
        assert lookup_key(pickle.loads(pickle.dumps(task))) == lookup_key(task)
    with pytest.raises(TypeError):
        lookup_key(bytearray(3))


# Seeds


class Signed(PointEnv):
    """A simulator that takes a signed integer of 32 bits."""

    def reset(self, *, seed=None, options=None):
        self.refuse(seed)
        self.seeds = [*getattr(self, "seeds", []), seed]
        return super().reset(seed=seed)

    def refuse(self, seed):
        (seed or 0).to_bytes(4, "little", signed=True)


class OwnError(Signed):
    def refuse(self, seed):
        if seed is not None and seed > 2**31 - 1:
            raise RuntimeError("the simulator did not start")


@pytest.mark.parametrize("simulator", [Signed, OwnError])
def test_seeds_that_a_simulator_refuses_are_folded(simulator):
    env = TaskDistEnv(simulator(), horizon=5)
    task = env.sample_tasks(1, 0)[0]
    env.set_schedule([(task, 2**32 - 1), (task, 7), (task, 2**31)])
    for _ in range(3):
        env.reset()
    assert env.unwrapped.seeds == [2**31 - 1, 7, 0]
    results = []
    for n_envs in (2, 5):
        results.append(state(tiny(MAML, TaskDistEnv(simulator(), horizon=5), n_envs=n_envs).learn(1)))
    assert_same(*results)


def test_other_seeds_stay_and_errors_of_other_reasons_are_shown():
    class Fails(Signed):
        def refuse(self, seed):
            if seed == 2**31 + 5:
                raise RuntimeError("a rare error")

    env = TaskDistEnv(TimeLimit(Fails(), 5))
    env.set_schedule([(np.zeros(2), 2**31 + 4), (np.zeros(2), 2**31 + 5)])
    env.reset()
    assert env.unwrapped.seeds == [2**31 + 4]
    with pytest.raises(RuntimeError, match="a rare error"):
        env.reset()
    assert isinstance(point(), gym.Env)

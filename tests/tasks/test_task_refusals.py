"""TaskDistEnv: bad arguments and bad tasks, one sentence that names the argument."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from task_toys import GRAVITY, NAMED, OwnTasks, Point, envs_of_lengths, pendulum, set_goal

from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv


class Wrong(OwnTasks):
    """One of its methods is not what it should be."""

    def __init__(self, name, method):
        super().__init__()
        setattr(self, name, method)


class ScaledReward(gym.Wrapper):
    """Has an attribute that the base environment lacks."""

    scale = 1.0


@pytest.mark.parametrize("pair", [(7.0, -1), (7.0, 1.5), (7.0, None), (20.0, 1), (np.nan, 1)])
def test_a_bad_schedule_leaves_the_old_one(pair):
    env = pendulum()
    env.set_schedule([(6.0, 1)])
    with pytest.raises(ValueError, match=r"`schedule\[1\]` must be|is not in the task space"):
        env.set_schedule([(8.0, 1), pair])
    assert env.reset()[1]["task"] == 6.0


# Bad input: one sentence that names the argument


def bad(make, match, error=ValueError):
    return pytest.param(make, match, error, id=match)


@pytest.mark.parametrize(
    "make, match, error",
    [
        bad(lambda: TaskDistEnv("CartPole-v1"), "has no tasks.*TaskDistEnv.*tasks=.*task_space=.*sample_tasks"),
        bad(lambda: TaskDistEnv(Point, task_space=GRAVITY), "no way to set one"),
        bad(lambda: TaskDistEnv(Point, set_task="goal"), "has no tasks"),
        bad(lambda: TaskDistEnv(Point, task_space=5.0, set_task="goal"), "`task_space` must be a gymnasium space", TypeError),
        bad(lambda: TaskDistEnv(Point, task_space=GRAVITY, set_task="gaol"), "'gaol', but Point has no such attribute"),
        bad(lambda: TaskDistEnv(Point, task_space=GRAVITY, set_task=("speed", "length")), "`set_task` must name 1 attributes"),
        bad(lambda: TaskDistEnv(Point, task_space=GRAVITY, set_task="goal"), r"'goal' of shape \(2,\)"),
        bad(lambda: TaskDistEnv(Point, tasks=[], set_task="speed"), "`tasks` must not be empty"),
        bad(lambda: TaskDistEnv(Point, tasks=[1.0, np.nan], set_task="speed"), r"`tasks\[1\]`: Task nan"),
        bad(lambda: TaskDistEnv(Point, tasks=[1.0, None], set_task="speed"), r"`tasks\[1\]`: `task` must not be None"),
        bad(lambda: TaskDistEnv(Point, tasks=[1, 2], weights=[1], set_task="speed"), "`weights` must be 2 non-negative"),
        bad(lambda: TaskDistEnv(Point, tasks=[1, 2], weights=[1, -1], set_task="speed"), r"got \[1, -1\]"),
        bad(lambda: TaskDistEnv(Point, tasks=[1, 2], weights=[0, 0], set_task="speed"), "not all zero"),
        bad(lambda: TaskDistEnv(OwnTasks(), weights=[1]), "`weights` needs a finite list"),
        bad(lambda: TaskDistEnv(OwnTasks(), split=0.5), "`split` needs a finite list"),
        bad(lambda: TaskDistEnv(Point, tasks=[1, 2], split=1.0, set_task="speed"), "`split`, the fraction"),
        bad(
            lambda: TaskDistEnv(Point, tasks=[1, 2], split=0.5, test_tasks=[3], set_task="speed"),
            "either `split` or `test_tasks`",
        ),
        bad(lambda: pendulum(test_tasks=[[7.0, 8.0]]), r"`test_tasks\[0\]`: Task \[7.0, 8.0\] of shape \(2,\)"),
        bad(lambda: pendulum(test_tasks=spaces.Box(0, 1, (2,))), "`test_tasks` must be a space of the type and shape"),
        bad(lambda: pendulum(test_tasks=[]), "`test_tasks` must not be empty"),
        bad(lambda: TaskDistEnv([]), "`env` must not be an empty list"),
        bad(lambda: TaskDistEnv([Point(), "CartPole-v1"]), "observation_space of environment 1 is"),
        bad(lambda: TaskDistEnv([Point(), Point()], set_task="speed"), "omit `task_space`, `set_task` and `tasks`"),
        bad(lambda: TaskDistEnv([Point(), Point()], test_tasks=[2]), r"`test_tasks\[0\]`: Task 2"),
        bad(lambda: TaskDistEnv(TaskDistEnv(OwnTasks())), "must be an environment without a TaskDistEnv"),
        bad(lambda: TaskDistEnv(OwnTasks(), length=5), "`length` cannot be passed to an existing environment", TypeError),
        bad(
            lambda: TaskDistEnv(ScaledReward(Point()), task_space=GRAVITY, set_task="scale"),
            "has no such attribute: a wrapper",
        ),
        bad(lambda: TaskDistEnv(Point, tasks=["a", "b"], set_task="speed"), "'speed', a number .* task '[ab]'"),
        bad(lambda: TaskDistEnv(Point, tasks=[1], set_task=3), "`set_task` must be a callable .*, got 3", TypeError),
        bad(lambda: TaskDistEnv(Point, tasks=[1], set_task=lambda t: 0), r"`set_task` must .* but takes \(t\)", TypeError),
        bad(
            lambda: TaskDistEnv(Point, tasks="east", set_task="speed"),
            "`tasks` must be a list of tasks, got 'east'",
            TypeError,
        ),
        bad(
            lambda: TaskDistEnv(Point, tasks=GRAVITY, set_task="speed"),
            "`tasks` must be .*pass a space of tasks as `task_space`",
            TypeError,
        ),
        bad(lambda: pendulum(test_tasks=7.0), r"`test_tasks` must be a list of tasks, got 7.0", TypeError),
        bad(
            lambda: TaskDistEnv(Wrong("sample_tasks", lambda n: [])),
            r"`sample_tasks` .* \(n, rng\), but takes \(n\)",
            TypeError,
        ),
        bad(lambda: TaskDistEnv(Wrong("set_task", lambda: None)), r"`set_task` of the env.* but takes \(\)", TypeError),
        bad(lambda: TaskDistEnv(7), "`env` must be a gymnasium.Env, a registered id", TypeError),
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
        ("reset", np.zeros(4), r"`reset` of Wrong must return an observation and a dictionary, got array\(", TypeError),
        (
            "reset",
            (np.zeros(3), {}),
            r"`reset` of Wrong must return an observation of Box.*, got one of shape \(3,\)",
            ValueError,
        ),
        ("step", (np.zeros(4), None, False, False, {}), "The `reward` of Wrong must be a number, got None", TypeError),
        ("step", (np.zeros(4), np.zeros(2), False, False, {}), "The `reward` of Wrong must be a number, got array", TypeError),
        ("sample_tasks", None, r"`sample_tasks\(1, rng\)` of the environment must return 1 tasks, got None", ValueError),
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
        with pytest.raises(ValueError, match=r"^(Task .* is not in the task space Box\(5.0, 15.0|`task` must not be None)"):
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


def test_one_environment_cannot_be_two_tasks():
    env = gym.make("CartPole-v1")
    with pytest.raises(ValueError, match="must be different objects"):
        TaskDistEnv([env, env])

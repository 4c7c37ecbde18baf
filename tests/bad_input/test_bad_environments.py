"""Environments and tasks a user may get wrong: one sentence that names the argument, before anything is sampled."""

import gymnasium as gym
import numpy as np
import pytest
from bad_input_tools import Witness, refuses, witness
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.vec_env import DummyVecEnv
from toys import ALGORITHMS, HORIZON, PointEnv, assert_same, point, point_vec, state, tiny

from sb3_sgmrl import MAML, SGMRL, TaskDistEnv, evaluate_adaptation
from sb3_sgmrl.common import sampling
from sb3_sgmrl.common.success import evaluate_success

# ----------------------------------------------------------------------------------------------------------- environments


class Plain(Witness):
    """Has no tasks."""

    sample_tasks = set_task = None

    def __init__(self):
        super().__init__()
        del self.task_space


def plain_vec():
    return DummyVecEnv([lambda: TimeLimit(Plain(), HORIZON)] * 2)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_environment_without_tasks(algorithm):
    refuses("has no tasks, or no way to set one", tiny, algorithm, TimeLimit(Plain(), HORIZON))
    refuses(r"has no tasks, or no way to set one: pass TaskDistEnv\(", tiny, algorithm, "CartPole-v1")


def test_a_task_in_the_place_of_the_environment():
    model = tiny(SGMRL, point())
    for task in ([0.3, -0.4], np.array([0.3, -0.4]), (1, 2), 3, {"goal": 1}):
        for function in (model.adapt, model.adapt_stepwise):
            refuses(r"`env` must be an environment.*`adapt\(task=...\)`", function, task, error=TypeError)
        for evaluate in (evaluate_adaptation, evaluate_success):
            refuses(r"got .*pass a task by its name", evaluate, model, task, error=TypeError)


@pytest.mark.parametrize(
    "policy, observation, message",
    [
        ("MultiInputPolicy", "vector", "`policy` must be MlpPolicy, or CnnPolicy for images, .* got Box"),
        ("MultiInputPolicy", "image", "`policy` must be MlpPolicy, or CnnPolicy for images, .* got Box"),
        ("CnnPolicy", "vector", "`policy` must be MlpPolicy, because the observations are no images .* got Box"),
        (3, "vector", "`policy` must be one of .*, got 3"),
        (str, "vector", "`policy` must be an ActorCriticPolicy that is not recurrent, got str"),
    ],
)
def test_a_policy_that_cannot_read_the_observations(policy, observation, message):
    refuses(message, tiny, MAML, point(observation=observation), policy)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_workers_that_cannot_take_a_task(algorithm, tmp_path):
    refuses("`env` must be a TaskDistEnv, or a VecEnv", tiny, algorithm, plain_vec())
    mixed = DummyVecEnv([point, lambda: TimeLimit(Witness(), HORIZON)])
    refuses("`env` must be a TaskDistEnv, or a VecEnv", tiny, algorithm, mixed)
    model = tiny(algorithm, point_vec(2))
    env = model.env
    model.save(tmp_path / "model")
    for call in (
        lambda: model.set_env(plain_vec()),
        lambda: model.adapt(plain_vec()),
        lambda: evaluate_adaptation(model, plain_vec()),
        lambda: algorithm.load(tmp_path / "model", env=plain_vec()),
    ):
        refuses("`env` must be a TaskDistEnv, or a VecEnv", call)
    assert model.env is env


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_episode_that_never_ends(algorithm, monkeypatch):
    """Without a time limit that is known, storage grows, up to a limit."""
    monkeypatch.setattr(sampling, "_FIRST_SIZE", 4)
    monkeypatch.setattr(sampling, "LONGEST_EPISODE", 20)
    match = r"`env` has no known time limit, and an episode is longer than 20 steps: pass TaskDistEnv\(..., horizon=n_steps\)"
    for env in (point_vec(2, horizon=None), point(None)):
        with pytest.raises(ValueError, match=match):
            tiny(algorithm, env).learn(1)
    model = tiny(algorithm, point(None, end=0.3)).learn(1)
    limited = tiny(algorithm, point(20, end=0.3)).learn(1)
    assert_same(state(model), state(limited))


def test_environments_of_a_list_with_different_spaces():
    refuses(
        "same spaces, but action_space of environment 1 is Discrete.4.", TaskDistEnv, [PointEnv(), PointEnv(action="discrete")]
    )
    refuses("same spaces, but observation_space", TaskDistEnv, [PointEnv(), PointEnv(observation="discrete")])


def test_another_environment_with_different_spaces():
    model = tiny(SGMRL, point_vec(2))
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        model.set_env(point(observation="discrete"))
    with pytest.raises(ValueError, match="Action spaces do not match"):
        model.set_env(point(action="discrete"))
    model.learn(1)


@pytest.mark.parametrize("env", [5, [], "NoSuchFamily-v0"])
def test_what_is_no_environment(env):
    with pytest.raises((TypeError, ValueError, gym.error.Error)):
        tiny(SGMRL, env)


BAD_TASKS = [[3.0, 0.0], [0.1], [[0.1, 0.2]], [np.nan, 0.0], "goal", {"goal": 1}]


@pytest.mark.parametrize("kind", ["clones", "processes", "batched"])
def test_a_task_that_does_not_fit(kind):
    if kind == "batched":
        env = TaskDistEnv("Navigation2D-v0", max_episode_steps=HORIZON)
    else:
        env = point_vec(1, subprocess=True) if kind == "processes" else witness()
    model = tiny(SGMRL, env)
    try:
        for task in BAD_TASKS:
            refuses("Task .* is not in the task space Box", model.adapt, task=task)
            refuses("Task .* is not in the task space Box", evaluate_adaptation, model, tasks=[[0.1, 0.1], task])
        # nothing broke
        model.adapt(task=[0.1, 0.1])
    finally:
        model.env.close()


def test_a_task_that_is_pinned():
    env = point()
    for task in BAD_TASKS:
        refuses("Task .* is not in the task space Box", env.set_task, task)


def test_no_environment():
    refuses("`env` is missing", tiny, SGMRL, None)


def test_workers_that_disagree_about_the_task():
    env = point_vec(2)
    model = tiny(SGMRL, env)
    env.env_method("set_task", [0.1, 0.2], indices=1)
    with pytest.raises(ValueError, match="`task` must be given: the workers of `env` have different tasks pinned"):
        model.adapt()
    env.env_method("set_task", [0.1, 0.2], indices=0)
    model.adapt()
    refuses("`seed` must be a non-negative integer", model.adapt, seed=-1)

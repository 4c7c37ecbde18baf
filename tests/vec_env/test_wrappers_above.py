"""Wrappers above TaskDistEnv see neither idle workers nor the beginnings of phases, and their names are their own."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from toys import HORIZON, PointEnv, assert_same, point, state, tiny

from sb3_sgmrl import MAML, SGMRL, TaskDistEnv, evaluate_adaptation
from sb3_sgmrl.vec_env.process_vec_env import ProcessVecEnv
from sb3_sgmrl.vec_env.task_workers import find_horizon


class Telling(PointEnv):
    """Tells one thing at a reset, another at a step."""

    def reset(self, **kwargs):
        observation, _ = super().reset(**kwargs)
        return observation, {"begun": 1.0}

    def step(self, action):
        observation, reward, *flags, _ = super().step(action)
        return observation, reward, *flags, {"x": float(action[0])}


class Strict(gym.Wrapper):
    """Reads what is told, and sees no step before a reset, none after an end, and no reset in the middle of an episode."""

    running = False
    n_ended = 0

    def reset(self, **kwargs):
        assert not self.running
        observation, info = self.env.reset(**kwargs)
        assert info["begun"] == 1.0 and "idle" not in info
        self.running = True
        return observation, info

    def step(self, action):
        assert self.running
        observation, reward, terminated, truncated, info = self.env.step(action)
        assert "idle" not in info
        self.running = not (terminated or truncated)
        self.n_ended += not self.running
        return observation, reward + 0.1 * info["x"], terminated, truncated, info


class Reading(gym.Wrapper):
    """Reads what is told."""

    def reset(self, **kwargs):
        observation, info = self.env.reset(**kwargs)
        return observation, {**info, "again": info["begun"]}

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward + 0.1 * info["x"], terminated, truncated, info


def strict(wrapper=Strict):
    return wrapper(TaskDistEnv(TimeLimit(Telling(end=0.2), HORIZON)))


@pytest.mark.parametrize("n_workers", [1, 5, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("in_processes", [False, True])
def test_wrappers_see_whole_episodes_and_nothing_else(n_workers, in_processes):
    """With fewer and with more workers than episodes, in several calls of learn, and when adaptation is evaluated."""
    workers = [lambda: Monitor(strict(), allow_early_resets=False)] * n_workers
    env = ProcessVecEnv(workers, 2 if n_workers > 1 else 1) if in_processes else DummyVecEnv(workers)
    model = tiny(SGMRL, env, n_inner_steps=2)
    model.learn(1)
    evaluate_adaptation(model, n_tasks=2)
    model.learn(1, reset_num_timesteps=False)
    assert sum(env.get_attr("n_ended")) == 2 * 3 * 12 + 2 * 2 * 4
    env.close()


@pytest.mark.parametrize("n_workers", [2, 15])
def test_wrappers_in_processes_of_sb3_find_what_they_read(n_workers):
    make = partial(strict, Reading)
    results = []
    for vec_env_cls in (DummyVecEnv, SubprocVecEnv):
        kwargs = {"start_method": "fork"} if vec_env_cls is SubprocVecEnv else {}
        monitor = {"allow_early_resets": False, "info_keywords": ("x",)}
        env = make_vec_env(make, n_workers, vec_env_cls=vec_env_cls, vec_env_kwargs=kwargs, monitor_kwargs=monitor)
        results.append(state(tiny(MAML, env).learn(1)))
        assert not any(env.get_attr("allow_early_resets"))
        env.close()
    assert_same(*results)


def test_a_time_limit_above_writes_no_episodes_of_idle_workers(tmp_path):
    def make():
        return TimeLimit(TaskDistEnv(Telling(), horizon=9), 3)

    env = make_vec_env(make, 20, monitor_dir=str(tmp_path), monitor_kwargs={"info_keywords": ("x",)})
    tiny(MAML, env, meta_batch_size=1).learn(1)
    env.close()
    rows = [line for file in tmp_path.iterdir() for line in file.read_text().splitlines()[2:]]
    assert len(rows) == 2 * 4


class Names(gym.Wrapper):
    """Has names of its own."""

    horizon, n_started, is_exhausted = 2, 77, "never"

    def sample_tasks(self):
        return "anything"

    def set_schedule(self):
        raise AssertionError

    get_pinned_task = task_problem = task_features = check_task = set_schedule


@pytest.mark.parametrize("vec_env_cls", [DummyVecEnv, SubprocVecEnv])
def test_names_of_wrappers_are_their_own(vec_env_cls):
    kwargs = {"start_method": "fork"} if vec_env_cls is SubprocVecEnv else {}
    env = make_vec_env(lambda: Names(point()), 3, vec_env_cls=vec_env_cls, vec_env_kwargs=kwargs)
    assert find_horizon(env) == HORIZON
    model = tiny(SGMRL, env, control_variate="task_regression").learn(1)
    model.adapt(task=[0.5, 0.5])
    evaluate_adaptation(model, n_tasks=2)
    assert_same(state(model), state(tiny(SGMRL, point(), control_variate="task_regression").learn(1)))
    env.close()


class Twice(gym.Wrapper):
    """Resets once more, as wrappers do that begin with some random steps."""

    def reset(self, **kwargs):
        self.env.reset(**kwargs)
        return self.env.reset()


class Never(gym.Wrapper):
    """Plays on after the first episode, as wrappers do that make an episode of each life."""

    observation = None

    def reset(self, **kwargs):
        if self.observation is None:
            self.observation, _ = self.env.reset(**kwargs)
        return self.observation, {}


@pytest.mark.parametrize(("wrapper", "n", "asked"), [(Twice, 2, 1), (Never, 1, 6)])
def test_a_wrapper_that_resets_otherwise_is_refused(wrapper, n, asked):
    env = make_vec_env(lambda: wrapper(point()), 2)
    with pytest.raises(
        ValueError, match=rf"Worker 0 of `env` began {n} episodes instead of the {asked} scheduled ones: move the outer"
    ):
        tiny(MAML, env).learn(1)


def test_set_attr_reaches_the_worker_while_it_is_played():
    env = make_vec_env(point, 2)
    workers = list(env.envs)

    def callback(step_locals, _):
        env.set_attr("difficulty", 3)
        return True

    tiny(MAML, env).learn(1, callback=callback)
    assert env.envs == workers and [worker.difficulty for worker in workers] == [3, 3]
    assert not any("step" in vars(worker) or "reset" in vars(worker) for worker in workers)
    observations = env.reset()
    assert np.isfinite(observations).all()

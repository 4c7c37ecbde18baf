"""Environments whose tasks come from every kind of source."""

import pickle
from typing import NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_sgmrl.envs import register_envs
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv

GRAVITY = spaces.Box(5.0, 15.0, (1,))


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


class Named(NamedTuple):
    """A task that is not a number."""

    name: str
    goal: tuple[float, float]


NAMED = [Named("east", (1.0, 0.0)), Named("west", (-1.0, 0.0)), Named("north", (0.0, 1.0))]


def set_goal(env, task):
    env.goal = np.array(task.goal)


def pendulum(**kwargs) -> TaskDistEnv:
    return TaskDistEnv("Pendulum-v1", task_space=GRAVITY, set_task="g", **kwargs)


def envs_of_lengths() -> TaskDistEnv:
    return TaskDistEnv([lambda: Point(1), lambda: Point(2), Point(3)])


register_envs()


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

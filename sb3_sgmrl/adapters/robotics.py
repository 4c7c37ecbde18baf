"""Gymnasium-Robotics: the goal of a goal environment is the task."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from sb3_sgmrl.tasks.sources import make_env
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv


class HiddenGoal(gym.Wrapper, RecordConstructorArgs):
    """
    A goal environment whose goal is the task: it stays from episode to episode and is not observed.

    :param env: a goal environment, with observations ``observation``, ``achieved_goal`` and ``desired_goal``
    :raises ValueError: for another environment, or one that moves the goal within an episode
    """

    def __init__(self, env: gym.Env):
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        space = env.observation_space
        if not isinstance(space, spaces.Dict) or not {"observation", "desired_goal"} <= space.keys():
            raise ValueError(f"`env` must be a goal environment, with observations of a desired goal, got {env}.")
        if getattr(env.unwrapped, "reset_target", False):
            raise ValueError("`reset_target` must be False: the goal is the task, and must not move within an episode.")
        self.observation_space = space["observation"]
        self.task_space = space["desired_goal"]
        self.goal: np.ndarray | None = None
        # goals are drawn in a copy, so that the running episode goes on
        self._other: gym.Env | None = None

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[np.ndarray]:
        """
        :param n: number of goals
        :param rng: the only source of randomness
        :return: goals as the environment itself draws them
        """
        if self._other is None:
            self._other = deepcopy(self.env)
        goals = []
        for seed in rng.integers(2**31, size=n):
            self._other.reset(seed=int(seed))
            goals.append(np.array(self._other.get_wrapper_attr("goal")))
        return goals

    def set_task(self, goal: np.ndarray) -> None:
        """
        :param goal: the goal of the following episodes
        """
        self.goal = goal

    def get_task(self) -> np.ndarray | None:
        """
        :return: the goal
        """
        return self.goal

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """
        :param seed: of the initial state
        :param options: of the environment
        :return: the observation without goals, and info
        """
        observation, info = self.env.reset(seed=seed, options=options)
        if self.goal is not None:
            base: Any = self.unwrapped
            base.goal = np.array(self.goal)
            if hasattr(base, "update_target_site_pos"):  # where mazes show the goal
                base.update_target_site_pos()
            info.pop("success", None)  # told of the goal that was drawn
        return observation["observation"], info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """
        :param action: the action
        :return: the observation without goals, reward, terminated, truncated and info
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation["observation"], reward, terminated, truncated, info


def robotics_goals(env: Any, **kwargs: Any) -> TaskDistEnv:
    """
    A goal environment of Gymnasium-Robotics, such as ``PointMaze_OpenDense-v3`` or ``FetchReachDense-v4``. The goal is the
    task. It is not observed, or there would be nothing to adapt to. Without further arguments goals are drawn as the
    environment draws them.

    :param env: id, or a goal environment
    :param kwargs: ``task_space``, ``tasks``, ``test_tasks``, ``split``, … of :class:`~sb3_sgmrl.TaskDistEnv`; others go to
        ``gymnasium.make``
    :return: the environment with its distribution of goals
    :raises ImportError: without gymnasium-robotics
    :raises ValueError: for an environment without goals
    """
    import gymnasium_robotics

    gym.register_envs(gymnasium_robotics)
    names = {"task_space", "tasks", "weights", "test_tasks", "split", "split_seed"}
    of_tasks = {name: kwargs.pop(name) for name in names & kwargs.keys()}
    return TaskDistEnv(HiddenGoal(make_env(env, kwargs)), **of_tasks)

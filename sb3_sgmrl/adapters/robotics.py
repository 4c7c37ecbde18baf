"""Task distributions of Gymnasium-Robotics: the goal of a goal environment is the task."""

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
    A goal environment whose goal is the task.

    The goal is the same in every episode and is not observed.

    :param env: A goal environment, with observations ``observation``, ``achieved_goal`` and ``desired_goal``
    :raises ValueError: When ``env`` is not a goal environment, or moves the goal within an episode
    """

    def __init__(self, env: gym.Env):
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        space = env.observation_space
        if not isinstance(space, spaces.Dict) or not {"observation", "desired_goal"} <= space.keys():
            raise ValueError(f"`env` must be a goal environment, with `desired_goal` among its observations, got {env}.")
        if getattr(env.unwrapped, "reset_target", False):
            raise ValueError(
                "`reset_target` must be False, got True: the goal is the task and must not move within an episode."
            )
        self.observation_space = space["observation"]
        self.task_space = space["desired_goal"]
        self.goal: np.ndarray | None = None
        # goals are drawn in a copy, which does not interrupt the running episode
        self._other: gym.Env | None = None

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[np.ndarray]:
        """
        Draw goals as the environment draws them.

        :param n: The number of goals
        :param rng: The random number generator
        :return: The goals
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
        Set the goal of the following episodes.

        :param goal: The goal
        """
        self.goal = goal

    def get_task(self) -> np.ndarray | None:
        """
        Return the current task.

        :return: The goal; None before a task is set
        """
        return self.goal

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """
        Start an episode.

        :param seed: The seed of the initial state
        :param options: The options of the environment
        :return: The observation without goals, and info
        """
        observation, info = self.env.reset(seed=seed, options=options)
        if self.goal is not None:
            base: Any = self.unwrapped
            base.goal = np.array(self.goal)
            if hasattr(base, "update_target_site_pos"):  # mazes draw the goal there
                base.update_target_site_pos()
            info.pop("success", None)  # it refers to the goal that `reset` drew
        return observation["observation"], info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """
        Play one step.

        :param action: The action
        :return: The observation without goals, reward, terminated, truncated and info
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation["observation"], reward, terminated, truncated, info


def robotics_goals(env: Any, **kwargs: Any) -> TaskDistEnv:
    """
    Make a task distribution from a goal environment of Gymnasium-Robotics.

    Examples are ``PointMaze_OpenDense-v3`` and ``FetchReachDense-v4``. The goal is the task. The agent does not observe the
    goal; otherwise it would not need to adapt. By default, goals are drawn as the environment draws them.

    :param env: The id of a goal environment, or the environment
    :param kwargs: The arguments ``task_space``, ``tasks``, ``test_tasks``, ``split``, … of :class:`~sb3_sgmrl.TaskDistEnv`;
        others are passed to ``gymnasium.make``
    :return: The environment with its distribution of goals
    :raises ImportError: When gymnasium-robotics is not installed
    :raises ValueError: When the environment has no goals
    """
    import gymnasium_robotics

    gym.register_envs(gymnasium_robotics)
    names = {"task_space", "tasks", "weights", "test_tasks", "split", "split_seed"}
    of_tasks = {name: kwargs.pop(name) for name in names & kwargs.keys()}
    return TaskDistEnv(HiddenGoal(make_env(env, kwargs)), **of_tasks)

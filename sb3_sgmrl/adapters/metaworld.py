"""Meta-World: the tasks of its meta-learning benchmarks ML1, ML10, ML25 and ML45."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv

Name = tuple[str, int]


class MetaWorldTasks(gym.Env):
    """
    All environments of a benchmark as one, which is at any time the environment of its task. An environment is made when its
    first task is set; copies and pickles make theirs anew.

    :param classes: environment classes by name
    :param tasks: Meta-World's tasks by name and number
    """

    def __init__(self, classes: dict[str, type[gym.Env]], tasks: dict[Name, Any]):
        self.classes, self.tasks = classes, tasks
        self._made: dict[str, Any] = {}
        self._task: Name | None = None
        example = self._env(next(iter(classes)))
        self.action_space = example.action_space
        # the bounds that Meta-World gives differ from environment to environment
        self.observation_space = spaces.Box(-np.inf, np.inf, example.observation_space.shape, np.float64)

    def _env(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self.classes[name]()
        return self._made[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": {}}

    def set_task(self, task: Name) -> None:
        """
        :param task: name of the environment and number of the goal
        :raises ValueError: when the benchmark has no such task
        """
        if task not in self.tasks:
            raise ValueError(f"Task {task} is not one of the benchmark.")
        self._env(task[0]).set_task(self.tasks[task])
        self._task = task

    def get_task(self) -> Name | None:
        """
        :return: name of the environment and number of the goal
        """
        return self._task

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        :param seed: of the environment
        :param options: not used
        :return: observation, where the goal is zeros, and info
        """
        super().reset(seed=seed)
        if self._task is None:
            raise ValueError("A task must be set before an environment of Meta-World is reset.")
        env = self._env(self._task[0])
        if not env._set_task_called:  # in a copy
            env.set_task(self.tasks[self._task])
        if seed is not None:
            env.seed(seed)
        return env.reset()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        :param action: the action
        :return: observation, reward, terminated, truncated and info with ``success``
        """
        assert self._task is not None
        return self._made[self._task[0]].step(action)

    def close(self) -> None:
        """Close the environments that were made."""
        for env in self._made.values():
            env.close()


def metaworld_benchmark(name: str, seed: int = 0, max_episode_steps: int = 500) -> TaskDistEnv:
    """
    A meta-learning benchmark of Meta-World v3, built from its benchmark class: each environment has 50 goals for training, or
    for testing. A task is the name of its environment and the number of its goal, ``("reach-v3", 7)``; in ML1, where the
    environment is the same, goals from 50 are those for testing. Goals are not observed.

    Drawing the goals takes seconds for ML1, and minutes for ML45.

    :param name: ``ML10``, ``ML25``, ``ML45``, or the name of an environment, such as ``reach-v3``, for ML1
    :param seed: of the goals
    :param max_episode_steps: time limit, at most Meta-World's 500
    :return: the environment with the training and test tasks of the benchmark
    :raises ImportError: without metaworld
    :raises ValueError: for an unknown benchmark, or a time limit out of range
    """
    import metaworld

    if name not in ("ML10", "ML25", "ML45") and name not in metaworld.ML1.ENV_NAMES:
        raise ValueError(f"`name` must be ML10, ML25, ML45 or the name of an environment, such as reach-v3, got {name!r}.")
    if not 0 < max_episode_steps <= 500:
        raise ValueError(f"`max_episode_steps` must be from 1 to 500, got {max_episode_steps!r}.")
    benchmark = metaworld.ML1(name, seed=seed) if name in metaworld.ML1.ENV_NAMES else getattr(metaworld, name)(seed=seed)
    numbered: dict[Name, Any] = {}
    splits: list[list[Name]] = []
    for tasks in (benchmark.train_tasks, benchmark.test_tasks):
        names = []
        for task in tasks:
            place = sum(of == task.env_name for of, _ in numbered)
            numbered[task.env_name, place] = task
            names.append((task.env_name, place))
        splits.append(names)
    env = MetaWorldTasks({**benchmark.train_classes, **benchmark.test_classes}, numbered)
    train, test = splits
    return TaskDistEnv(gym.wrappers.TimeLimit(env, max_episode_steps), tasks=train, test_tasks=test)

"""Task distributions of Meta-World: its meta-learning benchmarks ML1, ML10, ML25 and ML45."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv

Name = tuple[str, int]


class MetaWorldTasks(gym.Env):
    """
    All environments of a benchmark as one environment, which plays the environment of its task.

    An environment is made when its first task is set. Copies and pickles make their own environments.

    :param classes: The environment classes, by name
    :param tasks: The tasks of Meta-World, by name and number
    """

    def __init__(self, classes: dict[str, type[gym.Env]], tasks: dict[Name, Any]):
        self.classes, self.tasks = classes, tasks
        self._made: dict[str, Any] = {}
        self._task: Name | None = None
        example = self._env(next(iter(classes)))
        self.action_space = example.action_space
        # Meta-World's bounds differ between environments
        self.observation_space = spaces.Box(-np.inf, np.inf, example.observation_space.shape, np.float64)

    def _env(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self.classes[name]()
        return self._made[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": {}}

    def set_task(self, task: Name) -> None:
        """
        Set the task of the following episodes.

        :param task: The name of the environment and the number of the goal
        :raises ValueError: When the benchmark does not contain the task
        """
        if task not in self.tasks:
            raise ValueError(f"`task` must be a task of the benchmark, such as {next(iter(self.tasks))}, got {task!r}.")
        self._env(task[0]).set_task(self.tasks[task])
        self._task = task

    def get_task(self) -> Name | None:
        """
        Return the current task.

        :return: The name of the environment and the number of the goal; None before a task is set
        """
        return self._task

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Start an episode.

        :param seed: The seed of the environment
        :param options: Not used
        :return: The observation, where zeros replace the goal, and info
        :raises ValueError: When no task is set
        """
        super().reset(seed=seed)
        if self._task is None:
            raise ValueError("A Meta-World environment needs a task before `reset()`: call `set_task(task)` first.")
        env = self._env(self._task[0])
        if not env._set_task_called:  # a copy has new environments without tasks
            env.set_task(self.tasks[self._task])
        if seed is not None:
            env.seed(seed)
        return env.reset()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Play one step.

        :param action: The action
        :return: The observation, reward, terminated, truncated and info with ``success``
        """
        assert self._task is not None
        return self._made[self._task[0]].step(action)

    def close(self) -> None:
        """Close all environments."""
        for env in self._made.values():
            env.close()


def metaworld_benchmark(name: str, seed: int = 0, max_episode_steps: int = 500) -> TaskDistEnv:
    """
    Make a task distribution from a meta-learning benchmark of Meta-World v3.

    The tasks come from the benchmark's class. Each training or test environment has 50 goals. A task is the name of its
    environment and the number of its goal, such as ``("reach-v3", 7)``. ML1 has one environment, so its test goals are
    numbered from 50. The agent does not observe the goal.

    Drawing the goals takes seconds for ML1 and minutes for ML45.

    :param name: The benchmark: ``ML10``, ``ML25``, ``ML45``, or for ML1 the name of an environment, such as ``reach-v3``
    :param seed: The seed of the goals
    :param max_episode_steps: The time limit, at most Meta-World's 500 steps
    :return: The environment with the training and test tasks of the benchmark
    :raises ImportError: When metaworld is not installed
    :raises ValueError: When the benchmark is unknown, or the time limit is out of range
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

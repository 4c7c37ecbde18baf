"""Task distributions of CARL: the context of an environment is the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from sb3_sgmrl.tasks.sources import make_env
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv

Ranges = Mapping[str, tuple[float, float]]


def _infinite_ranges() -> np.errstate:
    """Suppress NumPy's warnings about context features without bounds, which CARL normalises by their bounds."""
    return np.errstate(invalid="ignore")


class HiddenContext(gym.Wrapper, RecordConstructorArgs):
    """
    A CARL environment whose context is the task and is not observed.

    :param env: The environment
    :param features: The names of the context features that the numbers of a task set; other features keep CARL's defaults
    """

    def __init__(self, env: gym.Env, features: list[str]):
        RecordConstructorArgs.__init__(self, features=features)
        gym.Wrapper.__init__(self, env)
        self.features = features
        assert isinstance(env.observation_space, spaces.Dict)
        self.observation_space = env.observation_space["obs"]

    def set_task(self, task: np.ndarray) -> None:
        """
        Set the context of the following episodes.

        :param task: The values of the features, shape (n_features,)
        """
        from carl.context.selection import RoundRobinSelector

        env: Any = self.env
        context = dict(zip(self.features, np.asarray(task, dtype=np.float64).tolist(), strict=True))
        with _infinite_ranges():
            env.contexts = {0: context}
            env.context_selector = RoundRobinSelector(contexts=env.contexts)
            env.context_id = 0  # activates the context

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """
        Start an episode.

        :param seed: The seed of the initial state
        :param options: The options of the environment
        :return: The observation without the context, and info
        """
        with _infinite_ranges():
            observation, info = self.env.reset(seed=seed, options=options)
        return observation["obs"], info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """
        Play one step.

        :param action: The action
        :return: The observation without the context, reward, terminated, truncated and info
        """
        observation, *rest = self.env.step(action)
        return observation["obs"], *rest


def carl_contexts(env: Any, contexts: Ranges, test_contexts: Ranges | None = None, **kwargs: Any) -> TaskDistEnv:
    """
    Make a task distribution from a CARL environment, such as ``carl.envs.CARLPendulum``.

    The context is the task. The agent does not observe the context.

    :param env: A class of CARL environments, or an environment of CARL
    :param contexts: The lowest and highest value of each context feature that differs between tasks; values are drawn
        uniformly
    :param test_contexts: The ranges of the same features for the test tasks
    :param kwargs: The arguments passed to the class
    :return: The environment with its distribution of contexts; a task is an array in the order of ``contexts``
    :raises ImportError: When carl is not installed
    :raises ValueError: When ``env`` is not a CARL environment, or a range is invalid or of an unknown feature
    """
    from carl.envs.carl_env import CARLEnv

    with _infinite_ranges():
        made = make_env(env, kwargs)
    if not isinstance(made, CARLEnv):
        raise ValueError(f"`env` must be an environment of CARL, got {made}.")
    with _infinite_ranges():
        known = made.get_context_features()
    for name, ranges in (("contexts", contexts), ("test_contexts", contexts if test_contexts is None else test_contexts)):
        if not ranges or not ranges.keys() <= known.keys():
            raise ValueError(f"`{name}` must give ranges of {', '.join(known)}, got {dict(ranges)}.")
        if ranges.keys() != contexts.keys():
            raise ValueError(
                f"`{name}` must give ranges of the features of `contexts`, {', '.join(contexts)}, got {', '.join(ranges)}."
            )
        for feature, (low, high) in ranges.items():
            if not (np.isfinite([low, high]).all() and low <= high):
                raise ValueError(f"`{name}` must give a finite range from low to high for {feature}, got {(low, high)}.")
    return TaskDistEnv(
        HiddenContext(made, list(contexts)),
        task_space=_box(contexts, list(contexts)),
        test_tasks=None if test_contexts is None else _box(test_contexts, list(contexts)),
    )


def _box(ranges: Ranges, features: list[str]) -> spaces.Box:
    low, high = np.array([ranges[feature] for feature in features], dtype=np.float64).T
    return spaces.Box(low, high, dtype=np.float64)

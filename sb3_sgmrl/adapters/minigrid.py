"""Task distributions of MiniGrid: the layout of the grid, and with it the mission, is the task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.env_util import is_wrapped

from sb3_sgmrl.tasks.sources import make_env
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv


class SeededLayout(gym.Wrapper, RecordConstructorArgs):
    """
    A MiniGrid environment that draws its layout from the same seed in every episode.

    The mission, a text, is not observed.

    :param env: A MiniGrid environment, wrapped or not
    :param symbolic: Whether the image consists of symbols (small integers) instead of colours
    """

    def __init__(self, env: gym.Env, symbolic: bool):
        RecordConstructorArgs.__init__(self, symbolic=symbolic)
        gym.Wrapper.__init__(self, env)
        self.layout: int | None = None
        space = env.observation_space
        if isinstance(space, spaces.Dict):
            kept = {key: _symbols(part, symbolic) for key, part in space.items() if key != "mission"}
            self.observation_space = spaces.Dict(kept)
        else:
            self.observation_space = _symbols(space, symbolic)

    def set_task(self, layout: int) -> None:
        """
        Set the layout of the following episodes.

        :param layout: The seed of the layout
        """
        self.layout = int(layout)

    def get_task(self) -> int | None:
        """
        Return the current task.

        :return: The seed of the layout; None before a task is set
        """
        return self.layout

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """
        Start an episode.

        :param seed: The seed of everything random after the layout
        :param options: The options of the environment
        :return: The observation without the mission, and info
        """
        if self.layout is None:
            observation, info = self.env.reset(seed=seed, options=options)
            return self._without_mission(observation), info
        rng = self.unwrapped.np_random if seed is None else np.random.default_rng(seed)
        observation, info = self.env.reset(seed=self.layout, options=options)
        # otherwise moving objects would repeat the same moves in every episode
        self.unwrapped.np_random = rng
        return self._without_mission(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """
        Play one step.

        :param action: The action
        :return: The observation without the mission, reward, terminated, truncated and info
        """
        observation, *rest = self.env.step(action)
        return self._without_mission(observation), *rest

    def _without_mission(self, observation: Any) -> Any:
        if not isinstance(self.observation_space, spaces.Dict):
            return observation
        return {key: observation[key] for key in self.observation_space}


def _symbols(space: spaces.Space, symbolic: bool) -> spaces.Space:
    """
    Return the space of an image with its true bounds.

    SB3 treats an image with bounds up to 255 as a photograph.
    """
    if not (symbolic and isinstance(space, spaces.Box) and space.dtype == np.uint8):
        return space
    from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX

    highest = max([*OBJECT_TO_IDX.values(), *COLOR_TO_IDX.values(), *STATE_TO_IDX.values()])
    return spaces.Box(0, highest, space.shape, np.uint8)


def minigrid_layouts(
    env: Any, layouts: Iterable[int] = range(1000), test_layouts: Iterable[int] | None = range(1000, 1100), **kwargs: Any
) -> TaskDistEnv:
    """
    Make a task distribution from a MiniGrid environment, such as ``MiniGrid-Fetch-5x5-N2-v0``.

    The layout is the task. It includes all that ``reset`` draws: the positions of walls, doors, objects and the agent, and the
    mission. The agent does not observe the mission.

    Actions are discrete. Observations are dictionaries of the symbolic ``image`` and the ``direction``, for
    ``MultiInputPolicy``. For pixels and ``CnnPolicy``, pass an environment in MiniGrid's wrappers.

    :param env: The id of a MiniGrid environment, or the environment, wrapped or not
    :param layouts: The seeds of the training layouts
    :param test_layouts: The seeds of the test layouts
    :param kwargs: The arguments passed to ``gymnasium.make``
    :return: The environment with its distribution of layouts
    :raises ImportError: When minigrid is not installed
    :raises ValueError: When ``env`` is not a MiniGrid environment
    """
    import minigrid  # noqa: F401  # registers the ids
    from minigrid.minigrid_env import MiniGridEnv
    from minigrid.wrappers import RGBImgObsWrapper, RGBImgPartialObsWrapper

    made = make_env(env, kwargs)
    if not isinstance(made.unwrapped, MiniGridEnv):
        raise ValueError(f"`env` must be an environment of MiniGrid, got {made}.")
    symbolic = not (is_wrapped(made, RGBImgObsWrapper) or is_wrapped(made, RGBImgPartialObsWrapper))
    # MiniGrid implements its own time limit, so add Gymnasium's wrapper with the same limit
    limited = gym.wrappers.TimeLimit(SeededLayout(made, symbolic), made.unwrapped.max_steps)
    return TaskDistEnv(limited, tasks=layouts, test_tasks=test_layouts)

"""2-D navigation to an unobserved goal (Finn et al. 2017; Fallah et al. 2021, Table 1)."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_sgmrl.envs.array_family import ArrayFamily, ArrayTaskEnv, ArrayTaskVectorEnv

ARENA = 0.5  # positions and goals lie in [-ARENA, ARENA]^2
MAX_STEP = 0.1  # largest move per step and coordinate
GOAL_TOLERANCE = 0.01  # per coordinate
_PIXELS = 200
_GREY = (170, 170, 170)


class Navigation2D(ArrayFamily):
    """
    Navigation of a point in the square [-0.5, 0.5]² to a goal that it cannot observe.

    The point starts at the origin and moves by at most 0.1 per step and coordinate. A task is a goal, uniform on the
    square. The reward is minus the distance of the new position to the goal.

    :param squared: Whether to use the squared distance, as in the text of the paper; the published program has the plain one
    :param early_end: Whether to terminate when both coordinates are within 0.01 of the goal
    :param action_bound: The bound of actions; [-action_bound, action_bound]² maps linearly onto moves in [-0.1, 0.1]², and
        actions outside are clipped. The published program has 10, so that a standard deviation of 1 moves 0.01 per step
    """

    def __init__(self, squared: bool = False, early_end: bool = True, action_bound: float = 1.0):
        if not action_bound > 0:
            raise ValueError(f"`action_bound` must be positive, got {action_bound}.")
        super().__init__(
            observation_space=spaces.Box(-ARENA, ARENA, (2,), np.float32),
            action_space=spaces.Box(-action_bound, action_bound, (2,), np.float32),
            task_space=spaces.Box(-ARENA, ARENA, (2,), np.float64),
            default_task=(0.3, 0.4),
            initial_state=(0.0, 0.0),
        )
        self.squared = squared
        self.early_end = early_end
        self.action_bound = action_bound

    def transition(
        self, states: np.ndarray, actions: np.ndarray, tasks: np.ndarray, noise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See ``ArrayFamily``. A state is a position, and a task is a goal."""
        moves = _clip_in_place(np.multiply(actions, MAX_STEP / self.action_bound, dtype=np.float64), MAX_STEP)
        positions = _clip_in_place(states + moves, ARENA)
        deltas = positions - tasks
        squares = np.square(deltas)
        costs = squares[:, 0] + squares[:, 1]
        if not self.squared:
            np.sqrt(costs, out=costs)
        if not self.early_end:
            return positions, -costs, np.zeros(len(positions), dtype=bool)
        near = np.abs(deltas) < GOAL_TOLERANCE
        return positions, -costs, near[:, 0] & near[:, 1]

    def observe(self, states: np.ndarray) -> np.ndarray:
        """See ``ArrayFamily``."""
        return states.astype(np.float32)

    def draw(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """See ``ArrayFamily``. The picture shows the edge of the arena, the goal in green and the point in black."""
        return self.draw_path(state[None], task)

    def draw_path(self, positions: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """
        Draw a picture of a path.

        :param positions: The positions since the start of the episode, shape (n, 2)
        :param goal: The goal, shape (2,)
        :return: An RGB image, with former positions in grey
        """
        image = np.full((_PIXELS, _PIXELS, 3), 255, dtype=np.uint8)
        image[[0, -1]] = image[:, [0, -1]] = _GREY
        pixels = np.rint((positions * [1, -1] / (2 * ARENA) + 0.5) * (_PIXELS - 1)).astype(int)
        for column, row in pixels:
            image[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = _GREY
        centres = ((np.arange(_PIXELS) + 0.5) / _PIXELS - 0.5) * 2 * ARENA
        x, y = centres[None, :], -centres[:, None]
        for position, radius, colour in ((goal, 0.03, (60, 160, 60)), (positions[-1], 0.02, (0, 0, 0))):
            image[(x - position[0]) ** 2 + (y - position[1]) ** 2 < radius**2] = colour
        return image


class Navigation2DEnv(ArrayTaskEnv):
    """
    ``Navigation2D`` as a single environment.

    :param squared: See ``Navigation2D``
    :param early_end: See ``Navigation2D``
    :param action_bound: See ``Navigation2D``
    :param render_mode: The render mode, ``None`` or "rgb_array"
    """

    def __init__(
        self,
        squared: bool = False,
        early_end: bool = True,
        action_bound: float = 1.0,
        render_mode: str | None = None,
    ):
        super().__init__(Navigation2D(squared, early_end, action_bound), render_mode)
        self._path: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See ``ArrayTaskEnv``."""
        self._path = []
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See ``ArrayTaskEnv``."""
        if self.render_mode is not None:
            self._path.append(self._states[0])
        return super().step(action)

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """
        Render the path so far.

        :return: An RGB image with the way so far, or ``None`` without a render mode
        """
        if self.render_mode is None:
            return None
        assert isinstance(self.family, Navigation2D)
        return self.family.draw_path(np.stack([*self._path, self._states[0]]), self.tasks[0])


class Navigation2DVectorEnv(ArrayTaskVectorEnv):
    """
    ``Navigation2D`` as a batched environment.

    :param num_envs: The number of columns
    :param max_episode_steps: The number of steps after which an episode is truncated; ``None`` for no limit
    :param squared: See ``Navigation2D``
    :param early_end: See ``Navigation2D``
    :param action_bound: See ``Navigation2D``
    :param render_mode: The render mode, ``None`` or "rgb_array"
    """

    def __init__(
        self,
        num_envs: int,
        max_episode_steps: int | None = 100,
        squared: bool = False,
        early_end: bool = True,
        action_bound: float = 1.0,
        render_mode: str | None = None,
    ):
        super().__init__(num_envs, Navigation2D(squared, early_end, action_bound), max_episode_steps, render_mode)


def _clip_in_place(values: np.ndarray, bound: float) -> np.ndarray:
    # A third of the time of np.clip, whose Python wrapper costs more than the work on a few hundred numbers.
    np.maximum(values, -bound, out=values)
    return np.minimum(values, bound, out=values)

"""Trajectories of 2-D navigation before and after adaptation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_sgmrl.common.adaptation import AdaptiveModel, env_to_adapt_in
from sb3_sgmrl.common.evaluation import after, check_task_list, play_inner_steps
from sb3_sgmrl.data.streams import EVALUATION
from sb3_sgmrl.envs.navigation import ARENA, Navigation2DEnv
from sb3_sgmrl.plots.style import Figure, legend_below, n_rows_of_legend, spread_panels
from sb3_sgmrl.util.validation import check_positive, check_seed

_BEFORE = "0.65"
_PATHS_SHOWN = 3


@dataclass(frozen=True)
class Trajectories:
    """
    The paths of one goal's episodes in 2-D navigation.

    :param goal: The goal, shape (2,)
    :param paths: The paths: ``paths[k]`` holds the episodes after k inner steps, each of shape (n_steps, 2), from the start to
        the position before the last move
    :param mean_returns: The undiscounted returns after 0, 1, … inner steps
    """

    goal: np.ndarray
    paths: Sequence[Sequence[np.ndarray]]
    mean_returns: Sequence[float]


def navigation_trajectories(
    model: AdaptiveModel,
    env: GymEnv | str,
    tasks: Sequence[Any],
    n_steps: int = 1,
    n_episodes: int | None = None,
    seed: int = 0,
) -> list[Trajectories]:
    """
    Play 2-D navigation before and after adaptation.

    :param model: A model trained on navigation; it is not changed
    :param env: The environment to play in, as for :func:`~sb3_sgmrl.evaluate_adaptation`
    :param tasks: The goals, each of shape (2,)
    :param n_steps: The number of inner steps
    :param n_episodes: The number of episodes per inner step; as in training when None
    :param seed: The seed of the episodes
    :return: The trajectories, one per goal
    :raises ValueError: When a count is not positive, ``tasks`` is empty, ``env`` has no tasks, does not fit the model or does
        not observe positions
    """
    n_episodes = model.n_episodes if n_episodes is None else n_episodes
    check_positive(n_steps=n_steps, n_episodes=n_episodes)
    check_seed(seed)
    check_task_list(tasks)
    paths: list[list[list[np.ndarray]]] = [[] for _ in tasks]
    with env_to_adapt_in(model, env, len(tasks) * n_episodes) as vec_env:
        if vec_env.observation_space.shape != (2,):
            raise ValueError(
                f"`env` must observe a position in the plane, shape (2,), got observations {vec_env.observation_space}."
            )
        normalizer = unwrap_vec_normalize(vec_env)
        phases = play_inner_steps(model, vec_env, tasks, n_steps, n_episodes, [seed, EVALUATION, 2])
    for phase in phases:
        positions = phase.observations if normalizer is None else normalizer.unnormalize_obs(phase.observations)
        assert isinstance(positions, np.ndarray)
        for i in range(phase.n_tasks):
            paths[i].append([episode[played] for episode, played in zip(positions[i], phase.mask[i], strict=True)])
    by_task = np.stack([phase.episode_returns.mean(1) for phase in phases], axis=1).tolist()
    return [Trajectories(np.asarray(task), *rest) for task, *rest in zip(tasks, paths, by_task, strict=True)]


def is_navigation(env: VecEnv) -> bool:
    """
    Check whether :func:`navigation_trajectories` can play in an environment.

    :param env: The workers that take tasks
    :return: Whether the environment is 2-D navigation that observes positions
    """
    return isinstance(env.get_attr("unwrapped", 0)[0], Navigation2DEnv) and env.observation_space.shape == (2,)


def plot_trajectories(
    trajectories: Sequence[Trajectories] | Mapping[str, Sequence[Trajectories]], n_paths: int = _PATHS_SHOWN
) -> Figure:
    """
    Plot trajectories before and after adaptation and the goal, as in Figure 1 of the SG-MRL paper.

    Each goal has a panel and each algorithm a row.

    :param trajectories: The trajectories of one algorithm, or of several by name
    :param n_paths: The number of episodes drawn per inner step
    :return: The figure
    :raises ValueError: When there is nothing to draw
    """
    rows = dict(trajectories) if isinstance(trajectories, Mapping) else {"": trajectories}
    if not rows or not all(rows.values()):
        counts = {name: len(row) for name, row in rows.items()}
        raise ValueError(f"`trajectories` must hold at least one goal for each algorithm, got counts {counts}.")
    n_columns = max(len(row) for row in rows.values())
    most = max((one for row in rows.values() for one in row), key=lambda one: len(one.paths))
    goal = Line2D([], [], color="black", marker="*", markersize=12, linestyle="none", label="goal")
    legend = [*(Line2D([], [], color=_colour(k), label=after(k)) for k in range(len(most.paths))), goal]
    width = 2.9 * n_columns
    figure = Figure(figsize=(width, 3.2 * len(rows) + 0.3 + 0.25 * n_rows_of_legend(legend, width)), layout="constrained")
    spread_panels(figure)
    axes = figure.subplots(len(rows), n_columns, squeeze=False, sharex=True, sharey=True)
    for axis in axes.flat:
        axis.set_visible(False)
    for axis_row, (name, row) in zip(axes, rows.items(), strict=True):
        for axis, one in zip(axis_row, row, strict=False):
            axis.set_visible(True)
            _draw_trajectories(axis, one, n_paths)
        axis_row[0].set_ylabel(name)
    legend_below(figure, legend)
    return figure


def _colour(k: int) -> str:
    return _BEFORE if k == 0 else f"C{k - 1}"


def _draw_trajectories(axis: Axes, one: Trajectories, n_paths: int) -> None:
    n_steps = len(one.paths) - 1
    for k, episodes in enumerate(one.paths):
        for path in episodes[:n_paths]:
            axis.plot(path[:, 0], path[:, 1], color=_colour(k), linewidth=0.9, alpha=0.8)
    axis.plot(*one.goal, "*", color="black", markersize=12, linestyle="none")
    limit = 1.04 * ARENA
    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[-ARENA, 0, ARENA], yticks=[-ARENA, 0, ARENA])
    axis.set_title(f"return {one.mean_returns[0]:.1f} → {one.mean_returns[n_steps]:.1f}", fontsize="medium")

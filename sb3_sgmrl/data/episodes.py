"""Read logged episodes into padded arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

Observations = np.ndarray | dict[str, np.ndarray]
# the observations, actions and rewards of all steps of an episode
Episode = tuple[Observations, np.ndarray, np.ndarray]


def read_episodes(episodes: Any) -> tuple[Observations, np.ndarray, np.ndarray, np.ndarray]:
    """
    Turn logged episodes of one task into arrays, padded by zeros after the end of an episode.

    :param episodes: The list of tuples (observations, actions, rewards)
    :return: The observations, actions, rewards and the mask of played steps, shapes (1, n_episodes, n_steps, ...)
    :raises ValueError: When there is no episode, an episode has no step, shapes disagree, or values are not finite numbers
    """
    if not isinstance(episodes, (list, tuple)) or len(episodes) == 0:
        got = "none" if isinstance(episodes, (list, tuple)) else type(episodes).__name__
        raise ValueError(f"`episodes` must be a list of at least one (observations, actions, rewards), got {got}.")
    read = [_read_episode(f"episodes[{i}]", episode) for i, episode in enumerate(episodes)]
    parts = {name: [episode[name] for episode in read] for name in _same_names(read)}
    lengths = np.array([len(rewards) for rewards in parts["rewards"]])
    mask = step_by_step((np.arange(lengths.max())[:, None] < lengths)[:, None])
    padded = {name: _padded(name, arrays, mask) for name, arrays in parts.items()}
    actions, rewards = padded.pop("actions"), padded.pop("rewards")
    observations: Observations = {name[len(_OBSERVATIONS) + 1 :]: array for name, array in padded.items()}
    if _OBSERVATIONS in padded:
        observations = padded[_OBSERVATIONS]
    # rewards of a VecEnv have single precision
    return observations, actions, rewards.astype(np.float32).astype(np.float64), mask


_OBSERVATIONS = "observations"


def by_name(episode: Episode) -> dict[str, Any]:
    """
    Name the arrays of an episode.

    :param episode: The observations, actions and rewards
    :return: The arrays by name; an array per key of a dictionary has the name ``observations/KEY``
    """
    observations, actions, rewards = episode
    if isinstance(observations, dict):
        parts = {f"{_OBSERVATIONS}/{key}": array for key, array in observations.items()}
    else:
        parts = {_OBSERVATIONS: observations}
    return {**parts, "actions": actions, "rewards": rewards}


def has_names_of_episode(names: Iterable[str]) -> bool:
    """
    Tell whether these are the names that :func:`by_name` gives.

    :param names: The names
    :return: Whether none is missing and none is unknown
    """
    others = {*names} - {"actions", "rewards"}
    of_keys = {name for name in others if name.startswith(f"{_OBSERVATIONS}/")}
    return {"actions", "rewards"} <= {*names} and bool(others) and others in ({_OBSERVATIONS}, of_keys)


def from_names(arrays: dict[str, np.ndarray]) -> Episode:
    """
    Undo :func:`by_name`.

    :param arrays: The arrays by name
    :return: The observations, actions and rewards
    """
    of_keys = {name[len(_OBSERVATIONS) + 1 :]: array for name, array in arrays.items() if name.startswith(f"{_OBSERVATIONS}/")}
    return of_keys or arrays[_OBSERVATIONS], arrays["actions"], arrays["rewards"]


def _read_episode(name: str, episode: Any) -> dict[str, np.ndarray]:
    """Turn a logged episode into arrays with the same number of steps."""
    if not isinstance(episode, (list, tuple)) or len(episode) != 3:
        got = f"{len(episode)} parts" if isinstance(episode, (list, tuple)) else type(episode).__name__
        raise ValueError(f"`{name}` must be a tuple (observations, actions, rewards), got {got}.")
    arrays = {part: _numbers(f"`{name}` must have {part}", values) for part, values in by_name(episode).items()}  # type: ignore[arg-type]
    rewards = arrays["rewards"]
    if rewards.ndim != 1 or len(rewards) == 0:
        raise ValueError(f"`{name}` must have rewards of shape (n_steps,) for at least one step, got {rewards.shape}.")
    for part, array in arrays.items():
        if len(array) != len(rewards):
            hint = ": leave out the observation after the last action" if len(array) == len(rewards) + 1 else ""
            raise ValueError(f"`{name}` must have {part} for each of its {len(rewards)} rewards, got {len(array)}{hint}.")
    return arrays


def _numbers(requirement: str, values: Any) -> np.ndarray:
    """Turn values into an array of finite numbers with a first axis."""
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{requirement} of one shape in all steps.") from error
    if array.dtype.kind not in "fiub" or array.ndim == 0:
        raise ValueError(f"{requirement} that are numbers, one entry for each step, got {array.dtype} {array.shape}.")
    finite = np.isfinite(array).all(tuple(range(1, array.ndim)))
    if not finite.all():
        raise ValueError(f"{requirement} that are finite, got NaN or infinity at step {int(np.argmin(finite))}.")
    return array


def _same_names(read: Sequence[dict[str, np.ndarray]]) -> list[str]:
    for i, episode in enumerate(read):
        if episode.keys() != read[0].keys():
            raise ValueError(f"`episodes[{i}]` must have {', '.join(read[0])} as `episodes[0]`, got {', '.join(episode)}.")
    return list(read[0])


def _padded(name: str, arrays: Sequence[np.ndarray], mask: np.ndarray) -> np.ndarray:
    shape = arrays[0].shape[1:]
    for i, array in enumerate(arrays):
        if array.shape[1:] != shape:
            raise ValueError(
                f"`episodes[{i}]` must have {name} of shape {shape} at a step, as `episodes[0]`, got {array.shape[1:]}."
            )
    return map_played(lambda _: np.concatenate(arrays), mask, mask)


def step_by_step(array: np.ndarray) -> np.ndarray:
    """
    Move the axis of steps from the front, so that memory is ordered as in a rollout buffer. Rounding depends on the order.

    :param array: The array, shape (n_steps, n_tasks, n_episodes, ...)
    :return: The view, shape (n_tasks, n_episodes, n_steps, ...)
    """
    return np.moveaxis(array, 0, 2)


def map_played(function: Callable[[np.ndarray], np.ndarray], array: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """
    Apply a function to the played steps. Padding is zero.

    :param function: The function from an array (n_samples, ...) to an array (n_samples, ...), by task, episode and step
    :param array: The array, shape (n_tasks, n_episodes, n_steps, ...)
    :param mask: Whether each step was played, shape (n_tasks, n_episodes, n_steps)
    :return: The new array, shape (n_tasks, n_episodes, n_steps, ...)
    """
    values = function(array[mask])
    found = step_by_step(np.zeros((mask.shape[2], *mask.shape[:2], *values.shape[1:]), values.dtype))
    found[mask] = values
    return found

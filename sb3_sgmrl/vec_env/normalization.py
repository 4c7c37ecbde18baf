"""Update a VecNormalize from played steps only, and only during training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import maybe_transpose
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_sgmrl.data.batch import Observations, PhaseBatch, index_observations
from sb3_sgmrl.data.episodes import map_played

# Called with the raw results of a reset (observations) or a step (observations, rewards, dones, infos) before the
# statistics change. Returns the indices of the workers that continue to play and of their episodes, shapes (n,).
Look = Callable[..., tuple[np.ndarray, np.ndarray]]

# When a VecNormalize learns.
NormalizerUpdate = Literal["step", "phase"]


@contextmanager
def frozen_statistics(env: VecEnv) -> Iterator[None]:
    """
    Freeze the statistics of a VecNormalize within a ``with`` statement.

    :param env: The workers, with or without a VecNormalize
    """
    normalizer = unwrap_vec_normalize(env)
    if normalizer is None:
        yield
        return
    training, returns = normalizer.training, normalizer.returns.copy()
    normalizer.training = False
    try:
        yield
    finally:
        normalizer.training, normalizer.returns = training, returns


class LearnsFromPlayers:
    """
    Resets and steps workers so that their VecNormalize learns only from workers that play.

    The frozen observations and zero rewards of idle workers do not count. If no worker is idle, all numbers equal those of
    SB3 bit for bit.

    During a call, the VecNormalize's own learning is off, and a stand-in replaces the VecEnv below it. Statistics must be
    updated before they are used, and outer wrappers see normalised values only. Between calls, callbacks find a
    VecNormalize that they can save or synchronise.

    :param env: The workers
    :param normalizer: The VecNormalize of the workers
    :param look: A callable that sees raw results and returns the workers that continue to play; when it raises an error,
        the statistics do not change
    :param moments: Collects what the VecNormalize will learn at the end of the phase; None lets it learn after every step
    """

    def __init__(self, env: VecEnv, normalizer: VecNormalize, look: Look, moments: EpisodeMoments | None = None) -> None:
        self._env = env
        self._normalizer = normalizer
        self._below = _StandIn(normalizer, look, moments)

    def reset(self) -> Any:
        """
        Reset all workers.

        :return: The normalised observations, as ``env.reset`` returns them
        """
        with self._in_place():
            return self._env.reset()

    def step(self, actions: np.ndarray) -> Any:
        """
        Step all workers.

        :param actions: The actions, shape (n_workers, \\*action_shape)
        :return: The normalised observations and rewards, the dones and infos, as ``env.step`` returns them
        """
        with self._in_place():
            return self._env.step(actions)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        normalizer, below = self._normalizer, self._below
        training = below.learns = normalizer.training
        normalizer.venv, normalizer.training = below, False  # type: ignore[assignment]
        try:
            yield
        finally:
            normalizer.venv, normalizer.training = below.venv, training


class _StandIn:
    """The VecEnv below a VecNormalize; ``look`` sees its results, and the statistics learn from them before normalisation."""

    def __init__(self, normalizer: VecNormalize, look: Look, moments: EpisodeMoments | None) -> None:
        self.venv = normalizer.venv
        self.learns = False
        self._normalizer = normalizer
        self._look = look
        self._moments = moments
        self._players = self._episodes = np.array([], dtype=int)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.venv, name)

    def reset(self) -> Any:
        observations = self.venv.reset()
        self._players, self._episodes = self._look(observations)
        self._learn_observations(observations)
        return observations

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        played, episodes = self._players, self._episodes
        self._players, self._episodes = self._look(observations, rewards, dones, infos)
        if self.learns:
            self._normalizer.returns = self._normalizer.returns * self._normalizer.gamma + rewards
            if self._moments is None:
                self._normalizer.ret_rms.update(self._normalizer.returns[played])
            else:
                self._moments.add(RETURNS, episodes, self._normalizer.returns[played])
        self._learn_observations(observations)
        return observations, rewards, dones, infos

    def _learn_observations(self, observations: Any) -> None:
        if not (self.learns and self._normalizer.norm_obs and len(self._players)):
            return
        played = index_observations(observations, self._players)
        for key, statistics in _statistics_of_observations(self._normalizer).items():
            values = played[key] if isinstance(played, dict) else played
            if self._moments is None:
                statistics.update(values)
            else:
                self._moments.add(key, self._episodes, values)


# The name of the statistics of returns; those of observations have the key of a Dict space, or None.
RETURNS = ("returns",)


def _statistics_of_observations(normalizer: VecNormalize) -> dict[Any, RunningMeanStd]:
    statistics: Any = normalizer.obs_rms
    return statistics if isinstance(statistics, dict) else {None: statistics}


# The number of values, their mean, and the sum of squares of their differences from it.
Moments = tuple[float, np.ndarray, np.ndarray]


def merged(one: Moments, other: Moments) -> Moments:
    """
    Merge the moments of two sets of values (Chan, Golub, LeVeque 1983).

    :param one: The moments of the first set
    :param other: The moments of the second set, which is not empty
    :return: The moments of both together
    """
    n = one[0] + other[0]
    delta = other[1] - one[1]
    return n, one[1] + delta * (other[0] / n), one[2] + other[2] + delta**2 * (one[0] * other[0] / n)


class EpisodeMoments:
    """
    The moments of the observations and returns of each episode of a phase.

    Each episode adds its own values in the order of its steps (Welford 1962), whichever worker plays it.

    :param episodes: The episodes that are played
    """

    def __init__(self, episodes: range) -> None:
        self._episodes = episodes
        self._moments: dict[Any, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def add(self, name: Any, episodes: np.ndarray, values: np.ndarray) -> None:
        """
        Add a value to each of several episodes.

        :param name: The name of the values
        :param episodes: The episodes, shape (n,)
        :param values: The values, shape (n, ...)
        """
        shape = values.shape[1:]
        if name not in self._moments:
            n = len(self._episodes)
            self._moments[name] = np.zeros((n, *[1] * len(shape))), np.zeros((n, *shape)), np.zeros((n, *shape))
        counts, means, squares = self._moments[name]
        rows = episodes - self._episodes.start
        counts[rows] += 1
        delta = values - means[rows]
        means[rows] += delta / counts[rows]
        squares[rows] += delta * (values - means[rows])

    def of_tasks(self, n_episodes: int) -> list[dict[Any, Moments]]:
        """
        Merge the episodes of each task in their order.

        :param n_episodes: The number of episodes of a task
        :return: The moments of each task by name
        """
        return [
            {name: self._of_task(range(first, first + n_episodes), *of) for name, of in self._moments.items()}
            for first in range(0, len(self._episodes), n_episodes)
        ]

    @staticmethod
    def _of_task(rows: range, counts: np.ndarray, means: np.ndarray, squares: np.ndarray) -> Moments:
        return reduce(merged, ((float(counts[i].item()), means[i], squares[i]) for i in rows if counts[i].item() > 0))


def learn_phase(normalizer: VecNormalize, of_tasks: Sequence[dict[Any, Moments]]) -> None:
    """
    Let a VecNormalize learn from a whole phase.

    :param normalizer: The VecNormalize
    :param of_tasks: The moments of each task by name, in the order of the tasks
    """
    statistics: dict[Any, RunningMeanStd] = {RETURNS: normalizer.ret_rms}
    if normalizer.norm_obs:
        statistics.update(_statistics_of_observations(normalizer))
    for name, running in statistics.items():
        parts = [of_task[name] for of_task in of_tasks if name in of_task]
        if parts:
            count, mean, squares = reduce(merged, parts)
            running.update_from_moments(mean, squares / count, count)


def check_normalization(normalizer: VecNormalize | None) -> None:
    """
    Check that a VecNormalize normalises floats only, because SB3's buffers would store its results as integers.

    :param normalizer: The VecNormalize, or ``None``
    :raises ValueError: When the VecNormalize normalises observations of integers
    """
    if normalizer is None or not normalizer.norm_obs:
        return
    space = normalizer.observation_space
    parts = {key: space[key] for key in normalizer.norm_obs_keys or []} if isinstance(space, spaces.Dict) else {"": space}
    for key, part in parts.items():
        if not np.issubdtype(part.dtype, np.floating):
            name = f"observations {key!r}" if key else "observations"
            raise ValueError(f"VecNormalize needs float {name} of `env`, got {part.dtype}: wrap `env` to return floats.")


def seen_by_policy(batch: PhaseBatch, normalizer: VecNormalize | None, observation_space: spaces.Space) -> PhaseBatch:
    """
    Bring raw episodes into the form that the policy saw: normalised, and with the channels of images in front.

    :param batch: The episodes, as the environment returned them
    :param normalizer: The VecNormalize of the policy, or ``None``
    :param observation_space: The observation space of the policy
    :return: The episodes as the policy saw them
    :raises ValueError: When the shape of observations is not that of the statistics
    """
    observations, rewards, mask = batch.observations, batch.rewards, batch.mask
    if normalizer is not None:
        observations = _normalized(batch, normalizer)
        rewards = map_played(
            lambda played: normalizer.normalize_reward(played.astype(np.float32)).astype(np.float32).astype(np.float64),
            rewards,
            mask,
        )
    if isinstance(observations, dict):
        parts: Any = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {}
        observations = {
            key: _channels_first(array, mask, parts[key]) if key in parts else array for key, array in observations.items()
        }
    else:
        observations = _channels_first(observations, mask, observation_space)
    return replace(batch, observations=observations, rewards=rewards, is_raw=False)


def _normalized(batch: PhaseBatch, normalizer: VecNormalize) -> Observations:
    statistics: Any = getattr(normalizer, "obs_rms", None) if normalizer.norm_obs else None
    if statistics is None:
        return batch.observations
    wanted = {key: rms.mean.shape for key, rms in (statistics if isinstance(statistics, dict) else {None: statistics}).items()}
    arrays: Any = batch.observations if isinstance(batch.observations, dict) else {None: batch.observations}
    for key, shape in wanted.items():
        found = arrays[key].shape[3:] if key in arrays else None
        if found != shape:
            name = "observations" if key is None else f"observations[{key!r}]"
            got = "none" if found is None else f"shape {found}"
            raise ValueError(f"`episodes` must hold {name} of shape {shape}, as the model's VecNormalize, got {got}.")
    normalized: Any = normalizer.normalize_obs(index_observations(batch.observations, batch.mask))  # type: ignore[arg-type]
    if isinstance(batch.observations, dict):
        return {key: _placed(values, batch.mask) for key, values in normalized.items()}
    return _placed(normalized, batch.mask)


def _channels_first(array: np.ndarray, mask: np.ndarray, space: spaces.Space) -> np.ndarray:
    played = array[mask]
    moved = maybe_transpose(played, space)
    return array if moved is played else _placed(moved, mask)


def _placed(played: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return map_played(lambda _: played, mask, mask)

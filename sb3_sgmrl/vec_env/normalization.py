"""Update a VecNormalize from played steps only, and only during training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import maybe_transpose
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_sgmrl.data.batch import Observations, PhaseBatch, index_observations
from sb3_sgmrl.data.episodes import map_played

# Called with the raw results of a reset (observations) or a step (observations, rewards, dones, infos) before the
# statistics change. Returns the indices of the workers that continue to play, shape (n,).
Look = Callable[..., np.ndarray]


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
    """

    def __init__(self, env: VecEnv, normalizer: VecNormalize, look: Look) -> None:
        self._env = env
        self._normalizer = normalizer
        self._below = _StandIn(normalizer, look)

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

    def __init__(self, normalizer: VecNormalize, look: Look) -> None:
        self.venv = normalizer.venv
        self.learns = False
        self._normalizer = normalizer
        self._look = look
        self._players = np.array([], dtype=int)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.venv, name)

    def reset(self) -> Any:
        observations = self.venv.reset()
        self._players = self._look(observations)
        self._learn_observations(observations)
        return observations

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        played, self._players = self._players, self._look(observations, rewards, dones, infos)
        if self.learns:
            self._normalizer.returns = self._normalizer.returns * self._normalizer.gamma + rewards
            self._normalizer.ret_rms.update(self._normalizer.returns[played])
        self._learn_observations(observations)
        return observations, rewards, dones, infos

    def _learn_observations(self, observations: Any) -> None:
        if not (self.learns and self._normalizer.norm_obs and len(self._players)):
            return
        statistics: Any = self._normalizer.obs_rms
        played = index_observations(observations, self._players)
        if isinstance(played, dict):
            for key in statistics:
                statistics[key].update(played[key])
        else:
            statistics.update(played)


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

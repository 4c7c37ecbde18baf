"""Update a VecNormalize from played steps only, and only during training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_sgmrl.data.batch import index_observations

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

"""Record episodes on a robot, or in any environment without tasks, to adapt to them."""

from __future__ import annotations

import copy
import pathlib
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_sgmrl.common.adaptation import AdaptiveModel
from sb3_sgmrl.data.batch import Observations, PhaseBatch
from sb3_sgmrl.data.episodes import Episode
from sb3_sgmrl.data.spaces import stored_dtype
from sb3_sgmrl.deployment.log_file import save_episodes
from sb3_sgmrl.policies.actions import env_actions
from sb3_sgmrl.policies.calls import seeded
from sb3_sgmrl.util.validation import check_positive, check_seed


class EpisodeRecorder(gym.Wrapper, RecordConstructorArgs):
    """
    Keep the complete episodes that are played in an environment.

    Pass unclipped actions to :meth:`step`, as the policy draws them. The recorder keeps them, and the environment gets them
    clipped to its action space. An episode that is reset before its end is dropped.

    :param env: The environment, which ends its episodes; ``gymnasium.wrappers.TimeLimit`` ends them after some steps
    """

    def __init__(self, env: gym.Env) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        #: the complete episodes, tuples (observations, actions, rewards)
        self.episodes: list[Episode] = []
        self._steps: list[tuple[Any, Any, float]] = []
        self._observation: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._steps, self._observation = [], _copied(observation, self.env.observation_space)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        space = self.env.action_space
        taken = np.array(action, stored_dtype(space, of_actions=True))
        observation, reward, terminated, truncated, info = self.env.step(_for_env(space, taken))
        self._steps.append((self._observation, taken, float(reward)))
        self._observation = _copied(observation, self.env.observation_space)
        if terminated or truncated:
            observations, actions, rewards = zip(*self._steps, strict=True)
            self.episodes.append((_stacked(observations), np.stack(actions), np.array(rewards)))
            self._steps = []
        return observation, reward, terminated, truncated, info

    def batch(self) -> PhaseBatch:
        """
        Return the recorded episodes, for ``model.adapt(episodes=...)``.

        :return: The episodes as one batch
        :raises ValueError: When no episode is complete
        """
        self._check_some()
        return PhaseBatch.from_episodes(self.episodes)

    def save(self, path: str | pathlib.Path) -> None:
        """
        Write the recorded episodes to a file without pickles, for :func:`~sb3_sgmrl.deployment.load_episodes`.

        :param path: The file, which ends in ``.npz``
        :raises ValueError: When no episode is complete
        """
        self._check_some()
        save_episodes(path, self.episodes)

    def _check_some(self) -> None:
        if not self.episodes:
            raise ValueError(
                "`env` has ended no episode yet: play one to its end, or wrap `env` in gymnasium.wrappers.TimeLimit below "
                "the recorder."
            )

    def play(
        self, model: AdaptiveModel, n_episodes: int, policy: ActorCriticPolicy | None = None, seed: int = 0
    ) -> PhaseBatch:
        """
        Forget the recorded episodes, and play and record new ones with sampled actions.

        :param model: The model, whose VecNormalize normalises observations for the policy
        :param n_episodes: The number of episodes
        :param policy: The policy adapted so far, from ``model.adapt``; the model's own when None
        :param seed: The seed of the first reset and of the actions
        :return: The episodes as one batch
        :raises ValueError: When the environment does not fit the model
        """
        check_positive(n_episodes=n_episodes)
        check_seed(seed)
        self._check_fits(model)
        policy = model.policy if policy is None else policy
        policy.set_training_mode(False)
        normalizer = model.get_vec_normalize_env()
        seeds = np.random.default_rng(seed)
        self.episodes = []
        observation, _ = self.reset(seed=int(seeds.integers(2**31)))
        while len(self.episodes) < n_episodes:
            seen = observation if normalizer is None else normalizer.normalize_obs(observation)
            with th.no_grad(), seeded(int(seeds.integers(2**63)), policy.device):
                drawn = policy.get_distribution(policy.obs_to_tensor(seen)[0]).sample().cpu().numpy()
            action = drawn.reshape(self.env.action_space.shape or ())
            observation, _, terminated, truncated, _ = self.step(action)
            if (terminated or truncated) and len(self.episodes) < n_episodes:
                observation, _ = self.reset()
        return self.batch()

    def _check_fits(self, model: AdaptiveModel) -> None:
        """Check the spaces on a random step, before a robot moves."""
        observation, action = (copy.deepcopy(space).sample() for space in (self.env.observation_space, self.env.action_space))
        step = _stacked([_copied(observation, self.env.observation_space)]), np.asarray(action)[None], np.zeros(1)
        try:
            model.fit_episodes([PhaseBatch.from_episodes([step])])
        except ValueError as error:
            raise ValueError(f"`env` does not fit the model: {error}") from error


def _for_env(space: spaces.Space, action: np.ndarray) -> Any:
    return space.dtype.type(action) if isinstance(space, spaces.Discrete) else env_actions(space, action)


def _copied(observation: Any, space: spaces.Space) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _copied(observation[key], part) for key, part in space.spaces.items()}
    return np.array(observation, space.dtype)


def _stacked(observations: Any) -> Observations:
    if isinstance(observations[0], dict):
        return {key: np.stack([o[key] for o in observations]) for key in observations[0]}
    return np.stack(observations)

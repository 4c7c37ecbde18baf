"""A policy as one network: from an observation of the environment to an action for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_sgmrl.data.batch import Observations
from sb3_sgmrl.policies.copies import detached_copy
from sb3_sgmrl.policies.probing import probe_observations


class DeployedPolicy(nn.Module):
    """
    The deterministic ``predict`` of a policy, with the normalisation of observations, as a module of tensors.

    :param policy: The policy, which is copied
    :param normalizer: The VecNormalize of training, or ``None``
    :raises ValueError: When the statistics have another shape than the observations
    """

    low: th.Tensor
    high: th.Tensor

    def __init__(self, policy: ActorCriticPolicy, normalizer: VecNormalize | None) -> None:
        super().__init__()
        self.policy = detached_copy(policy).to("cpu")
        self.policy.set_training_mode(False)
        self.policy.requires_grad_(False)
        self.spaces = observation_spaces(policy.observation_space)
        self.is_dict = isinstance(policy.observation_space, spaces.Dict)
        self.action_shape = policy.action_space.shape or ()
        self.squashes = policy.squash_output
        statistics = _statistics(normalizer)
        self.normalized = [name for name in self.spaces if name in statistics]
        self.clip_obs = 0.0 if normalizer is None else float(normalizer.clip_obs)
        for i, name in enumerate(self.normalized):
            mean, std = statistics[name]
            if mean.shape != self.spaces[name].shape:
                raise ValueError(
                    f"`model` has statistics of shape {mean.shape} for observations of shape {self.spaces[name].shape}: "
                    "wrappers above its VecNormalize, such as VecFrameStack, cannot be exported."
                )
            self.register_buffer(f"mean_{i}", th.as_tensor(mean))
            self.register_buffer(f"std_{i}", th.as_tensor(std))
        if isinstance(policy.action_space, spaces.Box):
            self.register_buffer("low", th.as_tensor(policy.action_space.low))
            self.register_buffer("high", th.as_tensor(policy.action_space.high))

    def forward(self, *observations: th.Tensor) -> th.Tensor:
        """
        Choose the deterministic action.

        :param observations: The observations as the environment returns them, a tensor (n, \\*obs_shape) for each key
        :return: The actions in the environment's space, shape (n, \\*action_shape)
        """
        by_key = dict(zip(self.spaces, observations, strict=True))
        for i, name in enumerate(self.normalized):
            # in double precision, as VecNormalize
            centred = by_key[name].double() - getattr(self, f"mean_{i}")
            by_key[name] = (centred / getattr(self, f"std_{i}")).clamp(-self.clip_obs, self.clip_obs).float()
        seen: Any = by_key if self.is_dict else by_key[OBSERVATION]
        actions = self.policy._predict(seen, deterministic=True).reshape(-1, *self.action_shape)
        if not hasattr(self, "low"):
            return actions
        if self.squashes:
            return self.low + 0.5 * (actions + 1.0) * (self.high - self.low)
        return th.maximum(th.minimum(actions, self.high), self.low)


# the name of the input, unless observations are dictionaries
OBSERVATION = "observation"


def observation_spaces(space: spaces.Space) -> Mapping[str, spaces.Space]:
    """
    Name the parts of an observation.

    :param space: The observation space
    :return: The spaces by key; a single one is called ``observation``
    """
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {OBSERVATION: space}


def _statistics(normalizer: VecNormalize | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the mean and the standard deviation of each part that is normalised."""
    if normalizer is None or not normalizer.norm_obs:
        return {}
    found: Any = normalizer.obs_rms
    parts = found if isinstance(found, dict) else {OBSERVATION: found}
    return {name: (rms.mean, np.sqrt(rms.var + normalizer.epsilon)) for name, rms in parts.items()}


def random_inputs(policy: ActorCriticPolicy, normalizer: VecNormalize | None, n: int, seed: int) -> dict[str, np.ndarray]:
    """
    Draw observations as the environment could return them, some of them far from the mean.

    :param policy: The policy
    :param normalizer: The VecNormalize of training, or ``None``
    :param n: The number of observations
    :param seed: The seed
    :return: The observations by name, shapes (n, \\*obs_shape)
    """
    generator, statistics, found = np.random.default_rng(seed), _statistics(normalizer), {}
    for name, space in observation_spaces(policy.observation_space).items():
        if name in statistics:
            mean, std = statistics[name]
            spread = generator.choice([0.3, 1.0, 20.0], (n, *[1] * mean.ndim))
            values: Any = mean + std * spread * generator.standard_normal((n, *mean.shape))
        else:
            values = probe_observations(space, n, generator)
        found[name] = np.asarray(values, np.float32 if values.dtype.kind == "f" else values.dtype)
    return found


def predicted(policy: ActorCriticPolicy, normalizer: VecNormalize | None, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """
    Choose actions by SB3's own ``predict``.

    :param policy: The policy
    :param normalizer: The VecNormalize of training, or ``None``
    :param inputs: The observations by name
    :return: The deterministic actions
    """
    seen: Observations = inputs[OBSERVATION] if OBSERVATION in inputs and len(inputs) == 1 else dict(inputs)
    if isinstance(policy.observation_space, spaces.Dict):
        seen = dict(inputs)
    if normalizer is not None:
        seen = normalizer.normalize_obs(seen)  # type: ignore[arg-type,assignment]
    return policy.predict(seen, deterministic=True)[0]

"""The policies that are plain MLPs, for which there are formulas quicker than what works for every policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn


@dataclass(frozen=True)
class PlainMlp:
    """
    A policy that is an MLP from a vector or a category to the mean of a normal distribution or to logits, all of whose
    parameters are trained, on a processor, where numpy reaches them.

    :param layers: names of the linear layers, from the observation to the distribution
    :param activation: what follows each layer but the last
    :param observation_space: vectors or categories
    :param action_space: the same
    """

    layers: tuple[str, ...]
    activation: nn.Module
    observation_space: spaces.Box | spaces.Discrete
    action_space: spaces.Box | spaces.Discrete

    @classmethod
    def find(cls, policy: ActorCriticPolicy) -> PlainMlp | None:
        """
        :param policy: the policy whose architecture is looked at
        :return: None when it has another architecture
        """
        space, action_space = policy.observation_space, policy.action_space
        if not (
            type(policy).get_distribution is ActorCriticPolicy.get_distribution
            and type(policy)._get_action_dist_from_latent is ActorCriticPolicy._get_action_dist_from_latent
            and type(policy.pi_features_extractor) is FlattenExtractor
            and type(policy.mlp_extractor) is MlpExtractor
            and type(policy.action_dist) in (DiagGaussianDistribution, CategoricalDistribution)
            and type(policy.action_net) is nn.Linear
            and isinstance(space, (spaces.Box, spaces.Discrete))
            and not is_image_space(space)
            and isinstance(action_space, (spaces.Box, spaces.Discrete))
            and policy.device.type == "cpu"
            and all(parameter.requires_grad for parameter in policy.parameters())
        ):
            return None
        hidden = list(policy.mlp_extractor.policy_net)
        linear, activations = hidden[::2], hidden[1::2]
        if not all(type(module) is nn.Linear for module in linear) or len({repr(module) for module in activations}) > 1:
            return None
        activation = activations[0] if activations else nn.Identity()
        if any(True for _ in activation.children()) or any(True for _ in activation.parameters()):
            return None
        names = [f"mlp_extractor.policy_net.{2 * i}" for i in range(len(linear))]
        return cls((*names, "action_net"), activation, space, action_space)

    def inputs(self, observations: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """
        What the first layer gets.

        :param observations: shape (..., \\*obs_shape)
        :param dtype: that of the parameters
        :return: shape (..., n_inputs), categories as one-hot vectors
        """
        if isinstance(self.observation_space, spaces.Discrete):
            return np.eye(int(self.observation_space.n), dtype=dtype)[observations]
        n_leading = observations.ndim - len(self.observation_space.shape)
        return observations.reshape(*observations.shape[:n_leading], -1).astype(dtype)

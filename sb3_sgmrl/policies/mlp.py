"""The policies that are plain MLPs, for which there are formulas quicker than what works for every policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

from sb3_sgmrl.data.batch import Observations

# numpy's functions give an element the same value wherever it stands in an array; torch's compute the last few in another way
_ACTIVATIONS: dict[type[nn.Module], Callable[[np.ndarray], np.ndarray]] = {
    nn.Tanh: np.tanh,
    nn.ReLU: lambda x: np.maximum(x, 0),
}


def _activate(module: nn.Module, x: np.ndarray) -> np.ndarray:
    if type(module) in _ACTIVATIONS:
        return _ACTIVATIONS[type(module)](x)
    return np.stack([module(th.tensor(one)).numpy() for one in x])


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
            and isinstance(space, (spaces.Box, spaces.Discrete))
            and not is_image_space(space)
            and isinstance(action_space, (spaces.Box, spaces.Discrete))
            and policy.device.type == "cpu"
            and all(parameter.requires_grad for parameter in policy.parameters())
        ):
            return None
        hidden = policy.mlp_extractor.policy_net
        if type(hidden) is not nn.Sequential:
            return None
        linear, activations = [*hidden][::2], [*hidden][1::2]
        if len(linear) != len(activations) or len({repr(module) for module in activations}) > 1:
            return None
        if any(type(module) is not nn.Linear or module.bias is None for module in (*linear, policy.action_net)):
            return None
        activation = activations[0] if activations else nn.Identity()
        if any(True for _ in activation.children()) or any(True for _ in activation.parameters()):
            return None
        names = (*(f"mlp_extractor.policy_net.{2 * i}" for i in range(len(linear))), "action_net")
        mlp = cls(names, activation, space, action_space)
        # a weight may be computed from others, or be that of another layer
        own = {name for name, _ in policy.named_parameters()}
        return mlp if own.issuperset(mlp.parameter_names) else None

    @property
    def parameter_names(self) -> list[str]:
        """What a mean or logits are computed from, and the standard deviation."""
        names = [f"{layer}.{kind}" for layer in self.layers for kind in ("weight", "bias")]
        return ["log_std", *names] if isinstance(self.action_space, spaces.Box) else names

    @th.no_grad()
    def arrays(self, parameters: dict[str, th.Tensor], observations: Observations) -> tuple[np.ndarray, ...]:
        """
        Batched matrix products in numpy.

        :param parameters: by name, with the sets in front, (n_sets, \\*shape)
        :param observations: shape (n_sets, n, \\*obs_shape)
        :return: mean and standard deviation, or logits; shapes (n_sets, n, n_outputs)
        """
        turned = {name: value.transpose(1, 2) if value.dim() == 3 else value for name, value in parameters.items()}
        return self.arrays_of_turned(turned, observations)

    @th.no_grad()
    def arrays_of_turned(self, parameters: dict[str, th.Tensor], observations: Observations) -> tuple[np.ndarray, ...]:
        """
        The same of transposed weights: products with factors that are not transposed are up to three times as fast.

        :param parameters: by name, weights (n_sets, n_inputs, n_outputs)
        :param observations: shape (n_sets, n, \\*obs_shape)
        :return: mean and standard deviation, or logits; shapes (n_sets, n, n_outputs)
        """
        assert isinstance(observations, np.ndarray)
        x = self.inputs(observations, parameters["action_net.bias"].numpy().dtype)
        for i, layer in enumerate(self.layers):
            if i > 0:
                x = _activate(self.activation, x)
            x = x @ parameters[f"{layer}.weight"].numpy()
            x += parameters[f"{layer}.bias"].numpy()[:, None]
        if isinstance(self.action_space, spaces.Box):
            std = np.exp(parameters["log_std"].numpy())[:, None]
            return x, np.broadcast_to(std, x.shape)
        return (x,)

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

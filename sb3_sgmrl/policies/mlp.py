"""Policies that are plain MLPs, which have faster formulas than other policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


@dataclass(frozen=True)
class Activation:
    """
    An activation function in numpy. Its derivatives are functions of its output.

    :param function: The function, which works in place
    :param slope: The first derivative
    :param bend: The second derivative divided by the first; None where it is zero
    """

    function: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]
    bend: Callable[[np.ndarray], np.ndarray] | None = None


# in numpy, the value of an element does not depend on its place in the array; torch computes the last few differently
ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.Tanh: Activation(lambda x: np.tanh(x, out=x), lambda h: 1 - h * h, lambda h: -2 * h),
    nn.ReLU: Activation(lambda x: np.maximum(x, 0, out=x), lambda h: (h > 0).astype(h.dtype)),
    nn.Identity: Activation(lambda x: x, np.ones_like),
}


@dataclass(frozen=True)
class PlainMlp:
    """
    A policy that is an MLP from a vector or a category to the mean of a normal distribution or to logits.

    All its parameters are trainable and on the CPU, where numpy can read them.

    :param layers: The names of the linear layers, from the observation to the distribution
    :param activation: The activation after each layer but the last
    :param observation_space: The space of vectors or of categories
    :param action_space: The space of vectors or of categories
    """

    layers: tuple[str, ...]
    activation: nn.Module
    observation_space: spaces.Box | spaces.Discrete
    action_space: spaces.Box | spaces.Discrete

    @classmethod
    def find(cls, policy: ActorCriticPolicy) -> PlainMlp | None:
        """
        Find the MLP inside a policy.

        :param policy: The policy
        :return: The MLP; None when the policy has another architecture
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
        # a weight may be computed from other parameters, or be shared with another layer
        own = {name for name, _ in policy.named_parameters()}
        return mlp if own.issuperset(mlp.parameter_names) else None

    @property
    def parameter_names(self) -> list[str]:
        """The names of the parameters of the mean or logits, and of the standard deviation."""
        names = [f"{layer}.{kind}" for layer in self.layers for kind in ("weight", "bias")]
        return ["log_std", *names] if isinstance(self.action_space, spaces.Box) else names

    @th.no_grad()
    def arrays(self, parameters: dict[str, th.Tensor], observations: Observations) -> tuple[np.ndarray, ...]:
        """
        Compute the action distributions of many parameter sets by batched matrix products in numpy.

        :param parameters: The parameters by name, shapes (n_sets, \\*shape)
        :param observations: An array of shape (n_sets, n, \\*obs_shape)
        :return: The mean and standard deviation, or logits; shapes (n_sets, n, n_outputs)
        """
        turned = {name: value.transpose(1, 2) if value.dim() == 3 else value for name, value in parameters.items()}
        return self.arrays_of_turned(turned, observations)

    @th.no_grad()
    def arrays_of_turned(self, parameters: dict[str, th.Tensor], observations: Observations) -> tuple[np.ndarray, ...]:
        """
        Compute the distributions from transposed weights, as :meth:`arrays` does but up to three times as fast.

        :param parameters: The parameters by name; weights have shape (n_sets, n_inputs, n_outputs)
        :param observations: An array of shape (n_sets, n, \\*obs_shape)
        :return: The mean and standard deviation, or logits; shapes (n_sets, n, n_outputs)
        """
        assert isinstance(observations, np.ndarray)
        weights = [parameters[f"{layer}.weight"].numpy() for layer in self.layers]
        biases = [parameters[f"{layer}.bias"].numpy()[:, None] for layer in self.layers]
        x = self.forward(self.inputs(observations, biases[-1].dtype), weights, biases)[-1]
        if isinstance(self.action_space, spaces.Box):
            std = np.exp(parameters["log_std"].numpy())[:, None]
            return x, np.broadcast_to(std, x.shape)
        return (x,)

    def forward(self, inputs: np.ndarray, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray]) -> list[np.ndarray]:
        """
        Compute all layers.

        :param inputs: The inputs of the first layer, shape (..., n, n_inputs)
        :param weights: The transposed weights of each layer, shapes (..., n_inputs, n_outputs)
        :param biases: The biases of each layer, which broadcast to shapes (..., n, n_outputs)
        :return: The inputs of each layer, then the outputs of the last one
        """
        passed = [inputs]
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            if i > 0:
                passed[i] = self._activate(passed[i])
            z = passed[i] @ weight
            z += bias
            passed.append(z)
        return passed

    def _activate(self, x: np.ndarray) -> np.ndarray:
        if type(self.activation) in ACTIVATIONS:
            return ACTIVATIONS[type(self.activation)].function(x)
        return np.stack([self.activation(th.tensor(one)).numpy() for one in x])

    def inputs(self, observations: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """
        Compute the inputs of the first layer.

        :param observations: An array of shape (..., \\*obs_shape)
        :param dtype: The dtype of the parameters
        :return: An array of shape (..., n_inputs), categories as one-hot vectors
        """
        if isinstance(self.observation_space, spaces.Discrete):
            return np.eye(int(self.observation_space.n), dtype=dtype)[observations]
        n_leading = observations.ndim - len(self.observation_space.shape)
        return observations.reshape(*observations.shape[:n_leading], -1).astype(dtype)

"""Log-likelihoods of samples, and the derivatives that the inner step and the meta-gradient need."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.policies.mlp import ACTIVATIONS, PlainMlp

_Arrays = dict[str, np.ndarray]


class LogLikelihood(ABC):
    """The log-likelihood log π(a|s; θ) of each sample near one θ. Gradients and vectors v are parameters by name."""

    @abstractmethod
    def log_prob(self) -> th.Tensor:
        """
        Compute log π of each sample.

        :return: The values of log π, shape (n_samples,)
        """

    @abstractmethod
    def gradient(self, weights: th.Tensor) -> Parameters:
        """
        Compute the weighted sum of gradients, Σ w ∇log π.

        :param weights: The weights w, shape (n_samples,)
        :return: The sum Σ w ∇log π
        """

    @abstractmethod
    def directional(self, v: Parameters) -> th.Tensor:
        """
        Compute the directional derivative of each sample.

        :param v: A direction
        :return: The derivatives ∇log π ᵀv, shape (n_samples,)
        """

    @abstractmethod
    def hessian_product(self, weights: th.Tensor, v: Parameters) -> tuple[Parameters, th.Tensor]:
        """
        Compute the product of the weighted Hessian and a direction.

        :param weights: The weights w, shape (n_samples,)
        :param v: A direction
        :return: The product ∇²(Σ w log π) v, and the by-product that :meth:`directional` returns
        """


def log_likelihood(policy: FunctionalPolicy, parameters: Parameters, observations: Any, actions: th.Tensor) -> LogLikelihood:
    """
    Make the log-likelihood of samples.

    :param policy: The policy as a function
    :param parameters: The parameters θ by name
    :param observations: Tensors of shape (n_samples, \\*obs_shape)
    :param actions: The unclipped actions, tensor (n_samples, \\*action_shape)
    :return: The explicit form for a plain MLP, automatic differentiation for every other policy
    """
    mlp = policy.mlp
    # the formulas need all parameters of the layers; parameters frozen during an iteration are missing
    if mlp is not None and type(mlp.activation) in ACTIVATIONS and parameters.keys() == set(mlp.parameter_names):
        return MlpLikelihood(mlp, parameters, observations, actions)
    return AutogradLikelihood(policy, parameters, observations, actions)


class AutogradLikelihood(LogLikelihood):
    """
    The log-likelihood of any policy, by automatic differentiation.

    :param policy: The policy as a function
    :param parameters: The parameters θ by name
    :param observations: Tensors of shape (n_samples, \\*obs_shape)
    :param actions: The unclipped actions, tensor (n_samples, \\*action_shape)
    """

    def __init__(self, policy: FunctionalPolicy, parameters: Parameters, observations: Any, actions: th.Tensor) -> None:
        self._leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        self._log_prob = policy.log_prob(self._leaves, observations, actions)

    def log_prob(self) -> th.Tensor:
        return self._log_prob.detach()

    def gradient(self, weights: th.Tensor) -> Parameters:
        total = (weights * self._log_prob).sum()
        gradients = th.autograd.grad(total, list(self._leaves.values()), retain_graph=True, allow_unused=True)
        return self._by_name(gradients)

    def directional(self, v: Parameters) -> th.Tensor:
        ones = th.ones_like(self._log_prob)
        return th.autograd.grad(self._along(ones, v), ones, retain_graph=True)[0]

    def hessian_product(self, weights: th.Tensor, v: Parameters) -> tuple[Parameters, th.Tensor]:
        weights = weights.detach().clone()
        targets = [*self._leaves.values(), weights]
        # a linear layer's bias has no second derivative when nothing follows it, hence allow_unused
        *second, x = th.autograd.grad(self._along(weights, v), targets, retain_graph=True, allow_unused=True)
        return self._by_name(second), x

    def _by_name(self, gradients: Sequence[th.Tensor | None]) -> Parameters:
        """Name the gradients; None becomes zeros, for a parameter that the samples do not depend on."""
        pairs = zip(self._leaves.items(), gradients, strict=True)
        return {name: th.zeros_like(leaf) if g is None else g for (name, leaf), g in pairs}

    def _along(self, weights: th.Tensor, v: Parameters) -> th.Tensor:
        """Compute (Σ w ∇log π)ᵀv. Its derivatives are the Hessian product (by θ) and the directional derivatives (by w)."""
        total = (weights.requires_grad_() * self._log_prob).sum()
        gradient = th.autograd.grad(total, list(self._leaves.values()), create_graph=True, allow_unused=True)
        pairs = zip(gradient, self._leaves, strict=True)
        return th.stack([(g * v[name]).sum() for g, name in pairs if g is not None]).sum()


class MlpLikelihood(LogLikelihood):
    """
    The log-likelihood of a plain MLP, by back-propagation and its derivative along v (Pearlmutter 1994).

    All are matrix products over all samples. Back-propagation is linear and separate for each sample, so it runs once,
    without weights. For any weights, Σ w ∇log π then costs one matrix product per layer. On CPUs, numpy's tanh and matrix
    products are faster than torch's.

    :param mlp: The architecture
    :param parameters: The parameters θ by name
    :param observations: A tensor of shape (n_samples, \\*obs_shape)
    :param actions: The unclipped actions, tensor (n_samples, \\*action_shape)
    """

    def __init__(self, mlp: PlainMlp, parameters: Parameters, observations: th.Tensor, actions: th.Tensor) -> None:
        self._names = list(parameters)
        self._layers = mlp.layers
        self._activation = ACTIVATIONS[type(mlp.activation)]
        theta = _arrays(parameters)
        self._weights = [theta[f"{layer}.weight"] for layer in mlp.layers]
        biases = [theta[f"{layer}.bias"] for layer in mlp.layers]
        inputs = mlp.inputs(observations.numpy(), biases[0].dtype)
        # the input of every layer
        *self._inputs, output = mlp.forward(inputs, [weight.T for weight in self._weights], biases)
        self._slopes = [self._activation.slope(h) for h in self._inputs[1:]]
        self._head: _Normal | _Categorical
        if isinstance(mlp.action_space, spaces.Box):
            self._head = _Normal(
                output, theta["log_std"], actions.numpy().astype(output.dtype, copy=False).reshape(output.shape)
            )
        else:
            self._head = _Categorical(output, actions.numpy().astype(int).ravel())
        # ∂log π/∂z of every layer's output z, from the last to the first
        errors = [self._head.error]
        for weight, slope in zip(reversed(self._weights[1:]), reversed(self._slopes), strict=True):
            error = errors[-1] @ weight
            error *= slope
            errors.append(error)
        self._errors = errors[::-1]

    def log_prob(self) -> th.Tensor:
        return th.from_numpy(self._head.log_prob())

    def gradient(self, weights: th.Tensor) -> Parameters:
        w = weights.numpy()
        found = self._head.gradient(w)
        for layer, inputs, errors in zip(self._layers, self._inputs, self._errors, strict=True):
            found[f"{layer}.weight"] = (w[:, None] * errors).T @ inputs
            found[f"{layer}.bias"] = w @ errors
        return self._tensors(found)

    def directional(self, v: Parameters) -> th.Tensor:
        direction = _arrays(v)
        return th.from_numpy(self._head.directional(self._forward(direction)[0], direction))

    def hessian_product(self, weights: th.Tensor, v: Parameters) -> tuple[Parameters, th.Tensor]:
        w, direction = weights.numpy()[:, None], _arrays(v)
        output, inputs, before = self._forward(direction)
        x = self._head.directional(output, direction)
        error, found = self._head.hessian_product(w, output, direction)
        for i in range(len(self._layers) - 1, 0, -1):
            layer, weighted = self._layers[i], w * self._errors[i]
            found[f"{layer}.weight"] = error.T @ self._inputs[i] + weighted.T @ inputs[i - 1]
            found[f"{layer}.bias"] = error.sum(0)
            error = error @ self._weights[i]
            error += weighted @ direction[f"{layer}.weight"]
            error *= self._slopes[i - 1]
            if self._activation.bend is not None:
                bent = self._activation.bend(self._inputs[i])
                bent *= before[i - 1]
                bent *= self._errors[i - 1]
                bent *= w
                error += bent
        found[f"{self._layers[0]}.weight"] = error.T @ self._inputs[0]
        found[f"{self._layers[0]}.bias"] = error.sum(0)
        return self._tensors(found), th.from_numpy(x)

    def _forward(self, v: _Arrays) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
        """Compute derivatives along v: of the last output, and of the outputs and inputs of every activation."""
        after: list[np.ndarray] = []
        before: list[np.ndarray] = []
        for i, layer in enumerate(self._layers):
            z = self._inputs[i] @ v[f"{layer}.weight"].T
            z += v[f"{layer}.bias"]
            if i > 0:
                z += after[-1] @ self._weights[i].T
            if i < len(self._slopes):
                before.append(z)
                after.append(z * self._slopes[i])
        return z, after, before

    def _tensors(self, found: _Arrays) -> Parameters:
        return {name: th.from_numpy(found[name]) for name in self._names}


class _Normal:
    """The log π of normally distributed actions, as a function of the mean and of log σ."""

    def __init__(self, mean: np.ndarray, log_std: np.ndarray, actions: np.ndarray) -> None:
        self._std = np.exp(log_std)
        self._standardised = (actions - mean) / self._std
        self.error = self._standardised / self._std
        # derivative by log σ
        self._spread = self._standardised**2 - 1
        self._log_std = log_std

    def log_prob(self) -> np.ndarray:
        return (-0.5 * self._standardised**2 - self._log_std - 0.5 * math.log(2 * math.pi)).sum(1)

    def gradient(self, weights: np.ndarray) -> _Arrays:
        return {"log_std": weights @ self._spread}

    def directional(self, mean: np.ndarray, v: _Arrays) -> np.ndarray:
        return (self.error * mean).sum(1) + self._spread @ v["log_std"]

    def hessian_product(self, weights: np.ndarray, mean: np.ndarray, v: _Arrays) -> tuple[np.ndarray, _Arrays]:
        """Compute weighted derivatives of ``error`` and of the log σ gradient along v; ``mean`` is the change of the mean."""
        standardised = -mean / self._std - self._standardised * v["log_std"]
        error = weights * (standardised / self._std - self.error * v["log_std"])
        return error, {"log_std": (weights * 2 * self._standardised * standardised).sum(0)}


class _Categorical:
    """The log π of categories, as a function of the logits."""

    def __init__(self, logits: np.ndarray, actions: np.ndarray) -> None:
        self._probabilities = np.exp(logits - logits.max(1, keepdims=True))
        self._probabilities /= self._probabilities.sum(1, keepdims=True)
        self.error = np.eye(logits.shape[1], dtype=logits.dtype)[actions] - self._probabilities
        self._actions = actions

    def log_prob(self) -> np.ndarray:
        return np.log(self._probabilities[np.arange(len(self._actions)), self._actions])

    def gradient(self, weights: np.ndarray) -> _Arrays:
        return {}

    def directional(self, logits: np.ndarray, v: _Arrays) -> np.ndarray:
        return (self.error * logits).sum(1)

    def hessian_product(self, weights: np.ndarray, logits: np.ndarray, v: _Arrays) -> tuple[np.ndarray, _Arrays]:
        centred = logits - (self._probabilities * logits).sum(1, keepdims=True)
        return -weights * self._probabilities * centred, {}


def _arrays(parameters: Parameters) -> _Arrays:
    return {name: value.detach().numpy() for name, value in parameters.items()}

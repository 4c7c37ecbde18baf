"""The inner step ψ = U(θ, D), and what its transpose does to a gradient at ψ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th

from sb3_sgmrl.common.batch import TaskBatch
from sb3_sgmrl.common.functional import FunctionalPolicy, Parameters

INNER_SURROGATES = ("pathwise", "lvc", "dice")


@dataclass(frozen=True)
class WeightedSamples:
    """
    The played steps of a task with the weights of the surrogate Σ w log π.

    :param observations: tensors, (n_samples, \\*obs_shape)
    :param actions: tensor, (n_samples, \\*action_shape)
    :param weights: tensor, (n_samples,)
    :param episode_index: episode of each sample in ascending order, tensor (n_samples,)
    :param n_episodes: number of episodes
    """

    observations: Any
    actions: th.Tensor
    weights: th.Tensor
    episode_index: th.Tensor
    n_episodes: int

    @classmethod
    def make(cls, policy: FunctionalPolicy, batch: TaskBatch, weights: np.ndarray) -> WeightedSamples:
        """
        :param policy: gives device and dtype
        :param batch: the episodes of a task
        :param weights: shape (n_episodes, n_steps)
        :return: the played steps with their weights
        """
        observations, actions = batch.samples()
        return cls(
            policy.to_tensor(observations),
            th.as_tensor(actions, device=policy.device),
            th.as_tensor(weights[batch.mask], dtype=policy.dtype, device=policy.device),
            th.as_tensor(batch.episode_index, device=policy.device),
            batch.n_episodes,
        )

    def per_sample(self, per_episode: th.Tensor) -> th.Tensor:
        """
        :param per_episode: shape (n_episodes,)
        :return: the value of each sample's episode, shape (n_samples,)
        """
        return per_episode[self.episode_index]


def surrogate(kind: str, log_prob: th.Tensor, samples: WeightedSamples, weights: th.Tensor) -> th.Tensor:
    """
    A function whose gradient is Σ w ∇ log π; the kinds differ in their second derivative only.

    ``pathwise``: Σ w log π, the Jacobian with the samples held fixed that formula (A) needs. ``lvc``: the likelihood ratio
    of single steps (low-variance curvature, Rothfuss et al. 2019). ``dice``: the likelihood ratio of the episode so far,
    credited by difference (Loaded DiCE, Farquhar et al. 2019).

    :param kind: one of :data:`INNER_SURROGATES`
    :param log_prob: log π of each sample, with its graph, (n_samples,)
    :param samples: the samples, for the episode each belongs to
    :param weights: w, (n_samples,)
    :return: a scalar
    """
    if kind == "pathwise":
        return (weights * log_prob).sum()
    if kind == "lvc":
        return (weights * th.exp(log_prob - log_prob.detach())).sum()
    cumulative = log_prob.cumsum(0)
    lengths = th.bincount(samples.episode_index, minlength=samples.n_episodes)
    ends = lengths.cumsum(0)
    before_episode = th.cat([cumulative.new_zeros(1), cumulative])[ends - lengths]
    upto = cumulative - samples.per_sample(before_episode)
    before = upto - log_prob
    return (weights * (th.exp(upto - upto.detach()) - th.exp(before - before.detach()))).sum()


def _leaves(parameters: Parameters) -> Parameters:
    return {name: value.detach().requires_grad_() for name, value in parameters.items()}


def policy_gradient(policy: FunctionalPolicy, parameters: Parameters, samples: WeightedSamples) -> Parameters:
    """
    Σ w ∇ log π at the parameters: ∇̃J in the units of the weights.

    :param policy: the policy as a function
    :param parameters: where, by name
    :param samples: the episodes
    :return: gradient by name
    """
    leaves = _leaves(parameters)
    total = (samples.weights * policy.log_prob(leaves, samples.observations, samples.actions)).sum()
    return dict(zip(leaves, th.autograd.grad(total, list(leaves.values())), strict=True))


def adapt(policy: FunctionalPolicy, parameters: Parameters, samples: WeightedSamples, inner_lr: float) -> Parameters:
    """
    One inner step: U(θ, D) = θ + α Σ w ∇ log π.

    :param policy: the policy as a function
    :param parameters: θ by name
    :param samples: D with its weights
    :param inner_lr: α
    :return: ψ by name
    """
    gradient = policy_gradient(policy, parameters, samples)
    return {name: value + inner_lr * gradient[name] for name, value in parameters.items()}


@dataclass(frozen=True)
class PullBack:
    """
    A gradient v at ψ = U(θ, D), brought back to θ.

    :param pathwise: Mᵀv, M = ∂U/∂θ with the samples held fixed, by name
    :param score_term: Σ_j c_j ∇ log q(τ_j; θ), by name; None without a score term
    :param coefficients: the c_j, (n_episodes,); None without a score term
    """

    pathwise: Parameters
    score_term: Parameters | None = None
    coefficients: th.Tensor | None = None


def pull_back(
    policy: FunctionalPolicy,
    parameters: Parameters,
    samples: WeightedSamples,
    v: Parameters,
    *,
    inner_lr: float,
    kind: str = "pathwise",
    first_order: bool = False,
    score_coefficients: Any = None,
) -> PullBack:
    """
    One step of the backward recursion (B): v ← Mᵀv + Σ_j c_j s_j.

    The derivative of α∇(Σ w log π)ᵀv with respect to θ is the second-order part of Mᵀv; the same backward pass gives its
    derivative with respect to the weights, x = α ∇log π ᵀv of each sample, which is all that formula (C) needs of the network.

    :param policy: the policy as a function
    :param parameters: θ by name
    :param samples: D with its weights
    :param v: gradient at ψ by name
    :param inner_lr: α
    :param kind: inner surrogate
    :param first_order: take M = I
    :param score_coefficients: function of x (n_samples,) that returns the coefficient c_j of each episode's score
        (n_episodes,); None leaves the score term out
    :return: both parts
    """
    leaves = _leaves(parameters)
    names = list(leaves)
    if first_order and score_coefficients is None:
        return PullBack({name: v[name] for name in names})
    weights = samples.weights.detach().requires_grad_()
    log_prob = policy.log_prob(leaves, samples.observations, samples.actions)
    step = th.autograd.grad(surrogate(kind, log_prob, samples, weights), list(leaves.values()), create_graph=True)
    along_v = inner_lr * th.stack([(g * v[name]).sum() for g, name in zip(step, names, strict=True)]).sum()
    targets = [weights] if first_order else [weights, *leaves.values()]
    # a linear layer's bias has no second derivative when nothing follows it, hence allow_unused
    derivatives = th.autograd.grad(along_v, targets, retain_graph=score_coefficients is not None, allow_unused=True)
    second = [None] * len(names) if first_order else list(derivatives[1:])
    pathwise = {name: v[name] if s is None else v[name] + s for name, s in zip(names, second, strict=True)}
    if score_coefficients is None:
        return PullBack(pathwise)
    coefficients = score_coefficients(derivatives[0])
    total = (samples.per_sample(coefficients) * log_prob).sum()
    scores = th.autograd.grad(total, list(leaves.values()))
    return PullBack(pathwise, dict(zip(names, scores, strict=True)), coefficients)

"""The inner step ψ = U(θ, D), and the product of its transposed Jacobian with a gradient at ψ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch as th

from sb3_sgmrl.data.batch import TaskBatch
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.policies.likelihood import LogLikelihood, log_likelihood

InnerSurrogateName = Literal["pathwise", "lvc", "dice"]


@dataclass(frozen=True)
class WeightedSamples:
    """
    The played steps of a task with the weights of the surrogate Σ w log π.

    :param observations: The observations as tensors, (n_samples, \\*obs_shape)
    :param actions: The actions as a tensor, (n_samples, \\*action_shape)
    :param weights: The weights w as a tensor, (n_samples,)
    :param episode_index: The episode of each sample in ascending order, tensor (n_samples,)
    :param n_episodes: The number of episodes
    """

    observations: Any
    actions: th.Tensor
    weights: th.Tensor
    episode_index: th.Tensor
    n_episodes: int

    @classmethod
    def make(cls, policy: FunctionalPolicy, batch: TaskBatch, weights: np.ndarray) -> WeightedSamples:
        """
        Collect the played steps of a batch with their weights.

        :param policy: The policy, which gives device and dtype
        :param batch: The episodes of a task
        :param weights: The weights, shape (n_episodes, n_steps)
        :return: The played steps with their weights
        """
        observations, actions = batch.samples()
        return cls(
            policy.to_tensor(observations),
            th.as_tensor(actions, device=policy.device),
            th.as_tensor(weights[batch.mask], dtype=policy.dtype, device=policy.device),
            th.as_tensor(batch.episode_index, device=policy.device),
            batch.n_episodes,
        )

    def reweighted(self, weights: th.Tensor) -> WeightedSamples:
        """
        Return the same samples with other weights.

        :param weights: The new weights, shape (n_samples,)
        :return: The same samples with the new weights
        """
        return replace(self, weights=weights)

    def per_sample(self, per_episode: th.Tensor) -> th.Tensor:
        """
        Repeat the value of each episode for its samples.

        :param per_episode: The value of each episode, shape (n_episodes,)
        :return: The value of each sample's episode, shape (n_samples,)
        """
        return per_episode[self.episode_index]

    def per_episode(self, per_sample: th.Tensor) -> th.Tensor:
        """
        Sum over the samples of each episode.

        :param per_sample: The value of each sample, shape (n_samples,)
        :return: The sum over each episode, shape (n_episodes,)
        """
        return per_sample.new_zeros(self.n_episodes).index_add(0, self.episode_index, per_sample)

    def sum_before(self, per_sample: th.Tensor) -> th.Tensor:
        """
        Sum over the earlier steps of the same episode.

        :param per_sample: The value of each sample, shape (n_samples,)
        :return: The sum over the earlier steps of the same episode, shape (n_samples,)
        """
        totals = self.per_episode(per_sample)
        return per_sample.cumsum(0) - per_sample - self.per_sample(totals.cumsum(0) - totals)


def policy_gradient(policy: FunctionalPolicy, parameters: Parameters, samples: WeightedSamples) -> Parameters:
    """
    Compute Σ w ∇ log π at the parameters: ∇̃J in the units of the weights.

    :param policy: The policy as a function
    :param parameters: The parameters at which the gradient is computed, by name
    :param samples: The episodes
    :return: The gradient by name
    """
    return log_likelihood(policy, parameters, samples.observations, samples.actions).gradient(samples.weights)


def scaled(values: Parameters, relative_lr: Parameters | None) -> Parameters:
    """
    Multiply values by the relative step sizes.

    :param values: The values by name
    :param relative_lr: The factor r of each name; None for 1
    :return: The products r ⊙ values, by name
    """
    return values if relative_lr is None else {name: relative_lr[name] * value for name, value in values.items()}


def ascend(parameters: Parameters, gradient: Parameters, inner_lr: float, relative_lr: Parameters | None = None) -> Parameters:
    """
    Move the parameters along a gradient.

    :param parameters: The parameters θ, by name
    :param gradient: The gradient ∇̃J(θ, D), by name
    :param inner_lr: The step size α
    :param relative_lr: The step sizes r of the parameters in units of α; None for 1
    :return: The adapted parameters ψ = θ + α r ⊙ ∇̃J, by name
    """
    step = scaled(gradient, relative_lr)
    return {name: value + inner_lr * step[name] for name, value in parameters.items()}


def adapt(
    policy: FunctionalPolicy,
    parameters: Parameters,
    samples: WeightedSamples,
    inner_lr: float,
    relative_lr: Parameters | None = None,
) -> Parameters:
    """
    Take one inner step: U(θ, D) = θ + α r ⊙ Σ w ∇ log π.

    :param policy: The policy as a function
    :param parameters: The parameters θ, by name
    :param samples: The episodes D with their weights
    :param inner_lr: The step size α
    :param relative_lr: The step sizes r of the parameters in units of α; None for 1
    :return: The adapted parameters ψ, by name
    """
    return ascend(parameters, policy_gradient(policy, parameters, samples), inner_lr, relative_lr)


@dataclass(frozen=True)
class InnerSurrogate:
    """
    A surrogate that an inner step differentiates twice.

    All surrogates have the gradient Σ w ∇log π. They differ in the second derivative.

    :param curvature_weights: A function that returns what the second derivative along v has beside ∇²(Σ w log π) v. It takes
        the samples and x = ∇log π ᵀv of each, shape (n_samples,). It returns the weights u of Σ u ∇log π, shape (n_samples,),
        or None for zero
    :param counts_sampling: Whether the surrogate holds the derivative of the sampling distribution, which a score term counts
        too
    :param has_local_form: Whether likelihood ratios of single samples carry it over to other parameters, for several epochs
    """

    curvature_weights: Callable[[WeightedSamples, th.Tensor], th.Tensor | None]
    counts_sampling: bool
    has_local_form: bool


def pathwise_curvature(samples: WeightedSamples, x: th.Tensor) -> None:
    """
    Return no curvature weights: the surrogate is Σ w log π.

    Its Jacobian is that of formula (A), with the samples held fixed, so nothing is added.

    :param samples: The samples
    :param x: The product ∇log π ᵀv of each sample, shape (n_samples,)
    :return: None, which means zero
    """


def lvc_curvature(samples: WeightedSamples, x: th.Tensor) -> th.Tensor:
    """
    Compute the curvature weights of low-variance curvature (Rothfuss et al. 2019).

    The surrogate is Σ w π/⊥π, with the likelihood ratio of single steps. Its second derivative is Σ w (∇²log π + ∇log π ∇log
    πᵀ), so u = w x.

    :param samples: The samples
    :param x: The product ∇log π ᵀv of each sample, shape (n_samples,)
    :return: The weights u, shape (n_samples,)
    """
    return samples.weights * x


def dice_curvature(samples: WeightedSamples, x: th.Tensor) -> th.Tensor:
    """
    Compute the curvature weights of Loaded DiCE (Farquhar et al. 2019).

    The surrogate is Σ_t w_t (ρ_t − ρ_{t−1}), where ρ_t is the likelihood ratio of the episode up to step t. Beside ∇²log π,
    the second derivative of ρ_t along v is X_t Σ_{k≤t} ∇log π_k. Here X_t = Σ_{k≤t} x_k, so u_k = w_k X_k + Σ_{t>k} w_t x_t.

    :param samples: The samples
    :param x: The product ∇log π ᵀv of each sample, shape (n_samples,)
    :return: The weights u, shape (n_samples,)
    """
    weighted = samples.weights * x
    before = samples.sum_before(x)
    later = samples.per_sample(samples.per_episode(weighted)) - samples.sum_before(weighted) - weighted
    return samples.weights * (before + x) + later


INNER_SURROGATES: dict[str, InnerSurrogate] = {
    "pathwise": InnerSurrogate(pathwise_curvature, counts_sampling=False, has_local_form=True),
    "lvc": InnerSurrogate(lvc_curvature, counts_sampling=True, has_local_form=True),
    "dice": InnerSurrogate(dice_curvature, counts_sampling=True, has_local_form=False),
}


@dataclass(frozen=True)
class PullBack:
    """
    A gradient v at ψ = U(θ, D), brought back to θ.

    :param pathwise: The product Mᵀv, by name, with M = ∂U/∂θ and the samples held fixed
    :param score_term: The sum Σ c ∇ log π over the samples, by name; None without a score term
    """

    pathwise: Parameters
    score_term: Parameters | None = None


def jacobian(
    likelihood: LogLikelihood,
    samples: WeightedSamples,
    v: Parameters,
    inner_lr: float,
    relative_lr: Parameters | None,
    kind: InnerSurrogateName,
) -> Parameters:
    """
    Compute the product of the Jacobian M of an inner step with a vector.

    The product is the direction in which ψ moves when θ moves along the vector.

    :param likelihood: The log-likelihoods of the samples at θ
    :param samples: The episodes D with their weights
    :param v: A direction in the space of θ, by name
    :param inner_lr: The step size α
    :param relative_lr: The step sizes r of the parameters in units of α; None for 1
    :param kind: The inner surrogate
    :return: The product M v = v + α r ⊙ ∇²(inner surrogate) v, by name
    """
    parts, _ = _second_derivative(likelihood, samples, v, kind)
    for part in parts:
        step = scaled(part, relative_lr)
        v = {name: value + inner_lr * step[name] for name, value in v.items()}
    return v


def _second_derivative(
    likelihood: LogLikelihood, samples: WeightedSamples, v: Parameters, kind: InnerSurrogateName
) -> tuple[list[Parameters], th.Tensor]:
    """Compute the parts of ∇²(inner surrogate) v, and ∇log π ᵀv of each sample."""
    second, x = likelihood.hessian_product(samples.weights, v)
    scores = INNER_SURROGATES[kind].curvature_weights(samples, x)
    return [second] if scores is None else [second, likelihood.gradient(scores)], x


def transposed_jacobian(
    likelihood: LogLikelihood,
    samples: WeightedSamples,
    v: Parameters,
    inner_lr: float,
    relative_lr: Parameters | None,
    kind: InnerSurrogateName,
) -> tuple[Parameters, th.Tensor]:
    """
    Compute the product of the transposed Jacobian of an inner step with a vector.

    :param likelihood: The log-likelihoods of the samples at θ
    :param samples: The episodes D with their weights
    :param v: The gradient at ψ, by name
    :param inner_lr: The step size α
    :param relative_lr: The step sizes r of the parameters in units of α; None for 1
    :param kind: The inner surrogate
    :return: The product Mᵀv by name, and ∇log π ᵀ(r ⊙ v) of each sample, shape (n_samples,)
    """
    parts, x = _second_derivative(likelihood, samples, scaled(v, relative_lr), kind)
    return {name: value + inner_lr * sum(part[name] for part in parts) for name, value in v.items()}, x


def pull_back(
    policy: FunctionalPolicy,
    parameters: Parameters,
    samples: WeightedSamples,
    v: Parameters,
    *,
    inner_lr: float,
    relative_lr: Parameters | None = None,
    kind: InnerSurrogateName = "pathwise",
    first_order: bool = False,
    score_coefficients: Any = None,
) -> PullBack:
    """
    Take one step of the backward recursion (B): v ← Mᵀv + Σ c ∇log π, the sum over samples.

    Where c is the same for all samples of an episode, the second term is Σ_j c_j s_j.

    The second-order part of Mᵀv is the derivative of α∇(Σ w log π)ᵀ(r ⊙ v) by θ. Its derivative by the weights is α ∇log π ᵀ(r
    ⊙ v) of each sample. Formula (C) needs nothing else of the network.

    :param policy: The policy as a function
    :param parameters: The parameters θ, by name
    :param samples: The episodes D with their weights
    :param v: The gradient at ψ, by name
    :param inner_lr: The step size α
    :param relative_lr: The step sizes r of the parameters in units of α; None for 1
    :param kind: The inner surrogate
    :param first_order: Whether to take M = I
    :param score_coefficients: A function of α ∇log π ᵀ(r ⊙ v) (n_samples,) that returns the coefficients c (n_samples,); None
        leaves the score term out
    :return: The pathwise part and the score term
    """
    if first_order and score_coefficients is None:
        return PullBack({name: v[name] for name in parameters})
    likelihood = log_likelihood(policy, parameters, samples.observations, samples.actions)
    if first_order:
        pathwise, x = {name: v[name] for name in parameters}, likelihood.directional(scaled(v, relative_lr))
    else:
        pathwise, x = transposed_jacobian(likelihood, samples, v, inner_lr, relative_lr, kind)
    if score_coefficients is None:
        return PullBack(pathwise)
    return PullBack(pathwise, likelihood.gradient(score_coefficients(inner_lr * x)))

"""
The gradient of a local surrogate of V near the parameters that played a meta-iteration, for several steps on its episodes.

At the parameters θ_old that played, it is the estimate of formula (B). At other θ the episodes stay. Likelihood ratios say how
much more likely θ would have played them. Inner steps are recomputed from θ with the same episodes.

The outer samples are weighted by the clipped ratio at the re-adapted parameters, as in PPO (Schulman et al. 2017). The score
term keeps its coefficients at θ_old, times the clipped ratio of the inner samples. A penalty on the KL divergence of the
policies that play the inner episodes can be subtracted, as in ProMP (Rothfuss et al. 2019).

Divergences are estimates of KL(π_old ‖ π) from the samples of π_old, mean(ρ − 1 − log ρ) with ρ = π / π_old. The estimate is
not negative, has no bias, and its gradient mean((ρ − 1) ∇log π) is zero at θ_old.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch as th

from sb3_sgmrl.gradient.inner import WeightedSamples, ascend, transposed_jacobian
from sb3_sgmrl.gradient.meta_gradient import weighted_term
from sb3_sgmrl.gradient.objective import MetaObjective, TaskPhase
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.policies.likelihood import LogLikelihood, log_likelihood

# a step that is not finite is not taken, and ends the epochs
_UNCHECKED = np.errstate(over="ignore", invalid="ignore", divide="ignore")


@dataclass(frozen=True)
class PlayedPhase:
    """
    A phase of one task, with the log-likelihoods under the parameters that played it.

    :param parameters: The parameters that played the phase, by name
    :param samples: The episodes with their weights
    :param log_prob: The log-likelihood log π(a|s) of each sample, shape (n_samples,)
    """

    parameters: Parameters
    samples: WeightedSamples
    log_prob: th.Tensor

    @classmethod
    def make(cls, policy: FunctionalPolicy, phase: TaskPhase) -> PlayedPhase:
        """
        Compute the log-likelihoods of a phase.

        :param policy: The policy as a function
        :param phase: A phase of one task
        :return: The same phase with log-likelihoods
        """
        samples = WeightedSamples.make(policy, phase.batch, phase.weighted.weights)
        likelihood = log_likelihood(policy, phase.parameters, samples.observations, samples.actions)
        return cls(phase.parameters, samples, likelihood.log_prob())


@dataclass(frozen=True)
class LocalGradient:
    """
    The gradient of one task's local surrogate, and how far the policies have moved.

    :param gradient: The gradient by θ, by name
    :param clip_fraction: The part of the outer samples whose ratio is outside the clip range
    :param approx_kl: The estimated KL divergence of the adapted policy from the one that played the outer episodes
    :param inner_approx_kl: The estimated KL divergence of θ from the parameters that played the first inner episodes
    """

    gradient: Parameters
    clip_fraction: float
    approx_kl: float
    inner_approx_kl: float


def clipped_weights(weights: th.Tensor, ratio: th.Tensor, clip_range: float) -> th.Tensor:
    """
    Compute the derivative of Σ min(w ρ, w clip(ρ, 1 − ε, 1 + ε)) by log π, the surrogate of PPO.

    :param weights: The weights w, shape (n_samples,)
    :param ratio: The likelihood ratios ρ, shape (n_samples,)
    :param clip_range: The clip range ε
    :return: The products w ρ where the minimum depends on ρ, and zero elsewhere, shape (n_samples,)
    """
    is_clipped = th.where(weights > 0, ratio > 1 + clip_range, ratio < 1 - clip_range)
    return th.where(is_clipped, th.zeros_like(weights), weights * ratio)


@dataclass(frozen=True)
class LocalValue:
    """
    The local surrogate of one task without clipping, and how far the policies have moved.

    :param value: The sum Σ w ρ of the outer samples plus λ Σ c ρ of the inner ones
    :param approx_kl: The estimated KL divergence of the adapted policy from the one that played the outer episodes
    :param inner_approx_kls: The estimated KL divergence of the policy that plays the episodes of each inner step
    """

    value: float
    approx_kl: float
    inner_approx_kls: tuple[float, ...]


@dataclass(frozen=True)
class _Replayed:
    """A phase at the parameters that θ leads to. Its samples have the weights of the surrogate at these parameters."""

    likelihood: LogLikelihood
    samples: WeightedSamples
    ratio: th.Tensor


def _replay(
    policy: FunctionalPolicy, objective: MetaObjective, theta: Parameters, played: Sequence[PlayedPhase]
) -> list[_Replayed]:
    parameters = theta
    phases: list[_Replayed] = []
    for stage, phase in enumerate(played):
        samples = phase.samples
        likelihood = log_likelihood(policy, parameters, samples.observations, samples.actions)
        ratio = (likelihood.log_prob() - phase.log_prob).exp()
        if stage == len(played) - 1:
            return [*phases, _Replayed(likelihood, samples, ratio)]
        if objective.surrogate.counts_sampling:  # the surrogate is a function of the ratio
            samples = samples.reweighted(samples.weights * ratio)
        phases.append(_Replayed(likelihood, samples, ratio))
        step = likelihood.gradient(samples.weights)
        parameters = ascend(parameters, step, objective.inner_lr, objective.relative_lr)
    raise ValueError("`played` must hold the outer phase.")


@_UNCHECKED
def local_task_value(
    policy: FunctionalPolicy,
    objective: MetaObjective,
    theta: Parameters,
    played: Sequence[PlayedPhase],
    coefficients: Sequence[th.Tensor] | None = None,
) -> LocalValue:
    """
    Compute the local surrogate of one task without clipping.

    :param policy: The policy as a function
    :param objective: The objective, which names the surrogate
    :param theta: The parameters θ, by name
    :param played: The ζ + 1 phases of the task
    :param coefficients: The score coefficients at θ_old of each inner step, shape (n_samples,) each; None leaves the term out
    :return: The value
    :raises ValueError: When score coefficients are passed and their weight λ differs between parameters. No function has this
        gradient
    """
    *inner, outer = _replay(policy, objective, theta, played)
    value = float((outer.samples.weights * outer.ratio).sum())
    if coefficients is not None:
        if not isinstance(objective.score_coef, (int, float)):
            raise ValueError("`score_coef` must be a number where values of the surrogate are compared, got 'auto'.")
        for c, phase in zip(coefficients, inner, strict=True):
            value += objective.score_coef * float((c * phase.ratio).sum())
    return LocalValue(value, _approx_kl(outer.ratio), tuple(_approx_kl(phase.ratio) for phase in inner))


@_UNCHECKED
def local_task_gradient(
    policy: FunctionalPolicy,
    objective: MetaObjective,
    theta: Parameters,
    played: Sequence[PlayedPhase],
    coefficients: Sequence[th.Tensor] | None,
    clip_range: float,
    inner_kl_coefs: Sequence[float] | None = None,
) -> LocalGradient:
    """
    Compute the gradient of the local surrogate of one task.

    :param policy: The policy as a function
    :param objective: The objective, which names the gradient
    :param theta: The parameters θ, by name
    :param played: The ζ + 1 phases of the task
    :param coefficients: The score coefficients at θ_old of each inner step, shape (n_samples,) each; None leaves the term out
    :param clip_range: The clip range ε
    :param inner_kl_coefs: The weight of the KL penalty of each inner step; None leaves the penalties out
    :return: The gradient
    """
    *inner, outer = _replay(policy, objective, theta, played)
    v = outer.likelihood.gradient(clipped_weights(outer.samples.weights, outer.ratio, clip_range))
    for stage in range(len(inner) - 1, -1, -1):
        phase, back = inner[stage], v
        if not objective.first_order:
            kind, relative_lr = objective.inner_surrogate, objective.relative_lr
            back, _ = transposed_jacobian(phase.likelihood, phase.samples, v, objective.inner_lr, relative_lr, kind)
        if coefficients is not None:
            score = phase.likelihood.gradient(clipped_weights(coefficients[stage], phase.ratio, clip_range))
            weighted = weighted_term(objective, stage, score)
            back = {name: value + weighted[name] for name, value in back.items()}
        if inner_kl_coefs is not None:
            penalty = phase.likelihood.gradient(inner_kl_coefs[stage] / len(phase.ratio) * (phase.ratio - 1))
            back = {name: value - penalty[name] for name, value in back.items()}
        v = back
    outside = float(((outer.ratio - 1).abs() > clip_range).double().mean())
    return LocalGradient(v, outside, _approx_kl(outer.ratio), _approx_kl(inner[0].ratio))


def _approx_kl(ratio: th.Tensor) -> float:
    """Compute Schulman's estimate mean(ρ − 1 − log ρ), which is not negative, as in SB3's PPO."""
    return float(np.mean((ratio - 1 - ratio.log()).double().numpy(force=True)))

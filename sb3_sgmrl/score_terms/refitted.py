"""
Formula (C) with the difference D_j that an episode makes split over its steps, so that the score of a step is weighted by what
follows from it only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th

from sb3_sgmrl.gradient.advantages import AdvantageSettings, td_errors
from sb3_sgmrl.gradient.baselines import ridge_fit
from sb3_sgmrl.gradient.discounting import accumulated, discounted_sum
from sb3_sgmrl.gradient.objective import InnerStep
from sb3_sgmrl.score_terms.base import ScoreTerm, check_leaves_one_out
from sb3_sgmrl.score_terms.leave_one_out import LeaveOneOut, leave_one_out

# norm of the coefficients of all steps, as a multiple of those of whole episodes
_LARGEST = 10.0


class FirstOrderTerm(ScoreTerm):
    """
    A term whose coefficients expand the return to first order in what an episode does to the inner step. It leaves one episode
    out, so it needs two.
    """

    def check(self, settings: Any) -> None:
        super().check(settings)
        check_leaves_one_out(settings)


class Linearized(FirstOrderTerm):
    """
    The linearised score function (LSF), which takes the difference that an episode makes to be its own term of the sum:
    c_j = d_j − mean_{k≠j} d_k with d_j = Σ_t w_{j,t} x_{j,t}. That is formula (C) for an inner rule in which each episode's
    weights are its own, as in eq. (3) of the paper. A baseline that is fitted on D and advantages that are normalised over D
    change with every episode: then it is wrong to first order.
    """

    def coefficients(self, step: InnerStep) -> th.Tensor:
        own = step.samples.per_episode(step.samples.weights * step.sensitivity)
        return step.samples.per_sample(own - (own.sum() - own) / (len(own) - 1))


class Refitted(FirstOrderTerm):
    """
    Formula (C): c_j = D_j = vᵀ(U(θ, D) − U(θ, D∖τ_j)), the baseline and the normalisation refitted without τ_j. To first order
    this is J(ψ) − J(U(θ, D∖τ_j)), whose second term is independent of τ_j.
    """

    def coefficients(self, step: InnerStep) -> th.Tensor:
        x = step.sensitivity
        per_episode = _differences(step, _leave_one_out(step))
        return step.samples.per_sample(th.as_tensor(per_episode, dtype=x.dtype, device=x.device))


@dataclass(frozen=True)
class RefittedCausal(FirstOrderTerm):
    """
    The quiet form of (C). Instead of D_j, the score of step t is weighted by the generalised advantage estimate of the
    :func:`contributions` y, as if these were rewards,

        Y_t = Σ_{u≥t} κ^{u−t} (y_u + b_{u+1} − b_u),

    b the linear baseline of Σ_{u≥t} y_u, fitted on the same episodes. What precedes a step does not depend on its action, nor
    does b_t: for κ = 1 that leaves the expectation as it is, up to the O(1/N) with which an episode enters the fits, and takes
    noise away. κ < 1 takes more of it, at the price of a bias where b does not predict well, as λ < 1 in GAE.

    It costs as many sums over the steps as an advantage estimate does, and no pass through the network.

    Where a baseline with about as many features as there are steps meets all of its targets, σ goes to zero, and the y, which
    are parts of it, mean nothing any more. So a task whose Y_t have a norm of more than ten times that of the D_j has the D_j.
    They usually have a third to two thirds of it.

    :param gae_lambda: The factor κ
    """

    gae_lambda: float = 0.95

    def coefficients(self, step: InnerStep) -> th.Tensor:
        batch, x = step.phase.batch, step.sensitivity
        without = _leave_one_out(step)
        differences = _differences(step, without)
        causal = _advantages(contributions(step, step.settings, without, differences), without, self.gae_lambda)
        whole = differences[:, None] * batch.mask
        weights = causal if np.linalg.norm(causal) <= _LARGEST * np.linalg.norm(whole) else whole
        return th.as_tensor(weights[batch.mask], dtype=x.dtype, device=x.device)


def _leave_one_out(step: InnerStep) -> LeaveOneOut:
    return leave_one_out(step.phase.batch, step.settings, step.observation_space, step.phase.values)


def _differences(step: InnerStep, without: LeaveOneOut) -> np.ndarray:
    """D_j, (n_episodes,): an episode changes the weights of all others by the refit; x is what a weight does to the return."""
    mask = step.phase.batch.mask
    change = step.phase.weighted.weights[mask] - without.weights[:, mask]
    return change @ step.sensitivity.cpu().numpy().astype(change.dtype)


def contributions(step: InnerStep, settings: AdvantageSettings, without: LeaveOneOut, differences: np.ndarray) -> np.ndarray:
    """
    D_j split over the steps: y_{j,u} with Σ_u y_{j,u} = D_j, where y_u depends on what happened up to step u.

    The weights are w_t = (d_t A_t − μ) / (σ n), with A_t = Σ_{u≥t} g^{u−t} δ_u, g = γλ and d_t = γ^t or 1. With
    F = Σ w x and e_t = ∂F/∂(d_t A_t), the residual δ_u of τ_j (of the baseline fitted without τ_j) enters D_j three times:

    - in its own advantages, with E_u = Σ_{t≤u} g^{u−t} d_t (x_t − x̄) / (σ n);
    - in the fit, with Z_u = Σ_{t≤u} γ^{u−t} f_tᵀβ, f the features, G their Gram matrix and
      β = −G⁻¹ Σ_t (f_t − γ f_{t+1}) Σ_{k≤t} g^{t−k} d_k e_k over all episodes;
    - in σ, where (d_t A_t − μ)² = Σ_u of its increments when δ_u becomes known.

    This is the derivative of F by the weight of τ_j in all sums (the infinitesimal jackknife), but for the fit, whose part is
    exact. What the difference D_j has beyond the derivative is small and stands at the last step.

    :param step: the inner step
    :param settings: of the inner surrogate
    :param without: the same without each episode
    :param differences: D_j, shape (n_episodes,)
    :return: y, shape (n_episodes, n_steps)
    """
    y = influence(step, settings, without)
    y[np.arange(len(y)), step.phase.batch.mask.sum(1) - 1] += differences - y.sum(1)
    return y


def influence(step: InnerStep, settings: AdvantageSettings, without: LeaveOneOut) -> np.ndarray:
    """
    The derivative of :func:`contributions`.

    :param step: the inner step
    :param settings: of the inner surrogate
    :param without: the same without each episode
    :return: shape (n_episodes, n_steps)
    """
    batch, mask = step.phase.batch, step.phase.batch.mask
    n = mask.sum()
    x = np.zeros(mask.shape)
    x[mask] = step.sensitivity.cpu().numpy()
    g = settings.gamma * settings.gae_lambda
    d = settings.discounts(mask.shape[1])
    advantages = d * discounted_sum(td_errors(batch.rewards, without.values, settings), g) * mask
    mean = advantages.sum() / n if settings.normalize else 0.0
    centred = (advantages - mean) * mask
    # equal advantages have no scale to be part of: their weights, and so the gain, are zero
    variance = max((centred**2).sum() / n, np.finfo(float).tiny)
    reduction = settings.divisor(mask)
    unit = (np.sqrt(variance) + 1e-8 if settings.normalize else 1.0) * reduction
    centred_x = (x - (x.sum() / n if settings.normalize else 0.0)) * mask / unit
    gain = float((step.phase.weighted.weights * x).sum())
    deltas = td_errors(batch.rewards, without.values_without, settings) * mask
    own_sums = accumulated(d * centred_x, g)
    # what an episode adds to the number that the sum is divided by: its steps one by one, or itself
    share = gain / reduction * settings.shares(mask)
    y = deltas * own_sums - mean * centred_x - share
    slopes = own_sums
    if settings.normalize:
        slopes = slopes - gain / (n * variance) * accumulated(d * centred, g)
        squares = accumulated(np.broadcast_to(d**2, mask.shape), g * g)
        later = accumulated(deltas * squares, g) - mean * accumulated(np.broadcast_to(d, mask.shape), g)
        # the increments of Σ_{t≤u} (d_t A_t − μ)², A_t up to step u
        increments = 2 * deltas * _shifted(later, g) + deltas**2 * _shifted(squares, g * g) + (d * deltas - mean) ** 2
        y = y - gain / (2 * variance * n) * (increments - variance)
    if settings.predictor.is_fitted:
        features = without.features
        differences = features.copy()
        differences[:, :-1] -= settings.gamma * features[:, 1:]
        beta = ridge_fit(without.gram, -_summed(differences, slopes))
        y = y + deltas * accumulated(features @ beta, settings.gamma)
    return y * mask


def _shifted(x: np.ndarray, factor: float) -> np.ndarray:
    """Of the step before, times a factor; zero at the first."""
    out = np.zeros_like(x)
    out[..., 1:] = factor * x[..., :-1]
    return out


def _summed(features: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Features times x, (n_episodes, n_steps), summed over all steps."""
    return features.reshape(-1, features.shape[-1]).T @ x.ravel()


def _advantages(y: np.ndarray, without: LeaveOneOut, gae_lambda: float) -> np.ndarray:
    """
    Y_t of :class:`RefittedCausal`.

    :param y: contributions, shape (n_episodes, n_steps), zero where nothing was played
    :param without: the features of the baseline
    :param gae_lambda: κ
    :return: shape (n_episodes, n_steps)
    """
    b = without.features @ ridge_fit(without.gram, _summed(without.features, discounted_sum(y, 1.0)))
    residuals = y - b
    residuals[:, :-1] += b[:, 1:]
    return discounted_sum(residuals, gae_lambda)

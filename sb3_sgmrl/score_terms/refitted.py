"""
Score terms of formula (C), and the split of the difference D_j that an episode makes over its steps.

With the split, only the consequences of a step weight its score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th

from sb3_sgmrl.gradient.advantages import AdvantageSettings, td_errors, unit_rewards
from sb3_sgmrl.gradient.baselines import ridge_fit
from sb3_sgmrl.gradient.discounting import accumulated, discounted_sum
from sb3_sgmrl.gradient.objective import InnerStep
from sb3_sgmrl.score_terms.base import ScoreTerm, check_leaves_one_out
from sb3_sgmrl.score_terms.leave_one_out import LeaveOneOut, leave_one_out

# largest norm of the coefficients of all steps, as a multiple of the norm of those of whole episodes
_LARGEST = 10.0


class FirstOrderTerm(ScoreTerm):
    """
    Base class of terms that expand the return to first order in the effect of an episode on the inner step.

    Such a term leaves one episode out, so it needs two.
    """

    def check(self, settings: Any) -> None:
        super().check(settings)
        check_leaves_one_out(settings)


class Linearized(FirstOrderTerm):
    """
    Linearised score function (LSF): the difference that an episode makes is its own term of the sum.

    c_j = d_j − mean_{k≠j} d_k with d_j = Σ_t w_{j,t} x_{j,t}.

    This is formula (C) for an inner rule in which each episode's weights are its own, as in eq. (3) of the paper.
    A baseline fitted on D and advantages normalised over D change with every episode. With them, LSF is wrong to first order.
    """

    def coefficients(self, step: InnerStep) -> th.Tensor:
        own = step.samples.per_episode(step.samples.weights * step.sensitivity)
        return step.samples.per_sample(own - (own.sum() - own) / (len(own) - 1))


class Refitted(FirstOrderTerm):
    """
    Formula (C): c_j = D_j = vᵀ(U(θ, D) − U(θ, D∖τ_j)), with the baseline and the normalisation refitted without τ_j.

    To first order D_j is J(ψ) − J(U(θ, D∖τ_j)). The second term of this difference is independent of τ_j.
    """

    def coefficients(self, step: InnerStep) -> th.Tensor:
        x = step.sensitivity
        per_episode = _differences(step, _leave_one_out(step))
        return step.samples.per_sample(th.as_tensor(per_episode, dtype=x.dtype, device=x.device))


@dataclass(frozen=True)
class RefittedCausal(FirstOrderTerm):
    """
    Low-noise form of (C): a generalised advantage estimate instead of D_j weights the score of each step.

    The estimate treats the :func:`contributions` y as rewards,

        Y_t = Σ_{u≥t} κ^{u−t} (y_u + b_{u+1} − b_u),

    where b is the linear baseline of Σ_{u≥t} y_u, fitted on the same episodes.

    The past of a step does not depend on its action, nor does b_t. So κ = 1 removes noise and keeps the expectation, up to the
    O(1/N) with which an episode enters means and fits: a bias of order α/N, where D_j alone has O(α²/N). κ < 1 removes more
    noise. Its price is a bias where b does not predict well, as with λ < 1 in GAE.

    The cost is as many sums over the steps as for an advantage estimate, and no pass through the network.

    A baseline with about as many features as steps may meet all of its targets. Then σ goes to zero, and the y, which are
    parts of σ, lose their meaning. So a task with fewer than two steps for each feature uses D_j when its Y_t have a norm of
    more than ten times that of the D_j. Usually the Y_t have a third to two thirds of the norm of the D_j.

    :param gae_lambda: The factor κ
    """

    gae_lambda: float

    def coefficients(self, step: InnerStep) -> th.Tensor:
        batch, x = step.phase.batch, step.sensitivity
        without = _leave_one_out(step)
        differences = _differences(step, without)
        causal = _advantages(contributions(step, step.settings, without, differences), without, self.gae_lambda)
        whole = differences[:, None] * batch.mask
        too_large = np.linalg.norm(causal) > _LARGEST * np.linalg.norm(whole)
        weights = whole if too_large and not without.can_be_fitted.all() else causal
        return th.as_tensor(weights[batch.mask], dtype=x.dtype, device=x.device)


def _leave_one_out(step: InnerStep) -> LeaveOneOut:
    return leave_one_out(step.phase.batch, step.settings, step.observation_space, step.phase.values)


def _differences(step: InnerStep, without: LeaveOneOut) -> np.ndarray:
    """
    Compute D_j, shape (n_episodes,).

    An episode changes the weights of all others by the refit. The sensitivity x is the effect of a weight on the return.
    """
    mask = step.phase.batch.mask
    change = step.phase.weighted.weights[mask] - without.weights[:, mask]
    return change @ step.sensitivity.cpu().numpy().astype(change.dtype)


def contributions(step: InnerStep, settings: AdvantageSettings, without: LeaveOneOut, differences: np.ndarray) -> np.ndarray:
    """
    Split D_j over the steps: y_{j,u} with Σ_u y_{j,u} = D_j, where y_u depends on the episode up to step u.

    The weights are w_t = (d_t A_t − μ) / (σ n); here A_t = Σ_{u≥t} g^{u−t} δ_u, g = γλ and d_t = γ^t or 1.
    Define F = Σ w x and e_t = ∂F/∂(d_t A_t). The δ_u of τ_j is the residual of mean reward and baseline without τ_j.
    Step u of τ_j enters D_j four times:

    - in its own advantages, with E_u = Σ_{t≤u} g^{u−t} d_t (x_t − x̄) / (σ n);
    - in the fit, with Z_u = Σ_{t≤u} γ^{u−t} f_tᵀβ; here
      β = −G⁻¹ Σ_t (f_t − γ f_{t+1}) Σ_{k≤t} g^{t−k} d_k e_k over all episodes;
    - in σ, where (d_t A_t − μ)² = Σ_u of its increments when δ_u becomes known;
    - in the mean reward c of :func:`~sb3_sgmrl.gradient.advantages.centred`, with ∂F/∂c (r_u − c) / n.

    Here f are the features and G is their Gram matrix.

    This is the derivative of F by the weight of τ_j in all sums (the infinitesimal jackknife).
    It is taken at D, whose means and fits contain the future of τ_j. Only the part of the fit is exact.
    The rest of D_j beyond the derivative is small and is added at the last step.

    :param step: The inner step
    :param settings: The settings of the inner surrogate
    :param without: The weights without each episode
    :param differences: The D_j, shape (n_episodes,)
    :return: The contributions y, shape (n_episodes, n_steps)
    """
    y = influence(step, settings, without)
    y[np.arange(len(y)), step.phase.batch.mask.sum(1) - 1] += differences - y.sum(1)
    return y


def influence(step: InnerStep, settings: AdvantageSettings, without: LeaveOneOut) -> np.ndarray:
    """
    Compute the derivative of :func:`contributions`.

    :param step: The inner step
    :param settings: The settings of the inner surrogate
    :param without: The weights without each episode
    :return: The derivative for each step, shape (n_episodes, n_steps)
    """
    batch, mask = step.phase.batch, step.phase.batch.mask
    n = mask.sum()
    x = np.zeros(mask.shape)
    x[mask] = step.sensitivity.cpu().numpy()
    if settings.normalize and not step.phase.weighted.weights.any():  # without information there is no scale
        return np.zeros(mask.shape)
    g = settings.gamma * settings.gae_lambda
    d = settings.discounts(mask.shape[1])
    advantages = d * discounted_sum(td_errors(without.rewards, without.values, settings), g) * mask
    mean = advantages.sum() / n if settings.normalize else 0.0
    centred = (advantages - mean) * mask
    variance = (centred**2).sum() / n
    reduction = settings.divisor(mask)
    unit = (np.sqrt(variance) if settings.normalize else 1.0) * reduction
    centred_x = (x - (x.sum() / n if settings.normalize else 0.0)) * mask / unit
    gain = float((step.phase.weighted.weights * x).sum())
    deltas = without.residuals(settings) * mask
    own_sums = accumulated(d * centred_x, g)
    # contribution of an episode to the divisor of the sum: each of its steps, or the episode itself
    share = gain / reduction * settings.shares(mask)
    y = deltas * own_sums - mean * centred_x - share
    slopes = own_sums
    if settings.normalize:
        slopes = slopes - gain / (n * variance) * accumulated(d * centred, g)
        squares = accumulated(np.broadcast_to(d**2, mask.shape), g * g)
        later = accumulated(deltas * squares, g) - mean * accumulated(np.broadcast_to(d, mask.shape), g)
        # the increments of Σ_{t≤u} (d_t A_t − μ)², with A_t up to step u
        increments = 2 * deltas * _shifted(later, g) + deltas**2 * _shifted(squares, g * g) + (d * deltas - mean) ** 2
        y = y - gain / (2 * variance * n) * (increments - variance)
    if settings.predictor.is_fitted:
        features = without.features
        differences = features.copy()
        differences[:, :-1] -= settings.gamma * features[:, 1:]
        beta = ridge_fit(without.gram, -_summed(differences, slopes))
        fit = accumulated(features @ beta, settings.gamma)
        y = y + deltas * fit
        slopes = slopes + fit
    if settings.normalize:
        left = batch.rewards
        if settings.predictor.needs_critic:
            left = td_errors(left, without.values, settings)
        by_mean = -(slopes * unit_rewards(mask, settings.gamma)).sum()
        y = y + by_mean / n * (left - without.mean_rewards[:, None])
    return y * mask


def _shifted(x: np.ndarray, factor: float) -> np.ndarray:
    """Return ``x`` of the step before, times a factor; zero at the first step."""
    out = np.zeros_like(x)
    out[..., 1:] = factor * x[..., :-1]
    return out


def _summed(features: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the features times x, (n_episodes, n_steps), summed over all steps."""
    return features.reshape(-1, features.shape[-1]).T @ x.ravel()


def _advantages(y: np.ndarray, without: LeaveOneOut, gae_lambda: float) -> np.ndarray:
    """
    Compute Y_t of :class:`RefittedCausal`.

    :param y: The contributions, shape (n_episodes, n_steps), zero where nothing was played
    :param without: The features of the baseline
    :param gae_lambda: The factor κ
    :return: The advantages Y, shape (n_episodes, n_steps)
    """
    b = without.features @ ridge_fit(without.gram, _summed(without.features, discounted_sum(y, 1.0)))
    residuals = y - b
    residuals[:, :-1] += b[:, 1:]
    return discounted_sum(residuals, gae_lambda)

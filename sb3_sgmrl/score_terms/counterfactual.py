"""
Estimates of the return that adaptation would have reached without each inner episode, from the episodes that were played.

This b_j has the least noise in Σ_j (J̃ − b_j) s_j. J̃ and b_j are means over the same outer episodes, so most of their noise
cancels. The difference that one inner episode makes remains.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_sgmrl.distributed import ALONE, Ranks
from sb3_sgmrl.gradient.baselines import predict_from
from sb3_sgmrl.gradient.inner import WeightedSamples, adapt
from sb3_sgmrl.gradient.objective import MetaObjective, TaskPhase
from sb3_sgmrl.policies.calls import unchecked_distributions
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.score_terms.control_variates import others_mean
from sb3_sgmrl.score_terms.leave_one_out import leave_one_out_parameters

# Variance of leave-one-task-out relative to the counterfactual's on 2-D navigation, by effective sample size: a fifth at 0.43,
# half at 0.64, seven times at 0.86.
MIN_EFFECTIVE_SAMPLE_SIZE = 0.75
# A weight has mean 1, so by Markov's inequality it is larger than e^50 with probability e^-50 at most. Clipping it there has
# no visible effect and keeps everything finite in single precision.
_LARGEST_LOG_WEIGHT = 50.0


@dataclass(frozen=True)
class Counterfactuals:
    """
    Control variates, and how far they can be trusted.

    :param baselines: The b of each inner step, shape (n_tasks, n_episodes)
    :param effective_sample_size: The effective sample size of the weights, as a fraction of their number, shape
        (n_inner_steps, n_tasks)
    :param used: Whether the counterfactuals are used, shape (n_inner_steps, n_tasks); false where the weights of the other
        tasks were too uneven
    """

    baselines: list[np.ndarray]
    effective_sample_size: np.ndarray
    used: np.ndarray


def counterfactual_baselines(
    policy: FunctionalPolicy,
    objective: MetaObjective,
    space: spaces.Space,
    phases: Sequence[Sequence[TaskPhase]],
    otherwise: Sequence[np.ndarray],
    min_effective_sample_size: float = MIN_EFFECTIVE_SAMPLE_SIZE,
    executor: ThreadPoolExecutor | None = None,
    ranks: Ranks = ALONE,
) -> Counterfactuals:
    """
    Estimate b_j, the return after adaptation without τ_j, for all tasks.

    The estimate is unbiased, see :func:`task_counterfactuals`. ``otherwise`` replaces it where the mean effective sample size
    of the *other* tasks is too small. A decision by the task's own weights would bias the score term, because the outer
    episodes follow from τ_j. A single task has no other tasks, so its weights are always used.

    :param policy: The policy as a function
    :param objective: The inner step, and γ of the outer surrogate
    :param space: The observation space
    :param phases: The ζ + 1 phases of every task
    :param otherwise: The other control variates for each inner step, shape (n_tasks, n_episodes). Each is independent of
        its τ_j and of all later episodes of its task
    :param min_effective_sample_size: The smallest accepted effective sample size, as a fraction of the number of weights
    :param executor: The threads over tasks; None computes the tasks one after another
    :param ranks: The ranks that share the tasks
    :return: The control variates
    """
    work = partial(task_counterfactuals, policy, objective, space)
    own = ranks.own(len(phases))
    arguments = [of_tasks[own.start : own.stop] for of_tasks in (phases, list(np.stack(list(otherwise), axis=1)))]
    with unchecked_distributions():  # parameters without an episode may overflow
        of_own = list(executor.map(work, *arguments) if executor else map(work, *arguments))
    found = ranks.gathered(of_own)
    sizes = np.stack([size for _, size in found], axis=1)
    enough = np.array([others_mean(of_stage) >= min_effective_sample_size for of_stage in sizes])
    used = enough | (len(phases) == 1)
    reweighted = np.stack([b for b, _ in found], axis=1)
    baselines = [np.where(u[:, None], b, other) for u, b, other in zip(used, reweighted, otherwise, strict=True)]
    return Counterfactuals(baselines, sizes, used)


def task_counterfactuals(
    policy: FunctionalPolicy,
    objective: MetaObjective,
    space: spaces.Space,
    trace: Sequence[TaskPhase],
    otherwise: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Estimate the counterfactual returns b_j of one task.

    After θᵗ the inner step without τ_j leads to φ = U(θᵗ, D∖τ_j), with the baseline and the normalisation refitted.
    Each later inner batch D′, weighted by ω′ = q(D′; φ) / q(D′; θᵗ⁺¹), leads on to U(φ, D′). Definitions:

    - ω is the product of these weights;
    - φ is from here on the parameters reached at the end;
    - ψ are the parameters that played the M outer episodes;
    - ρ_h = ω Π_{k≤h} π(a_k|s_k; φ) / π(a_k|s_k; ψ), which is ω before the first step.

    Then

        b_j = c_j (1 − ω) + mean_m Σ_h γ^h [ρ_h r_h + (ρ_{h−1} − ρ_h) V(s_h)].

    Only the decisions that precede a reward weight it. V is a linear regression on the last inner batch.
    V and c_j take away the noise that the weights would add.
    Given the episodes up to D, ω and ρ_h have mean 1. Given s_h as well, ρ_h has mean ρ_{h−1}.
    So E[b_j | D] = V_k(φ), the return that the k remaining steps reach from φ.
    V_k(φ) is a function of D∖τ_j, so b_j s_j has mean zero.

    The cost for each j is an inner step, from the derivatives of one pass over D. One pass over the outer episodes without
    derivatives follows. Each remaining step adds an inner step.

    :param policy: The policy as a function
    :param objective: The inner step, and γ of the outer surrogate
    :param space: The observation space
    :param trace: The ζ + 1 phases of the task
    :param otherwise: The control variates c, shape (n_inner_steps, n_episodes). Where φ is beyond floating point, b_j
        is c_j
    :return: The control variates b, shape (n_inner_steps, n_episodes), and the effective sample sizes, shape (n_inner_steps,).
        Each size is of the weights of whole episodes, of all j together
    """
    batch = trace[-1].batch
    later = [_Played.make(policy, phase) for phase in trace[1:]]
    values = predict_from(trace[-2].batch, batch, space, objective.outer.gamma)
    discount = objective.outer.gamma ** np.arange(batch.rewards.shape[1])
    baselines, sizes = [], []
    for stage, c in enumerate(otherwise):
        without = leave_one_out_parameters(policy, trace[stage], objective, space)
        log_weights = np.stack([_log_weights(policy, objective, p, later[stage:], batch.mask) for p in without])
        weights = np.exp(np.minimum(log_weights, _LARGEST_LOG_WEIGHT))
        before, after = weights[..., :-1], weights[..., 1:]
        returns = (after * batch.rewards + (before - after) * values) @ discount
        b = c * (1 - weights[:, 0, 0]) + returns.mean(1)
        baselines.append(np.where(np.isnan(b), c, b))
        sizes.append(effective_sample_size(log_weights[..., -1]))
    return np.stack(baselines), np.array(sizes)


def effective_sample_size(log_weights: np.ndarray) -> float:
    """
    Compute the effective sample size (Σw)² / (n Σw²): 1 for equal weights, 1/n when all but one are zero.

    The weights are first divided by the largest, so none is too large or too small to be squared.

    :param log_weights: The log w, of any shape; weights that are NaN count as zero
    :return: The size as a fraction of the number of weights; 0 when all are zero
    """
    log_weights = np.where(np.isnan(log_weights), -np.inf, log_weights)
    largest = log_weights.max()
    if largest == -np.inf:
        return 0.0
    weights = np.exp(log_weights - largest)
    return float(weights.sum() ** 2 / (weights.size * (weights**2).sum()))


@dataclass(frozen=True)
class _Played:
    """
    A batch with the log-likelihood of its samples.

    :param samples: A later batch, with its weights in the surrogate
    :param log_prob: The log-likelihood of its samples under the parameters that played it, shape (n_samples,)
    """

    samples: WeightedSamples
    log_prob: th.Tensor

    @classmethod
    def make(cls, policy: FunctionalPolicy, phase: TaskPhase) -> _Played:
        samples = WeightedSamples.make(policy, phase.batch, phase.weighted.weights)
        with th.no_grad():
            return cls(samples, policy.log_prob(phase.parameters, samples.observations, samples.actions))

    @th.no_grad()
    def log_ratios(self, policy: FunctionalPolicy, parameters: Parameters) -> th.Tensor:
        """Return log π of the samples under ``parameters`` minus log π under the parameters that played them, (n_samples,)."""
        return (policy.log_prob(parameters, self.samples.observations, self.samples.actions) - self.log_prob).double()


def _log_weights(
    policy: FunctionalPolicy, objective: MetaObjective, parameters: Parameters, later: Sequence[_Played], mask: np.ndarray
) -> np.ndarray:
    """
    Compute log ρ before the first and after each step of the outer episodes.

    :param policy: The policy as a function
    :param objective: The objective with the step sizes
    :param parameters: The parameters φ after the step that an episode is left out of
    :param later: The batches that follow, the outer one last
    :param mask: The mask of the outer episodes, shape (n_episodes, n_steps)
    :return: The log ρ, shape (n_episodes, n_steps + 1)
    """
    *inner, outer = later
    log_omega = 0.0
    for played in inner:
        log_omega += float(played.log_ratios(policy, parameters).sum())
        parameters = adapt(policy, parameters, played.samples, objective.inner_lr, objective.relative_lr)
    log_weights = np.zeros((mask.shape[0], mask.shape[1] + 1))
    log_weights[:, 0] = log_omega
    log_weights[:, 1:][mask] = outer.log_ratios(policy, parameters).cpu().numpy()
    return log_weights.cumsum(1)

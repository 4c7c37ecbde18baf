"""
The return that adaptation would have reached without each inner episode in turn, estimated on the episodes that were played.

It is the quietest b_j for Σ_j (J̃ − b_j) s_j: J̃ and b_j are means over the same outer episodes, so that most of their noise
cancels, and what is left is the difference that one inner episode makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_sgmrl.gradient.baselines import predict_from
from sb3_sgmrl.gradient.inner import WeightedSamples, adapt
from sb3_sgmrl.gradient.objective import MetaObjective, TaskPhase
from sb3_sgmrl.policies.calls import unchecked_distributions
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.score_terms.control_variates import others_mean
from sb3_sgmrl.score_terms.leave_one_out import leave_one_out_parameters

# On 2-D navigation leave-one-task-out has a fifth of the counterfactual's variance at an effective sample size of 0.43, half
# of it at 0.64, and seven times as much at 0.86.
MIN_EFFECTIVE_SAMPLE_SIZE = 0.75
# A weight has mean 1, so by Markov's inequality it is larger than e^50 with probability e^-50 at most. Cutting it off there
# changes nothing that will be seen, and keeps everything finite in single precision.
_LARGEST_LOG_WEIGHT = 50.0


@dataclass(frozen=True)
class Counterfactuals:
    """
    Control variates, and how far they can be trusted.

    :param baselines: b for each inner step, shape (n_tasks, n_episodes)
    :param effective_sample_size: of the weights, as a fraction of their number, shape (n_inner_steps, n_tasks)
    :param used: false where the other tasks' weights were too uneven, shape (n_inner_steps, n_tasks)
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
) -> Counterfactuals:
    """
    b_j = an unbiased estimate of the return after adaptation without τ_j, see :func:`task_counterfactuals`; or ``otherwise``
    where the mean effective sample size of the *other* tasks is too small. A decision by the task's own weights would bias the
    score term, because the outer episodes follow from τ_j. With a single task there are no others to ask, and its weights are
    always used.

    :param policy: the policy as a function
    :param objective: the inner step, and γ of the outer surrogate
    :param space: observation space
    :param phases: ζ + 1 phases of every task
    :param otherwise: other control variates, each independent of its τ_j and of all later episodes of its task: for each inner
        step, shape (n_tasks, n_episodes)
    :param min_effective_sample_size: as a fraction of the number of weights
    :param executor: threads over tasks; None computes them one after another
    :return: the control variates
    """
    work = partial(task_counterfactuals, policy, objective, space)
    arguments = phases, list(np.stack(list(otherwise), axis=1))
    with unchecked_distributions():  # parameters without an episode may be beyond floating point
        found = list(executor.map(work, *arguments) if executor else map(work, *arguments))
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
    The counterfactuals of one task. After θᵗ the inner step without τ_j leads to φ = U(θᵗ, D∖τ_j), where the baseline and the
    normalisation are refitted, and each later inner batch D′, weighted by ω′ = q(D′; φ) / q(D′; θᵗ⁺¹), leads on to U(φ, D′).
    With ω the product of these weights, φ what is reached at the end, ψ what played the M outer episodes, and ρ_h = ω Π_{k≤h}
    π(a_k|s_k; φ) / π(a_k|s_k; ψ), which is ω before the first step,

        b_j = c_j (1 − ω) + mean_m Σ_h γ^h [ρ_h r_h + (ρ_{h−1} − ρ_h) V(s_h)].

    Each reward is weighted by the decisions that precede it only. V, a linear regression on the last inner batch, and c_j take
    away what the weights would add to the noise: given the episodes up to D, ω and ρ_h have mean 1 and ρ_h has mean ρ_{h−1}
    given s_h, so that E[b_j | D] = V_k(φ), the return that the k remaining steps reach from φ. That is a function of D∖τ_j:
    b_j s_j has mean zero.

    For each j it takes an inner step from the derivatives of one pass over D, and one pass over the outer episodes without
    derivatives; and, if steps remain, an inner step for each.

    :param policy: the policy as a function
    :param objective: the inner step, and γ of the outer surrogate
    :param space: observation space
    :param trace: ζ + 1 phases of the task
    :param otherwise: c, shape (n_inner_steps, n_episodes); it is also b_j where φ is beyond floating point
    :return: b, shape (n_inner_steps, n_episodes), and the effective sample size of the weights of whole episodes, of all j
        together, shape (n_inner_steps,)
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
    (Σw)² / (n Σw²): 1 for equal weights, 1/n when all but one are zero. The largest weight is divided out, so none is too
    large or too small to be squared.

    :param log_weights: log w, of any shape; weights that are NaN count as zero
    :return: a fraction of the number of weights; 0 when all are zero
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
    :param samples: a later batch, with its weights in the surrogate
    :param log_prob: of its samples, under the parameters that played it
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
        """Differences of log-likelihoods to other parameters, (n_samples,)."""
        return (policy.log_prob(parameters, self.samples.observations, self.samples.actions) - self.log_prob).double()


def _log_weights(
    policy: FunctionalPolicy, objective: MetaObjective, parameters: Parameters, later: Sequence[_Played], mask: np.ndarray
) -> np.ndarray:
    """
    log ρ before the first and after each step of the outer episodes.

    :param policy: the policy as a function
    :param objective: gives the step sizes
    :param parameters: φ after the step that an episode is left out of
    :param later: the batches that follow, the outer one last
    :param mask: of the outer episodes, (n_episodes, n_steps)
    :return: shape (n_episodes, n_steps + 1)
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

"""The gradient of V(θ) = E_i E_D J_i(U(θ, D)) by the backward recursion (B), one task at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import torch as th

from sb3_sgmrl.distributed import ALONE, Ranks
from sb3_sgmrl.gradient.inner import WeightedSamples, policy_gradient, pull_back
from sb3_sgmrl.gradient.objective import InnerStep, MetaObjective, ScoreCoefficients, TaskPhase
from sb3_sgmrl.gradient.score_weight import cut_off_weights
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters


@dataclass(frozen=True)
class MetaGradient:
    """
    The meta-gradient and its parts, each a mean over tasks.

    :param gradient: The gradient ∇̃V, by name
    :param score_term: The part of the gradient that the scores of the first inner step contribute, by name; None without a
        score term
    :param unweighted: The score term of each inner step, by name; empty without a score term. The terms are not yet weighted
        by λ, nor carried back through the steps before their own
    :param objective: The objective with the weights λ that were used
    :param relative_lr: The derivative by the relative step sizes r, shaped as r; empty where r is None
    """

    gradient: Parameters
    score_term: Parameters | None
    unweighted: list[Parameters]
    objective: MetaObjective
    relative_lr: Parameters = field(default_factory=dict)

    def norms(self) -> dict[str, float]:
        """
        Compute the norms that are logged.

        These are the norms of the gradient and of its parts, and the cosine between the parts. The weight of the score term is
        the norm of the weighted term divided by that of the unweighted one.

        :return: The numbers by name
        """
        values = {"grad_norm": _norm(self.gradient)}
        if self.score_term is not None:
            pathwise = {name: value - self.score_term[name] for name, value in self.gradient.items()}
            product = sum(float((self.score_term[name] * pathwise[name]).sum()) for name in pathwise)
            values["score_term_norm"], values["pathwise_norm"] = _norm(self.score_term), _norm(pathwise)
            values["score_pathwise_cosine"] = product / max(values["score_term_norm"] * values["pathwise_norm"], 1e-12)
            values["score_weight"] = values["score_term_norm"] / max(_norm(self.unweighted[0]), 1e-12)
        return values


# ∇̃V of a task, the score term of each inner step before it is weighted, and the derivative by the relative step sizes.
_TaskResult = tuple[Parameters, list[Parameters], Parameters]
# The number of tasks that threads may be ahead of the sum.
_AHEAD = 16


def task_gradient(
    policy: FunctionalPolicy,
    objective: MetaObjective,
    score_coefficients: ScoreCoefficients | None,
    task: int,
    trace: Sequence[TaskPhase],
) -> _TaskResult:
    """
    Compute formula (B) for one task.

    The step sizes decide where a step leads and not which episodes it is made of. So the derivative by those of step t is α v
    ⊙ ∇̃J(θᵗ, D), summed over the entries that share one. Here v is the gradient that has come back to θᵗ⁺¹.

    :param policy: The policy as a function
    :param objective: The objective, which names the gradient
    :param score_coefficients: The coefficients of the scores; None leaves the score term out (MAML)
    :param task: The index of the task
    :param trace: The ζ + 1 phases of the task
    :return: The gradient ∇̃V of this task by name, the unweighted score term of each inner step, and the derivative by the
        relative step sizes
    """
    outer = trace[-1]
    v = policy_gradient(policy, outer.parameters, WeightedSamples.make(policy, outer.batch, outer.weighted.weights))
    scores: list[Parameters] = []
    by_relative_lr: Parameters = {}
    for stage in range(len(trace) - 2, -1, -1):
        phase = trace[stage]
        samples = WeightedSamples.make(policy, phase.batch, phase.weighted.weights)
        if objective.relative_lr is not None:
            step = policy_gradient(policy, phase.parameters, samples)
            derivative = {name: _summed_as(objective.relative_lr[name], v[name] * step[name]) for name in step}
            _add(by_relative_lr, derivative, objective.inner_lr)
        choose = None
        if score_coefficients is not None:
            space = policy.policy.observation_space
            adapted = trace[stage + 1].parameters
            describe = partial(InnerStep, task, stage, phase, adapted, samples, objective.inner, space)
            choose = partial(_choose, score_coefficients, describe)
        back = pull_back(
            policy,
            phase.parameters,
            samples,
            v,
            inner_lr=objective.inner_lr,
            relative_lr=objective.relative_lr,
            kind=objective.inner_surrogate,
            first_order=objective.first_order,
            score_coefficients=choose,
        )
        v = back.pathwise
        if back.score_term is not None:
            scores.insert(0, back.score_term)
            weighted = weighted_term(objective, stage, back.score_term)
            v = {name: value + weighted[name] for name, value in v.items()}
    return v, scores, by_relative_lr


def _summed_as(step_size: th.Tensor, product: th.Tensor) -> th.Tensor:
    """Return the derivative by a step size of each entry, or by one that all entries share."""
    return product if step_size.shape == product.shape else product.sum()


def _choose(
    score_coefficients: ScoreCoefficients, describe: Callable[[th.Tensor], InnerStep], sensitivity: th.Tensor
) -> th.Tensor:
    return score_coefficients(describe(sensitivity))


def weighted_term(objective: MetaObjective, stage: int, score_term: Parameters) -> Parameters:
    """
    Multiply the score term of an inner step by its weight λ.

    :param objective: The objective, which gives the weights λ
    :param stage: The index of the inner step
    :param score_term: The score term of this step, by name
    :return: The product of λ and the score term, by name
    """
    coef = objective.score_coef
    return {
        name: (coef if isinstance(coef, (int, float)) else coef[stage].get(name, 0.0)) * s for name, s in score_term.items()
    }


def meta_gradient(
    policy: FunctionalPolicy,
    objective: MetaObjective,
    score_coefficients: ScoreCoefficients | None,
    traces: Sequence[Sequence[TaskPhase]],
    executor: ThreadPoolExecutor | None = None,
    ranks: Ranks = ALONE,
) -> MetaGradient:
    """
    Compute the mean of :func:`task_gradient` over tasks.

    The tasks are summed in their order, with or without threads, on one rank or on several. Only ``sum_by_blocks`` sums the
    tasks of each rank first. A score term above its limit is cut off.

    :param policy: The policy as a function
    :param objective: The objective, which names the gradient
    :param score_coefficients: The coefficients of the scores; None leaves the score term out (MAML)
    :param traces: The ζ + 1 phases of every task
    :param executor: The threads over tasks; None computes the tasks one after another
    :param ranks: The ranks that share the tasks
    :return: The gradient and its parts
    """
    n_tasks, own = len(traces), ranks.own(len(traces))
    work, own_traces = partial(task_gradient, policy, objective, score_coefficients), traces[own.start : own.stop]
    of_own = _in_order(executor, work, own, own_traces) if executor else map(work, own, own_traces)
    total: Parameters = {}
    unweighted: list[Parameters] = []
    by_relative_lr: Parameters = {}
    for gradient, scores, of_task in ranks.to_sum(of_own):
        _add(total, gradient, 1 / n_tasks)
        _add(by_relative_lr, of_task, 1 / n_tasks)
        unweighted = unweighted or [{} for _ in scores]
        for mean, score in zip(unweighted, scores, strict=True):
            _add(mean, score, 1 / n_tasks)
    if objective.score_limits and unweighted:
        assert not isinstance(objective.score_coef, (int, float))
        weights = cut_off_weights(objective.score_coef, objective.score_limits, unweighted)
        if weights != objective.score_coef:  # Rare. Later steps enter the terms of earlier ones, so all is computed anew.
            with_less = replace(objective, score_coef=weights, score_limits=())
            return meta_gradient(policy, with_less, score_coefficients, traces, executor, ranks)
    score_term = weighted_term(objective, 0, unweighted[0]) if unweighted else None
    return MetaGradient(total, score_term, unweighted, objective, by_relative_lr)


def _in_order(
    executor: ThreadPoolExecutor,
    work: Callable[..., _TaskResult],
    tasks: Sequence[int],
    traces: Sequence[Sequence[TaskPhase]],
) -> Iterator[_TaskResult]:
    """Map tasks to results in order. The executor stays few results ahead, so memory does not grow with the tasks."""
    waiting: deque[Future[_TaskResult]] = deque()
    for task, trace in zip(tasks, traces, strict=True):
        waiting.append(executor.submit(work, task, trace))
        if len(waiting) > _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _add(total: Parameters, part: Parameters, factor: float) -> None:
    for name, value in part.items():
        total[name] = total[name] + factor * value if name in total else factor * value


def _norm(parameters: Parameters) -> float:
    return float(th.nn.utils.get_total_norm(list(parameters.values())))

"""The gradient of V(θ) = E_i E_D J_i(U(θ, D)) by the backward recursion (B), a task at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch as th

from sb3_sgmrl.common.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.common.inner import WeightedSamples, policy_gradient, pull_back
from sb3_sgmrl.common.type_aliases import InnerStep, MetaObjective, ScoreCoefficients, TaskPhase


@dataclass(frozen=True)
class MetaGradient:
    """
    Mean over tasks.

    :param gradient: ∇̃V by name
    :param score_term: the part of it that the scores of the first inner step contribute, by name; None without a score term
    """

    gradient: Parameters
    score_term: Parameters | None

    def norms(self) -> dict[str, float]:
        """
        Norms of the gradient and of its parts, and the cosine between them, as they are logged.

        :return: by name
        """
        values = {"grad_norm": _norm(self.gradient)}
        if self.score_term is not None:
            pathwise = {name: value - self.score_term[name] for name, value in self.gradient.items()}
            product = sum(float((self.score_term[name] * pathwise[name]).sum()) for name in pathwise)
            values["score_term_norm"], values["pathwise_norm"] = _norm(self.score_term), _norm(pathwise)
            values["score_pathwise_cosine"] = product / max(values["score_term_norm"] * values["pathwise_norm"], 1e-12)
        return values


# ∇̃V of a task, and the score term of its first inner step
_TaskResult = tuple[Parameters, Parameters | None]
# tasks that threads may be ahead of the sum
_AHEAD = 16


def task_gradient(
    policy: FunctionalPolicy,
    objective: MetaObjective,
    score_coefficients: ScoreCoefficients | None,
    task: int,
    trace: Sequence[TaskPhase],
) -> _TaskResult:
    """
    Formula (B) for one task.

    :param policy: the policy as a function
    :param objective: which gradient
    :param score_coefficients: coefficients of the scores; None leaves the score term out (MAML)
    :param task: index of the task
    :param trace: its ζ + 1 phases
    :return: ∇̃V of this task by name, and the part of it that the scores of the first inner step contribute
    """
    outer = trace[-1]
    v = policy_gradient(policy, outer.parameters, WeightedSamples.make(policy, outer.batch, outer.weighted.weights))
    score_term: Parameters | None = None
    for stage in range(len(trace) - 2, -1, -1):
        phase = trace[stage]
        samples = WeightedSamples.make(policy, phase.batch, phase.weighted.weights)
        choose = None
        if score_coefficients is not None:
            describe = partial(InnerStep, task, stage, phase, trace[stage + 1].parameters, samples)
            choose = partial(_choose, score_coefficients, describe)
        back = pull_back(
            policy,
            phase.parameters,
            samples,
            v,
            inner_lr=objective.inner_lr,
            kind=objective.inner_surrogate,
            first_order=objective.first_order,
            score_coefficients=choose,
        )
        v = back.pathwise
        if back.score_term is not None:
            score_term = {name: objective.score_coef * value for name, value in back.score_term.items()}
            v = {name: value + score_term[name] for name, value in v.items()}
    return v, score_term


def _choose(
    score_coefficients: ScoreCoefficients, describe: Callable[[th.Tensor], InnerStep], sensitivity: th.Tensor
) -> th.Tensor:
    return score_coefficients(describe(sensitivity))


def meta_gradient(
    policy: FunctionalPolicy,
    objective: MetaObjective,
    score_coefficients: ScoreCoefficients | None,
    traces: Sequence[Sequence[TaskPhase]],
    executor: ThreadPoolExecutor | None = None,
) -> MetaGradient:
    """
    Mean of :func:`task_gradient` over tasks. The tasks are summed in their order, whoever computed them.

    :param policy: the policy as a function
    :param objective: which gradient
    :param score_coefficients: coefficients of the scores; None leaves the score term out (MAML)
    :param traces: ζ + 1 phases of every task
    :param executor: threads over tasks; None computes them one after another
    :return: the gradient and its parts
    """
    work = partial(task_gradient, policy, objective, score_coefficients)
    results = _in_order(executor, work, traces) if executor else map(work, range(len(traces)), traces)
    n_tasks = len(traces)
    total: Parameters = {}
    score_total: Parameters = {}
    for gradient, score_term in results:
        _add(total, gradient, 1 / n_tasks)
        _add(score_total, score_term or {}, 1 / n_tasks)
    return MetaGradient(total, score_total or None)


def _in_order(
    executor: ThreadPoolExecutor, work: Callable[..., _TaskResult], traces: Sequence[Sequence[TaskPhase]]
) -> Iterator[_TaskResult]:
    """The map of an executor that is never more than a few results ahead, so that memory does not grow with the tasks."""
    waiting: deque[Future[_TaskResult]] = deque()
    for task, trace in enumerate(traces):
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

"""The gradient of V(θ) = E_i E_D J_i(U(θ, D)) by the backward recursion (B), a task at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_sgmrl.common.advantages import AdvantageSettings, WeightedEpisodes, leave_one_out_weights
from sb3_sgmrl.common.batch import TaskBatch
from sb3_sgmrl.common.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.common.inner import PullBack, WeightedSamples, policy_gradient, pull_back
from sb3_sgmrl.common.likelihood import log_likelihood


@dataclass(frozen=True)
class TaskPhase:
    """
    What one task saw in one phase.

    :param parameters: the parameters that played it, θᵗ by name
    :param batch: the episodes
    :param weighted: their weights in the surrogate
    :param values: the critic's predictions (n_episodes, n_steps); None without a critic
    """

    parameters: Parameters
    batch: TaskBatch
    weighted: WeightedEpisodes
    values: np.ndarray | None = None


@dataclass(frozen=True)
class InnerStep:
    """
    An inner step seen from behind, when the score coefficients are chosen.

    :param task: index of the task
    :param stage: index of the inner step, 0 … ζ − 1
    :param phase: the episodes D and the parameters θ they were played with
    :param adapted: ψ = U(θ, D)
    :param samples: D with its weights
    :param sensitivity: x = α ∇log π ᵀ v of each sample, v the gradient at ψ, shape (n_samples,)
    """

    task: int
    stage: int
    phase: TaskPhase
    adapted: Parameters
    samples: WeightedSamples
    sensitivity: th.Tensor


# the coefficient of each episode's score, (n_episodes,), in the units of the outer surrogate
ScoreCoefficients = Callable[[InnerStep], th.Tensor]


@dataclass(frozen=True)
class MetaObjective:
    """
    Which gradient is computed.

    :param inner: weights of the inner surrogate
    :param outer: weights of the outer surrogate
    :param inner_lr: α
    :param inner_surrogate: ``pathwise``, ``lvc`` or ``dice``, see :func:`~sb3_sgmrl.common.inner.curvature_weights`
    :param first_order: leave the second derivative out
    :param score_coef: weight λ of the score term; 1 is SG-MRL, 0 is MAML
    """

    inner: AdvantageSettings
    outer: AdvantageSettings
    inner_lr: float
    inner_surrogate: str = "pathwise"
    first_order: bool = False
    score_coef: float = 1.0


@dataclass(frozen=True)
class MetaGradient:
    """
    Mean over tasks.

    :param gradient: ∇̃V by name
    :param score_term: the part of it that the scores of the first inner step contribute, by name; None without a score term
    :param coefficients: the score coefficients of each task's first inner step, (n_tasks, n_episodes); None without a score
        term
    """

    gradient: Parameters
    score_term: Parameters | None
    coefficients: th.Tensor | None

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


def return_coefficients(
    phases: Sequence[Sequence[TaskPhase]], gamma: float, baseline: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> ScoreCoefficients:
    """
    The score term in its exact form, Σ_j (J̃ − b_j) s_j with J̃ in the units of the outer surrogate.

    :param phases: ζ + 1 phases of every task
    :param gamma: discount factor of J̃
    :param baseline: a control variate, see :mod:`~sb3_sgmrl.common.control_variates`
    :return: score coefficients for :func:`meta_gradient`
    """
    outer = np.array([trace[-1].batch.returns(gamma).mean() for trace in phases])
    scale = np.array([trace[-1].weighted.scale for trace in phases])
    stages = []
    for stage in range(len(phases[0]) - 1):
        inner = np.array([trace[stage].batch.returns(gamma) for trace in phases])
        stages.append((outer[:, None] - baseline(outer, inner)) / scale[:, None])

    def coefficients(step: InnerStep) -> th.Tensor:
        weights = step.samples.weights
        return th.as_tensor(stages[step.stage][step.task], dtype=weights.dtype, device=weights.device)

    return coefficients


def refitted_coefficients(settings: AdvantageSettings, space: spaces.Space) -> ScoreCoefficients:
    """
    Formula (C): c_j = vᵀ(U(θ, D) − U(θ, D∖τ_j)), the baseline and the normalisation refitted without τ_j. To first order this
    is J(ψ) − J(U(θ, D∖τ_j)), whose second term is independent of τ_j.

    :param settings: of the inner surrogate
    :param space: observation space
    :return: score coefficients for :func:`meta_gradient`
    """

    def coefficients(step: InnerStep) -> th.Tensor:
        batch = step.phase.batch
        without = leave_one_out_weights(batch, settings, space, step.phase.values)[:, batch.mask]
        x = step.sensitivity
        change = step.phase.weighted.weights[batch.mask] - without
        return th.as_tensor(change @ x.cpu().numpy().astype(change.dtype), dtype=x.dtype, device=x.device)

    return coefficients


def mean_reward_coefficients(phases: Sequence[Sequence[TaskPhase]]) -> ScoreCoefficients:
    """
    E-MAML's term, the mean reward after adaptation times the mean log-likelihood of the first inner batch: the rewards of all
    steps of all tasks are standardised together, and each task has the mean of its own.

    :param phases: ζ + 1 phases of every task
    :return: score coefficients for :func:`meta_gradient`
    """
    rewards = [trace[-1].batch.rewards[trace[-1].batch.mask] for trace in phases]
    together = np.concatenate(rewards)
    standardised = [(r.mean() - together.mean()) / (together.std() + 1e-8) for r in rewards]

    def coefficients(step: InnerStep) -> th.Tensor:
        weights = step.samples.weights
        mean_reward = standardised[step.task] if step.stage == 0 else 0.0
        return weights.new_full((step.samples.n_episodes,), mean_reward / len(weights))

    return coefficients


def leave_one_out_parameters(
    policy: FunctionalPolicy, step: InnerStep, objective: MetaObjective, space: spaces.Space
) -> list[Parameters]:
    """
    U(θ, D∖τ_j) for every j, by N inner steps.

    :param policy: the policy as a function
    :param step: the inner step
    :param objective: gives α and the inner weights
    :param space: observation space
    :return: parameters by name, for each episode left out
    """
    batch = step.phase.batch
    without = leave_one_out_weights(batch, objective.inner, space, step.phase.values)
    parameters = step.phase.parameters
    likelihood = log_likelihood(policy, parameters, step.samples.observations, step.samples.actions)
    gradients = (likelihood.gradient(th.as_tensor(w[batch.mask], dtype=policy.dtype, device=policy.device)) for w in without)
    return [{name: value + objective.inner_lr * g[name] for name, value in parameters.items()} for g in gradients]


_TaskResult = tuple[Parameters, PullBack]
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
    :return: ∇̃V of this task by name, and the last pull-back (of the first inner step)
    """
    outer = trace[-1]
    v = policy_gradient(policy, outer.parameters, WeightedSamples.make(policy, outer.batch, outer.weighted.weights))
    back = PullBack(v)
    for stage in range(len(trace) - 2, -1, -1):
        phase = trace[stage]
        samples = WeightedSamples.make(policy, phase.batch, phase.weighted.weights)
        choose = None
        if score_coefficients is not None:
            describe = partial(InnerStep, task, stage, phase, trace[stage + 1].parameters, samples)
            choose = partial(_weigh, objective.score_coef, score_coefficients, describe)
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
        score = back.score_term
        v = back.pathwise if score is None else {name: back.pathwise[name] + score[name] for name in back.pathwise}
    return v, back


def _weigh(
    score_coef: float, choose: ScoreCoefficients, describe: Callable[[th.Tensor], InnerStep], sensitivity: th.Tensor
) -> th.Tensor:
    return score_coef * choose(describe(sensitivity))


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
    score: Parameters = {}
    coefficients = []
    for gradient, back in results:
        _add(total, gradient, 1 / n_tasks)
        if back.score_term is not None and back.coefficients is not None:
            _add(score, back.score_term, 1 / n_tasks)
            coefficients.append(back.coefficients)
    return MetaGradient(total, score or None, th.stack(coefficients) if coefficients else None)


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

"""Formula (B): the meta-gradient against autodiff through the whole chain, and threads."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from chain_tools import GAMMA, INNER, LEARNING_RATE, OUTER, SPACE, assert_close, flat, gradient, leaves, phase, surrogate

from sb3_sgmrl.common.phases import task_phases
from sb3_sgmrl.gradient.inner import WeightedSamples, adapt
from sb3_sgmrl.gradient.meta_gradient import meta_gradient
from sb3_sgmrl.gradient.objective import MetaObjective
from sb3_sgmrl.score_terms.control_variates import leave_one_out_return, leave_one_task_out, none
from sb3_sgmrl.score_terms.leave_one_out import leave_one_out_parameters
from sb3_sgmrl.score_terms.refitted import Refitted
from sb3_sgmrl.score_terms.returns import ReturnCoefficients, return_baselines
from sb3_sgmrl.util.threads import single_threaded, thread_pool

# --------------------------------------------------------------------------------------------------------- formula (B)


def traces_of(policy, objective, n_inner_steps, n_tasks=2):
    """ζ + 1 phases of every task, each inner phase followed by an inner step."""
    sets, traces = [policy.parameters()] * n_tasks, [[] for _ in range(n_tasks)]
    for stage in range(n_inner_steps + 1):
        settings = objective.inner if stage < n_inner_steps else objective.outer
        # other numbers of episodes outside than inside
        batch = phase(100 + stage, n_tasks, 3 if stage < n_inner_steps else 2)
        for i, found in enumerate(task_phases(policy, settings, batch, sets)):
            traces[i].append(found)
        weighted = [WeightedSamples.make(policy, trace[-1].batch, trace[-1].weighted.weights) for trace in traces]
        sets = [adapt(policy, p, samples, objective.inner_lr) for p, samples in zip(sets, weighted, strict=True)]
    return traces


def unrolled(policy, objective, trace, score_of=None):
    """
    Gradient by autodiff through the whole chain: outer surrogate(θ^ζ) + λ Σ_t Σ_j stopgrad(c_tj) log q(τ_tj; θ^t).

    :param score_of: from (stage, v, U(θ, D) − U(θ, D∖τ_j) of each j) to the coefficients c_tj
    """

    def below(stage, parameters):
        samples = WeightedSamples.make(policy, trace[stage].batch, trace[stage].weighted.weights)
        log_prob = policy.log_prob(parameters, samples.observations, samples.actions)
        if stage == len(trace) - 1:
            return (samples.weights * log_prob).sum()
        kind = objective.inner_surrogate
        step = gradient(surrogate(kind, log_prob, samples, samples.weights), parameters, create_graph=True)
        if objective.first_order:
            step = {name: value.detach() for name, value in step.items()}
        adapted = {name: value + objective.inner_lr * step[name] for name, value in parameters.items()}
        value = below(stage + 1, adapted)
        if score_of is not None:
            at = leaves(adapted)
            v = gradient(below(stage + 1, at), at)
            coefficients = objective.score_coef * score_of(stage, v, adapted)
            value = value + (coefficients[samples.episode_index] * log_prob).sum()
        return value

    at = leaves(policy.parameters())
    return gradient(below(0, at), at)


@pytest.mark.parametrize("kind", ["pathwise", "lvc", "dice"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("n_inner_steps", [1, 2, 3])
def test_maml_against_autodiff_through_the_chain(policy, n_inner_steps, first_order, kind):
    objective = MetaObjective(INNER, OUTER, LEARNING_RATE, inner_surrogate=kind, first_order=first_order)
    traces = traces_of(policy, objective, n_inner_steps)
    parts = [unrolled(policy, objective, trace) for trace in traces]
    estimate = meta_gradient(policy, objective, None, traces)
    assert estimate.score_term is None
    assert_close(estimate.gradient, {name: (parts[0][name] + parts[1][name]) / 2 for name in parts[0]})


@pytest.mark.parametrize("score_coef", [1.0, 0.3])
@pytest.mark.parametrize("variate", [none, leave_one_task_out, leave_one_out_return])
@pytest.mark.parametrize("n_inner_steps", [1, 2, 3])
def test_exact_score_term_against_autodiff_through_the_chain(policy, n_inner_steps, variate, score_coef):
    objective = MetaObjective(INNER, OUTER, LEARNING_RATE, score_coef=score_coef)
    traces = traces_of(policy, objective, n_inner_steps)
    outer = np.array([trace[-1].batch.returns(GAMMA).mean() for trace in traces])
    scale = [trace[-1].weighted.scale for trace in traces]

    def score_of(task):
        def coefficients(stage, v, adapted):
            inner = np.array([trace[stage].batch.returns(GAMMA) for trace in traces])
            baseline = variate(outer, inner)[task]
            return th.as_tensor((outer[task] - baseline) / scale[task])

        return coefficients

    parts = [unrolled(policy, objective, trace, score_of(task)) for task, trace in enumerate(traces)]
    choose = ReturnCoefficients(traces, GAMMA, return_baselines(traces, GAMMA, variate))
    estimate = meta_gradient(policy, objective, choose, traces)
    assert_close(estimate.gradient, {name: (parts[0][name] + parts[1][name]) / 2 for name in parts[0]})
    # the parts that are logged
    first = MetaObjective(INNER, OUTER, LEARNING_RATE)
    if n_inner_steps == 1:
        pathwise = meta_gradient(policy, first, None, traces).gradient
        assert_close(estimate.score_term, {name: estimate.gradient[name] - pathwise[name] for name in pathwise})


@pytest.mark.parametrize("rule", [INNER, OUTER], ids=["practical", "paper"])
@pytest.mark.parametrize("n_inner_steps", [1, 2, 3])
def test_refitted_score_term_against_autodiff_through_the_chain(policy, n_inner_steps, rule):
    """The coefficients vᵀ(U(θ, D) − U(θ, D∖τ_j)) here come from N inner steps, there from one backward pass."""
    objective = MetaObjective(rule, OUTER, LEARNING_RATE)
    traces = traces_of(policy, objective, n_inner_steps)

    def score_of(trace):
        def coefficients(stage, v, adapted):
            without = leave_one_out_parameters(policy, trace[stage], objective, SPACE)
            return th.stack([(flat(adapted) - flat(one)).detach() @ flat(v) for one in without])

        return coefficients

    parts = [unrolled(policy, objective, trace, score_of(trace)) for trace in traces]
    estimate = meta_gradient(policy, objective, Refitted().coefficients, traces)
    assert_close(estimate.gradient, {name: (parts[0][name] + parts[1][name]) / 2 for name in parts[0]}, 1e-8)
    assert flat(estimate.score_term).norm() > 1e-3 * flat(estimate.gradient).norm()


def test_threads_and_one_after_another_agree_to_the_bit(policy):
    objective = MetaObjective(INNER, OUTER, LEARNING_RATE)
    traces = traces_of(policy, objective, 2, n_tasks=5)
    with single_threaded():  # as in training: rounding depends on the number of threads of BLAS
        alone = meta_gradient(policy, objective, Refitted().coefficients, traces)
    with thread_pool(3) as pool:
        together = meta_gradient(policy, objective, Refitted().coefficients, traces, pool)
    assert th.equal(flat(alone.gradient), flat(together.gradient))
    assert th.equal(flat(alone.score_term), flat(together.score_term))


class LazyExecutor:
    """Computes when a result is asked for, and remembers how many were waiting."""

    def __init__(self):
        self.waiting, self.most = 0, 0

    def submit(self, work, *arguments):
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        return SimpleNamespace(result=lambda: self.compute(work, *arguments))

    def compute(self, work, *arguments):
        self.waiting -= 1
        return work(*arguments)


def test_threads_are_never_many_tasks_ahead_of_the_sum(policy):
    """Or memory would grow with the tasks."""
    objective = MetaObjective(INNER, OUTER, LEARNING_RATE)
    traces = traces_of(policy, objective, 1, n_tasks=2) * 20
    executor = LazyExecutor()
    estimate = meta_gradient(policy, objective, None, traces, executor)
    assert executor.waiting == 0 and 1 < executor.most < 20
    assert_close(estimate.gradient, meta_gradient(policy, objective, None, traces[:2]).gradient)


def test_norms_that_are_logged(policy):
    objective = MetaObjective(INNER, OUTER, LEARNING_RATE, score_coef=0.3)
    traces = traces_of(policy, objective, 1)
    estimate = meta_gradient(policy, objective, Refitted().coefficients, traces)
    norms = estimate.norms()
    pathwise = flat(meta_gradient(policy, objective, None, traces).gradient)
    whole, term = flat(estimate.gradient), flat(estimate.score_term)
    assert norms["grad_norm"] == pytest.approx(float(whole.norm()))
    assert norms["score_term_norm"] == pytest.approx(float(term.norm()))
    assert norms["pathwise_norm"] == pytest.approx(float(pathwise.norm()))
    assert norms["score_pathwise_cosine"] == pytest.approx(float(term @ pathwise / term.norm() / pathwise.norm()))
    assert norms["score_weight"] == pytest.approx(0.3)
    assert set(meta_gradient(policy, objective, None, traces).norms()) == {"grad_norm"}

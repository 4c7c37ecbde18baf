"""The local surrogate of several epochs, differentiated by hand and by autodiff through the whole chain."""

import pytest
import torch as th
from chain_tools import INNER, LEARNING_RATE, OUTER, assert_close, gradient, leaves, phase

from sb3_sgmrl.gradient.advantages import episode_weights
from sb3_sgmrl.gradient.inner import WeightedSamples
from sb3_sgmrl.gradient.local_gradient import PlayedPhase, clipped_weights, local_task_gradient, local_task_value
from sb3_sgmrl.gradient.meta_gradient import meta_gradient
from sb3_sgmrl.gradient.objective import MetaObjective, TaskPhase

CLIP = 0.2


def played_trace(policy, objective, n_inner_steps):
    """Phases of one task, each played by the parameters the inner steps lead to."""
    parameters, trace = policy.parameters(), []
    for stage in range(n_inner_steps + 1):
        batch = phase(10 + stage, n_episodes=4, n_steps=6)
        settings = objective.outer if stage == n_inner_steps else objective.inner
        weighted = episode_weights(batch, settings, policy.policy.observation_space)[0]
        trace.append(TaskPhase(parameters, batch.task(0), weighted))
        samples = WeightedSamples.make(policy, batch.task(0), weighted.weights)
        theta = leaves(parameters)
        log_prob = policy.log_prob(theta, samples.observations, samples.actions)
        step = gradient((samples.weights * log_prob).sum(), theta)
        parameters = {name: parameters[name] + LEARNING_RATE * step[name].detach() for name in parameters}
    return trace


def moved(parameters, distance, seed=3):
    th.manual_seed(seed)
    return {name: value + distance * th.randn_like(value) for name, value in parameters.items()}


def clipped(weights, ratio):
    return th.minimum(weights * ratio, weights * ratio.clamp(1 - CLIP, 1 + CLIP)).sum()


def value_at(policy, objective, theta, played, coefficients, kl_coefs=None, surrogate=clipped):
    """The surrogate as a function of θ, through all inner steps."""
    parameters, value = theta, 0.0
    for stage, one in enumerate(played):
        samples = one.samples
        log_prob = policy.log_prob(parameters, samples.observations, samples.actions)
        ratio = th.exp(log_prob - one.log_prob)
        if stage == len(played) - 1:
            return value + surrogate(samples.weights, ratio)
        if coefficients is not None:
            value = value + objective.score_coef * surrogate(coefficients[stage], ratio)
        if kl_coefs is not None:
            value = value - kl_coefs[stage] * (ratio - 1 - ratio.log()).mean()
        inner = log_prob if objective.inner_surrogate == "pathwise" else ratio
        step = gradient((samples.weights * inner).sum(), parameters, create_graph=True)
        parameters = {name: parameters[name] + LEARNING_RATE * step[name] for name in parameters}
    raise AssertionError


def unrolled(policy, objective, theta, *rest):
    """Its gradient, by torch."""
    theta = leaves(theta)
    return gradient(value_at(policy, objective, theta, *rest), theta)


@pytest.mark.parametrize("distance", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("with_score", [False, True])
@pytest.mark.parametrize("kind", ["pathwise", "lvc"])
@pytest.mark.parametrize("n_inner_steps", [1, 2])
def test_local_gradient_against_autodiff_through_the_chain(policy, n_inner_steps, kind, with_score, distance):
    objective = MetaObjective(INNER, OUTER, LEARNING_RATE, inner_surrogate=kind, score_coef=0.7)
    trace = played_trace(policy, objective, n_inner_steps)
    played = [PlayedPhase.make(policy, one) for one in trace]
    th.manual_seed(5)
    coefficients = [th.randn_like(one.samples.weights) for one in played[:-1]] if with_score else None
    theta = moved(trace[0].parameters, distance)
    found = local_task_gradient(policy, objective, theta, played, coefficients, CLIP)
    assert_close(found.gradient, unrolled(policy, objective, theta, played, coefficients), 1e-9)
    assert (found.clip_fraction > 0) == (distance == 0.2)
    assert found.approx_kl >= 0 and (found.inner_approx_kl > 1e-6) == (distance > 0)


@pytest.mark.parametrize("n_inner_steps", [1, 2])
def test_where_it_was_played_the_local_gradient_is_the_meta_gradient(policy, n_inner_steps):
    objective = MetaObjective(INNER, OUTER, LEARNING_RATE, score_coef=0.7)
    trace, given = played_trace(policy, objective, n_inner_steps), {}

    def choose(step):
        given[step.stage] = 0.1 * step.sensitivity + 0.3
        return given[step.stage]

    estimate = meta_gradient(policy, objective, choose, [trace])
    played = [PlayedPhase.make(policy, one) for one in trace]
    coefficients = [given[stage] for stage in range(n_inner_steps)]
    found = local_task_gradient(policy, objective, trace[0].parameters, played, coefficients, CLIP)
    assert_close(found.gradient, estimate.gradient, 1e-10)
    assert found.clip_fraction == 0 and found.approx_kl == pytest.approx(0, abs=1e-12)


def test_first_order_leaves_the_jacobian_out(policy):
    objective = MetaObjective(INNER, OUTER, LEARNING_RATE, first_order=True)
    trace = played_trace(policy, objective, 1)
    played = [PlayedPhase.make(policy, one) for one in trace]
    found = local_task_gradient(policy, objective, trace[0].parameters, played, None, CLIP)
    assert_close(found.gradient, meta_gradient(policy, objective, None, [trace]).gradient, 1e-10)


@pytest.mark.parametrize("distance", [0.0, 0.05])
@pytest.mark.parametrize("kind", ["pathwise", "lvc"])
@pytest.mark.parametrize("n_inner_steps", [1, 2])
def test_the_penalty_on_inner_divergences_against_autodiff(policy, n_inner_steps, kind, distance):
    objective = MetaObjective(INNER, OUTER, LEARNING_RATE, inner_surrogate=kind)
    trace = played_trace(policy, objective, n_inner_steps)
    played = [PlayedPhase.make(policy, one) for one in trace]
    theta, kl_coefs = moved(trace[0].parameters, distance), [30.0, 20.0][:n_inner_steps]
    found = local_task_gradient(policy, objective, theta, played, None, CLIP, kl_coefs)
    assert_close(found.gradient, unrolled(policy, objective, theta, played, None, kl_coefs), 1e-9)
    without = local_task_gradient(policy, objective, theta, played, None, CLIP)
    error = sum(float((found.gradient[name] - without.gradient[name]).norm()) for name in theta)
    assert (error > 1e-2) if distance else (error < 1e-12)


@pytest.mark.parametrize("with_score", [False, True])
@pytest.mark.parametrize("kind", ["pathwise", "lvc"])
@pytest.mark.parametrize("n_inner_steps", [1, 2])
def test_the_value_is_that_of_the_surrogate_without_clipping(policy, n_inner_steps, kind, with_score):
    objective = MetaObjective(INNER, OUTER, LEARNING_RATE, inner_surrogate=kind, score_coef=0.7)
    trace = played_trace(policy, objective, n_inner_steps)
    played = [PlayedPhase.make(policy, one) for one in trace]
    th.manual_seed(5)
    given = [th.randn_like(one.samples.weights) for one in played[:-1]] if with_score else None
    theta = moved(trace[0].parameters, 0.2)
    found = local_task_value(policy, objective, theta, played, given)
    expected = value_at(policy, objective, leaves(theta), played, given, None, lambda weights, ratio: (weights * ratio).sum())
    assert found.value == pytest.approx(float(expected.detach()), rel=1e-9)
    moved_gradient = local_task_gradient(policy, objective, theta, played, given, CLIP)
    assert found.approx_kl == moved_gradient.approx_kl and found.inner_approx_kls[0] == moved_gradient.inner_approx_kl
    assert len(found.inner_approx_kls) == n_inner_steps


def test_weights_of_single_parameters_belong_to_no_value(policy):
    objective = MetaObjective(INNER, OUTER, LEARNING_RATE, score_coef=[{}])
    played = [PlayedPhase.make(policy, one) for one in played_trace(policy, objective, 1)]
    with pytest.raises(ValueError, match="`score_coef` must be a number"):
        local_task_value(policy, objective, policy.parameters(), played, [played[0].samples.weights])


def test_samples_outside_the_clip_range_count_only_where_they_come_back():
    weights = th.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    ratio = th.tensor([0.5, 1.0, 1.5, 0.5, 1.0, 1.5])
    assert clipped_weights(weights, ratio, CLIP).tolist() == [0.5, 1.0, 0.0, 0.0, -1.0, -1.5]


def test_the_log_likelihoods_are_those_of_the_policy(policy):
    objective = MetaObjective(INNER, OUTER, LEARNING_RATE)
    one = played_trace(policy, objective, 1)[1]
    played = PlayedPhase.make(policy, one)
    expected = policy.log_prob(one.parameters, played.samples.observations, played.samples.actions)
    th.testing.assert_close(played.log_prob, expected.detach(), rtol=1e-12, atol=1e-12)

"""The inner step and what is pulled back through it: against plain autodiff and finite differences."""

import numpy as np
import pytest
import torch as th
from chain_tools import GAMMA, INNER, LEARNING_RATE, OUTER, assert_close, flat, gradient, leaves, phase, surrogate

from sb3_sgmrl.common.phases import task_phases
from sb3_sgmrl.gradient.inner import WeightedSamples, adapt, policy_gradient, pull_back


def samples_of(policy, parameters, seed, settings=INNER, **kwargs):
    found = task_phases(policy, settings, phase(seed, **kwargs), [parameters])[0]
    return WeightedSamples.make(policy, found.batch, found.weighted.weights)


def random_like(parameters, seed):
    generator = th.Generator().manual_seed(seed)
    return {name: th.randn(value.shape, generator=generator, dtype=value.dtype) for name, value in parameters.items()}


# ---------------------------------------------------------------------------------------------------------- one step


def test_the_inner_step_is_a_step_of_sgd_on_sb3s_policy(policy):
    samples = samples_of(policy, policy.parameters(), 0)
    copy = policy.policy_with(policy.parameters())
    optimizer = th.optim.SGD(copy.parameters(), lr=LEARNING_RATE)
    loss = -(samples.weights * copy.evaluate_actions(samples.observations, samples.actions)[1]).sum()
    loss.backward()
    optimizer.step()
    stepped = dict(copy.named_parameters())
    adapted = adapt(policy, policy.parameters(), samples, LEARNING_RATE)
    assert_close(adapted, {name: stepped[name].detach() for name in adapted}, 1e-12)
    assert flat(adapted).sub(flat(policy.parameters())).norm() > 1e-3
    # the value net has no part in it
    th.testing.assert_close(stepped["value_net.weight"], policy.policy.value_net.weight)


def test_weights_are_one_over_samples_times_advantages(policy):
    found = task_phases(policy, OUTER, phase(0), [policy.parameters()])[0]
    returns = found.batch.rewards.copy()
    for t in range(returns.shape[1] - 2, -1, -1):
        returns[:, t] += GAMMA * returns[:, t + 1]
    np.testing.assert_allclose(found.weighted.weights, returns * found.batch.mask / 3)


def test_values_and_first_derivatives_of_the_surrogates(policy):
    """All have the gradient Σ w ∇log π; they differ in the second derivative."""
    samples = samples_of(policy, policy.parameters(), 1)
    expected = policy_gradient(policy, policy.parameters(), samples)
    second = {}
    for kind in ("pathwise", "lvc", "dice"):
        at = leaves(policy.parameters())
        total = surrogate(kind, policy.log_prob(at, samples.observations, samples.actions), samples, samples.weights)
        first = gradient(total, at, create_graph=True)
        assert_close({k: v.detach() for k, v in first.items()}, expected, 1e-12)
        second[kind] = gradient(sum((g**2).sum() for g in first.values()), at)
    for one, other in (("pathwise", "lvc"), ("lvc", "dice"), ("pathwise", "dice")):
        assert (flat(second[one]) - flat(second[other])).norm() > 1e-2 * flat(second[one]).norm()


@pytest.mark.parametrize("kind", ["pathwise", "lvc", "dice"])
def test_second_derivative_of_the_surrogates(policy, kind):
    """
    Σ_t w_t H_t, plus what the kind adds: for lvc w_t g_t g_tᵀ, for dice w_t (G_t G_tᵀ − G_{t−1} G_{t−1}ᵀ), G the sum of the g
    of the episode so far.
    """
    samples = samples_of(policy, policy.parameters(), 2)
    v = random_like(policy.parameters(), 0)
    at = leaves(policy.parameters())
    log_prob = policy.log_prob(at, samples.observations, samples.actions)
    each = [flat(gradient(one, at, retain_graph=True)) for one in log_prob]
    path = gradient((samples.weights * log_prob).sum(), at, create_graph=True)
    along = sum((path[name] * v[name]).sum() for name in at)
    expected = th.cat(
        [
            g.flatten() if g is not None else th.zeros(p.numel())
            for g, p in zip(th.autograd.grad(along, list(at.values()), allow_unused=True), at.values(), strict=True)
        ]
    )
    total, episode = th.zeros_like(each[0]), -1
    for g, weight, index in zip(each, samples.weights, samples.episode_index, strict=True):
        total = total if index == episode else th.zeros_like(g)
        episode, before, total = index, total, total + g
        if kind == "lvc":
            expected = expected + weight * g * (g @ flat(v))
        elif kind == "dice":
            expected = expected + weight * (total * (total @ flat(v)) - before * (before @ flat(v)))
    back = pull_back(policy, policy.parameters(), samples, v, inner_lr=LEARNING_RATE, kind=kind)
    got = flat(back.pathwise) - flat(v)
    assert (got - LEARNING_RATE * expected).norm() < 1e-10 * got.norm()


def test_pull_back_against_finite_differences(policy):
    """uᵀ(Mᵀv) is the derivative of vᵀU(θ, D) along u, the samples and their weights held fixed."""
    samples = samples_of(policy, policy.parameters(), 3)
    v = random_like(policy.parameters(), 1)
    back = pull_back(policy, policy.parameters(), samples, v, inner_lr=LEARNING_RATE)
    for seed in range(5):
        u, size = random_like(policy.parameters(), seed + 10), 1e-5
        ends = [
            flat(adapt(policy, {k: p + sign * size * u[k] for k, p in policy.parameters().items()}, samples, LEARNING_RATE))
            for sign in (1, -1)
        ]
        difference = float((ends[0] - ends[1]) @ flat(v)) / (2 * size)
        assert float(flat(back.pathwise) @ flat(u)) == pytest.approx(difference, rel=1e-7)
    # and this is not what comes without the second derivative
    assert (flat(back.pathwise) - flat(v)).norm() > 1e-2 * flat(v).norm()


def test_first_order_takes_the_gradient_over(policy):
    samples = samples_of(policy, policy.parameters(), 3)
    v = random_like(policy.parameters(), 1)
    back = pull_back(policy, policy.parameters(), samples, v, inner_lr=LEARNING_RATE, first_order=True)
    assert_close(back.pathwise, v, 1e-15)
    assert back.score_term is None
    coefficients = random_weights(samples)
    scored = pull_back(
        policy,
        policy.parameters(),
        samples,
        v,
        inner_lr=LEARNING_RATE,
        first_order=True,
        score_coefficients=lambda x: coefficients,
    )
    assert_close(scored.pathwise, v, 1e-15)
    assert_close(scored.score_term, score(policy, samples, coefficients))


def random_weights(samples):
    return th.randn(samples.weights.shape, generator=th.Generator().manual_seed(7), dtype=th.float64)


def score(policy, samples, coefficients):
    """Σ c ∇log π, sample by sample."""
    total = {name: th.zeros_like(value) for name, value in policy.parameters().items()}
    for k, coefficient in enumerate(coefficients):
        at = leaves(policy.parameters())
        log_prob = policy.log_prob(at, samples.observations[k : k + 1], samples.actions[k : k + 1])
        for name, value in gradient(log_prob.sum(), at).items():
            total[name] += coefficient * value
    return total


@pytest.mark.parametrize("first_order", [False, True])
def test_score_term_and_sensitivities(policy, first_order):
    samples = samples_of(policy, policy.parameters(), 4)
    v = random_like(policy.parameters(), 2)
    seen = []

    def choose(sensitivity):
        seen.append(sensitivity.clone())
        return random_weights(samples)

    back = pull_back(
        policy, policy.parameters(), samples, v, inner_lr=LEARNING_RATE, first_order=first_order, score_coefficients=choose
    )
    assert_close(back.score_term, score(policy, samples, random_weights(samples)))
    at = leaves(policy.parameters())
    log_prob = policy.log_prob(at, samples.observations, samples.actions)
    expected = [LEARNING_RATE * flat(gradient(one, at, retain_graph=True)) @ flat(v) for one in log_prob]
    th.testing.assert_close(seen[0], th.stack(expected))
    without = pull_back(policy, policy.parameters(), samples, v, inner_lr=LEARNING_RATE, first_order=first_order)
    assert_close(back.pathwise, without.pathwise, 1e-14)

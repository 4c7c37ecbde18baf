"""The inner step and formula (B): against plain autodiff, finite differences and hand-written steps, in float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from toys import Float64

from sb3_sgmrl.common.phases import task_phases
from sb3_sgmrl.data.batch import PhaseBatch
from sb3_sgmrl.gradient.advantages import AdvantageSettings
from sb3_sgmrl.gradient.inner import WeightedSamples, adapt, policy_gradient, pull_back
from sb3_sgmrl.gradient.meta_gradient import meta_gradient
from sb3_sgmrl.gradient.objective import MetaObjective
from sb3_sgmrl.policies.functional import FunctionalPolicy
from sb3_sgmrl.policies.mlp import PlainMlp
from sb3_sgmrl.score_terms.control_variates import RETURN_CONTROL_VARIATES
from sb3_sgmrl.score_terms.leave_one_out import leave_one_out_parameters
from sb3_sgmrl.score_terms.refitted import refitted_coefficients
from sb3_sgmrl.score_terms.returns import return_baselines, return_coefficients
from sb3_sgmrl.util.threads import thread_pool

SPACE = spaces.Box(-5, 5, (3,), np.float64)
LEARNING_RATE = 0.3
GAMMA = 0.9
INNER = AdvantageSettings(gamma=GAMMA, gae_lambda=0.95, baseline="linear", normalize=True)
OUTER = AdvantageSettings(gamma=GAMMA, gae_lambda=1.0, baseline="none", normalize=False, time_reduction="sum")


def gaussian_mlp(seed=0):
    th.manual_seed(seed)
    policy = ActorCriticPolicy(
        SPACE, spaces.Box(-1, 1, (2,)), lambda _: 0.0, net_arch=[4], activation_fn=nn.Tanh, features_extractor_class=Float64
    ).double()
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * th.randn_like(parameter))
    return FunctionalPolicy(policy)


@pytest.fixture(scope="module", params=["automatic", "written out"])
def policy(request):
    """Derivatives by automatic differentiation, or those of a plain MLP."""
    policy = gaussian_mlp()
    assert policy.mlp is None, "because of its features extractor"
    if request.param == "written out":
        layers = ("mlp_extractor.policy_net.0", "action_net")
        policy.mlp = PlainMlp(layers, nn.Tanh(), policy.policy.observation_space, policy.policy.action_space)
    return policy


def phase(seed, n_tasks=1, n_episodes=3, n_steps=4):
    """Episodes of varying length. Observations are whole numbers, which float32 holds exactly."""
    rng = np.random.default_rng(seed)
    mask = np.arange(n_steps) < rng.integers(1, n_steps + 1, (n_tasks, n_episodes, 1))
    mask[:, 0] = True
    observations = rng.integers(-3, 4, (*mask.shape, 3)).astype(np.float64) * mask[..., None]
    actions = rng.standard_normal((*mask.shape, 2)) * mask[..., None]
    rewards = rng.standard_normal(mask.shape) * mask
    return PhaseBatch(observations, actions, rewards, mask, rewards.sum(-1))


def samples_of(policy, parameters, seed, settings=INNER, **kwargs):
    found = task_phases(policy, settings, phase(seed, **kwargs), [parameters])[0]
    return WeightedSamples.make(policy, found.batch, found.weighted.weights)


def flat(parameters):
    return th.cat([value.flatten() for value in parameters.values()])


def random_like(parameters, seed):
    generator = th.Generator().manual_seed(seed)
    return {name: th.randn(value.shape, generator=generator, dtype=value.dtype) for name, value in parameters.items()}


def leaves(parameters):
    return {name: value.detach().requires_grad_() for name, value in parameters.items()}


def gradient(value, parameters, **kwargs):
    return dict(zip(parameters, th.autograd.grad(value, list(parameters.values()), **kwargs), strict=True))


def assert_close(one, other, tolerance=1e-10):
    assert one.keys() == other.keys()
    error = (flat(one) - flat({name: other[name] for name in one})).norm() / flat(other).norm()
    assert error < tolerance


def surrogate(kind, log_prob, samples, weights):
    """
    A function whose gradient is Σ w ∇ log π; the kinds differ in their second derivative only: Σ w log π, the likelihood ratio
    of single steps (Rothfuss et al. 2019), that of the episode so far, credited by difference (Farquhar et al. 2019).
    """
    if kind == "pathwise":
        return (weights * log_prob).sum()
    if kind == "lvc":
        return (weights * th.exp(log_prob - log_prob.detach())).sum()
    cumulative = log_prob.cumsum(0)
    lengths = th.bincount(samples.episode_index, minlength=samples.n_episodes)
    ends = lengths.cumsum(0)
    before_episode = th.cat([cumulative.new_zeros(1), cumulative])[ends - lengths]
    upto = cumulative - samples.per_sample(before_episode)
    before = upto - log_prob
    return (weights * (th.exp(upto - upto.detach()) - th.exp(before - before.detach()))).sum()


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
@pytest.mark.parametrize("variate", RETURN_CONTROL_VARIATES)
@pytest.mark.parametrize("n_inner_steps", [1, 2, 3])
def test_exact_score_term_against_autodiff_through_the_chain(policy, n_inner_steps, variate, score_coef):
    objective = MetaObjective(INNER, OUTER, LEARNING_RATE, score_coef=score_coef)
    traces = traces_of(policy, objective, n_inner_steps)
    outer = np.array([trace[-1].batch.returns(GAMMA).mean() for trace in traces])
    scale = [trace[-1].weighted.scale for trace in traces]

    def score_of(task):
        def coefficients(stage, v, adapted):
            inner = np.array([trace[stage].batch.returns(GAMMA) for trace in traces])
            baseline = RETURN_CONTROL_VARIATES[variate](outer, inner)[task]
            return th.as_tensor((outer[task] - baseline) / scale[task])

        return coefficients

    parts = [unrolled(policy, objective, trace, score_of(task)) for task, trace in enumerate(traces)]
    choose = return_coefficients(traces, GAMMA, return_baselines(traces, GAMMA, RETURN_CONTROL_VARIATES[variate]))
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
    estimate = meta_gradient(policy, objective, refitted_coefficients(rule, SPACE), traces)
    assert_close(estimate.gradient, {name: (parts[0][name] + parts[1][name]) / 2 for name in parts[0]}, 1e-8)
    assert flat(estimate.score_term).norm() > 1e-3 * flat(estimate.gradient).norm()


def test_threads_and_one_after_another_agree_to_the_bit(policy):
    objective = MetaObjective(INNER, OUTER, LEARNING_RATE)
    traces = traces_of(policy, objective, 2, n_tasks=5)
    alone = meta_gradient(policy, objective, refitted_coefficients(INNER, SPACE), traces)
    with thread_pool(3) as pool:
        together = meta_gradient(policy, objective, refitted_coefficients(INNER, SPACE), traces, pool)
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
    estimate = meta_gradient(policy, objective, refitted_coefficients(INNER, SPACE), traces)
    norms = estimate.norms()
    pathwise = flat(meta_gradient(policy, objective, None, traces).gradient)
    whole, term = flat(estimate.gradient), flat(estimate.score_term)
    assert norms["grad_norm"] == pytest.approx(float(whole.norm()))
    assert norms["score_term_norm"] == pytest.approx(float(term.norm()))
    assert norms["pathwise_norm"] == pytest.approx(float(pathwise.norm()))
    assert norms["score_pathwise_cosine"] == pytest.approx(float(term @ pathwise / term.norm() / pathwise.norm()))
    assert norms["score_weight"] == pytest.approx(0.3)
    assert set(meta_gradient(policy, objective, None, traces).norms()) == {"grad_norm"}

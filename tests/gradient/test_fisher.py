"""Products with the Fisher information through inner steps, against autodiff of the KL divergence."""

from dataclasses import replace

import numpy as np
import pytest
import torch as th
from chain_tools import INNER, LEARNING_RATE, OUTER, assert_close, flat, gradient, leaves, phase
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from test_local_gradient import moved, played_trace
from toys import Float64

from sb3_sgmrl.gradient.advantages import episode_weights
from sb3_sgmrl.gradient.fisher import task_fisher_product
from sb3_sgmrl.gradient.local_gradient import PlayedPhase, local_task_value
from sb3_sgmrl.gradient.objective import MetaObjective, TaskPhase
from sb3_sgmrl.policies.functional import FunctionalPolicy


def adapted(policy, objective, theta, inner):
    """ψ as a function of θ."""
    parameters = theta
    for one in inner:
        samples = one.samples
        log_prob = policy.log_prob(parameters, samples.observations, samples.actions)
        total = log_prob if objective.inner_surrogate == "pathwise" else th.exp(log_prob - one.log_prob)
        step = gradient((samples.weights * total).sum(), parameters, create_graph=True)
        sizes = objective.relative_lr or dict.fromkeys(step, 1.0)
        parameters = {name: parameters[name] + LEARNING_RATE * sizes[name] * step[name] for name in parameters}
    return parameters


def hessian_product(function, theta, v):
    """The second derivative of a function at θ times v, by differentiating twice."""
    theta = leaves(theta)
    first = gradient(function(theta), theta, create_graph=True)
    return gradient(sum((first[name] * v[name]).sum() for name in first), theta)


def sampled_kl(policy, parameters, outer):
    log_ratio = policy.log_prob(parameters, outer.samples.observations, outer.samples.actions) - outer.log_prob
    return (log_ratio.exp() - 1 - log_ratio).mean()


@pytest.mark.parametrize("owner", ["all", "some"])
@pytest.mark.parametrize("kind", ["pathwise", "lvc"])
@pytest.mark.parametrize("n_inner_steps", [1, 2])
def test_it_is_the_second_derivative_of_the_estimated_divergence(policy, n_inner_steps, kind, owner):
    sizes = None
    if owner == "some":
        sizes = {name: th.tensor(float(i % 2)).double() for i, name in enumerate(policy.parameters())}
    objective = MetaObjective(INNER, OUTER, LEARNING_RATE, inner_surrogate=kind, relative_lr=sizes)
    trace = played_trace(policy, replace(objective, relative_lr=None), n_inner_steps)
    played = [PlayedPhase.make(policy, one) for one in trace]
    if owner == "some":  # where the restricted steps lead
        for stage in range(1, len(played)):
            there = adapted(policy, objective, leaves(trace[0].parameters), played[:stage])
            there = {name: value.detach() for name, value in there.items()}
            played[stage] = PlayedPhase.make(policy, TaskPhase(there, trace[stage].batch, trace[stage].weighted))
    v = moved({name: th.zeros_like(value) for name, value in policy.parameters().items()}, 1.0)

    def divergence(theta):
        return sampled_kl(policy, adapted(policy, objective, theta, played[:-1]), played[-1])

    found = task_fisher_product(policy, objective, played, v)
    assert_close(found, hessian_product(divergence, trace[0].parameters, v), 1e-9)
    first_order = task_fisher_product(policy, replace(objective, first_order=True), played, v)
    assert (flat(first_order) - flat(found)).norm() > 0.01 * flat(found).norm()
    scores = gradient(divergence(leaves(trace[0].parameters)), leaves(policy.parameters()), allow_unused=True)
    assert all(value is None for value in scores.values())


def make_policy(action_space):
    th.manual_seed(0)
    space = spaces.Box(-5, 5, (3,), np.float64)
    policy = ActorCriticPolicy(space, action_space, lambda _: 0.0, net_arch=[3], features_extractor_class=Float64).double()
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * th.randn_like(parameter))
    return FunctionalPolicy(policy)


@pytest.mark.parametrize("action_space", [spaces.Box(-1, 1, (2,)), spaces.Discrete(3)], ids=["gaussian", "categorical"])
def test_with_many_samples_it_is_that_of_the_exact_divergence(action_space):
    """The adapted policy plays 200 000 outer samples: the sampled Fisher information tends to the exact one."""
    policy = make_policy(action_space)
    objective = MetaObjective(INNER, OUTER, LEARNING_RATE)
    theta = policy.parameters()
    inner = phase(1, n_episodes=4, n_steps=6)
    rng = np.random.default_rng(0)
    if isinstance(action_space, spaces.Discrete):
        inner = replace(inner, actions=rng.integers(0, 3, inner.mask.shape))
    weighted = episode_weights(inner, INNER, policy.policy.observation_space)[0]
    first = PlayedPhase.make(policy, TaskPhase(theta, inner.task(0), weighted))
    psi = {name: value.detach() for name, value in adapted(policy, objective, leaves(theta), [first]).items()}

    n = 200_000
    states = rng.integers(-2, 3, (40, 3)).astype(np.float64)
    observations = np.repeat(states, n // 40, axis=0)
    old = policy.policy_with(psi).get_distribution(th.as_tensor(observations))
    th.manual_seed(0)
    actions = old.get_actions().detach().numpy()
    shape = (1, 1, n)
    outer = replace(
        inner,
        observations=observations.reshape(*shape, 3),
        actions=actions.reshape(*shape, *action_space.shape),
        rewards=np.zeros(shape),
        mask=np.ones(shape, bool),
        episode_returns=np.zeros((1, 1)),
    )
    last = PlayedPhase.make(
        policy, TaskPhase(psi, outer.task(0), episode_weights(outer, OUTER, policy.policy.observation_space)[0])
    )
    v = moved({name: th.zeros_like(value) for name, value in theta.items()}, 1.0)

    def divergence(parameters):
        """The divergence of distributions, mean over the states."""
        there = adapted(policy, objective, parameters, [first])
        before, after = (policy._call(p, "arrays", th.as_tensor(states), policy.kind.arrays) for p in (psi, there))
        kind = th.distributions.Normal if len(after) == 2 else lambda logits: th.distributions.Categorical(logits=logits)
        by_state = th.distributions.kl_divergence(kind(*before), kind(*after))
        return (by_state if by_state.ndim == 1 else by_state.sum(1)).mean()

    exact = hessian_product(divergence, theta, v)
    found = task_fisher_product(policy, objective, [first, last], v)
    assert_close(found, exact, 0.05)
    # and the estimate that the line search looks at is that of the divergence itself
    near = moved(theta, 0.03)
    value = local_task_value(policy, objective, near, [first, last])
    assert value.approx_kl == pytest.approx(float(divergence(leaves(near)).detach()), rel=0.05)
    assert value.approx_kl > 1e-4

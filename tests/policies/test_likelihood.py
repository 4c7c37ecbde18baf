"""The derivatives that are written out for plain MLPs, against automatic differentiation in float64."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from toys import Float64, small_discrete

from sb3_sgmrl.policies.functional import FunctionalPolicy
from sb3_sgmrl.policies.likelihood import AutogradLikelihood, MlpLikelihood, log_likelihood
from sb3_sgmrl.policies.mlp import PlainMlp

OBSERVATIONS = {"box": spaces.Box(-5, 5, (3,)), "categories": spaces.Discrete(4)}
ACTIONS = {"box": spaces.Box(-1, 1, (2,)), "categories": spaces.Discrete(3)}


def pair(observation_space, action_space, net_arch=(4,), activation_fn=nn.Tanh, n_samples=20):
    """Both likelihoods of the same samples at the same parameters, and weights and a direction."""
    th.manual_seed(0)
    spaces_of = observation_space, action_space
    kwargs = {"net_arch": list(net_arch), "activation_fn": activation_fn}
    policy = FunctionalPolicy(
        ActorCriticPolicy(*spaces_of, lambda _: 0.0, features_extractor_class=Float64, **kwargs).double()
    )
    mlp = PlainMlp.find(ActorCriticPolicy(*spaces_of, lambda _: 0.0, **kwargs))
    parameters = {name: value + 0.3 * th.randn_like(value) for name, value in policy.parameters().items()}
    draws = []
    for seed, space in enumerate(spaces_of):
        space.seed(seed)
        draws.append(th.as_tensor(np.stack([space.sample() for _ in range(n_samples)])))
    direction = {name: th.randn_like(value) for name, value in parameters.items()}
    return (
        MlpLikelihood(mlp, parameters, *draws),
        AutogradLikelihood(policy, parameters, *draws),
        th.randn(n_samples, dtype=th.float64),
        direction,
    )


@pytest.mark.parametrize("net_arch", [(), (4,), (5, 4, 3)], ids=str)
@pytest.mark.parametrize("activation_fn", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ACTIONS)
def test_derivatives(observation, action, net_arch, activation_fn):
    ours, reference, weights, v = pair(OBSERVATIONS[observation], ACTIONS[action], net_arch, activation_fn)
    expected, x = reference.hessian_product(weights, v)
    # twice, because nothing that is asked for may change what is asked for later
    for _ in range(2):
        th.testing.assert_close(ours.gradient(weights), reference.gradient(weights))
        th.testing.assert_close(ours.directional(v), x)
        second, by_product = ours.hessian_product(weights, v)
        th.testing.assert_close(second, expected)
        th.testing.assert_close(by_product, x)
    th.testing.assert_close(reference.directional(v), x)
    assert list(second) == list(expected), "in the order of the parameters"
    assert sum(float(value.abs().sum()) for value in expected.values()) > 0.1


def test_matrices_as_observations_and_actions():
    ours, reference, weights, v = pair(spaces.Box(-1, 1, (2, 3)), spaces.Box(-1, 1, (3, 2)))
    th.testing.assert_close(ours.gradient(weights), reference.gradient(weights))
    th.testing.assert_close(ours.hessian_product(weights, v), reference.hessian_product(weights, v))


def test_actions_of_another_precision():
    policy = ActorCriticPolicy(OBSERVATIONS["box"], ACTIONS["box"], lambda _: 0.0)
    functional = FunctionalPolicy(policy)
    observations, actions = th.randn(5, 3), th.randn(5, 2, dtype=th.float64)
    likelihood = log_likelihood(functional, functional.parameters(), observations, actions)
    assert isinstance(likelihood, MlpLikelihood)
    assert {value.dtype for value in likelihood.gradient(th.ones(5)).values()} == {th.float32}


MANY_SPACES = [
    (OBSERVATIONS["box"], spaces.Box(-1, 1, ())),
    (OBSERVATIONS["box"], spaces.Box(-1, 1, (2,), np.float64)),
    (OBSERVATIONS["box"], spaces.Box(-1, 1, (2,), np.float16)),
    (OBSERVATIONS["box"], small_discrete(3)),
    (OBSERVATIONS["box"], spaces.Discrete(1)),
    (spaces.Box(0, 255, (3,), np.uint8), ACTIONS["box"]),
    (spaces.Box(0, 1, (3,), bool), ACTIONS["box"]),
    (spaces.Box(-1, 1, (3,), np.float16), ACTIONS["categories"]),
    (small_discrete(4), ACTIONS["categories"]),
]


@pytest.mark.parametrize(("observation_space", "action_space"), MANY_SPACES, ids=str)
def test_both_are_of_the_same_policy(observation_space, action_space):
    """In single precision, as in training, and with a network that was put in after construction."""
    th.manual_seed(0)
    policy = ActorCriticPolicy(observation_space, action_space, lambda _: 0.0, net_arch=[4, 4])
    policy.mlp_extractor.policy_net = nn.Sequential(*policy.mlp_extractor.policy_net[:2], nn.Linear(4, 6), nn.Tanh())
    policy.action_net = nn.Linear(6, policy.action_net.out_features)
    functional = FunctionalPolicy(policy)
    observations, actions = (th.as_tensor(np.stack([s.sample() for _ in range(8)])) for s in (observation_space, action_space))
    if observations.dtype == th.uint8:
        observations = observations // 50  # or the hidden units are all at their limits
    ours = log_likelihood(functional, functional.parameters(), observations, actions)
    reference = AutogradLikelihood(functional, functional.parameters(), observations, actions)
    assert isinstance(ours, MlpLikelihood)
    weights, v = th.randn(8), {name: th.randn_like(value) for name, value in functional.parameters().items()}
    close = {"rtol": 1e-3, "atol": 1e-4}
    th.testing.assert_close(ours.gradient(weights), reference.gradient(weights), **close)
    th.testing.assert_close(ours.hessian_product(weights, v), reference.hessian_product(weights, v), **close)


CHANGED_LAYERS = {
    "no bias": lambda policy: setattr(policy, "action_net", nn.Linear(4, 2, bias=False)),
    "no activation at the end": lambda policy: policy.mlp_extractor.policy_net.append(nn.Linear(4, 4)),
    "tied weights": lambda policy: setattr(
        policy.mlp_extractor.policy_net[2], "weight", policy.mlp_extractor.policy_net[0].weight
    ),
    "a hook": lambda policy: policy.action_net.register_forward_hook(lambda module, x, y: y / 2),
    "computed weights": lambda policy: nn.utils.parametrizations.weight_norm(policy.action_net),
    "frozen": lambda policy: policy.log_std.requires_grad_(False),
    "another sequence": lambda policy: setattr(
        policy.mlp_extractor, "policy_net", nn.Sequential(policy.mlp_extractor.policy_net, nn.LayerNorm(4))
    ),
}


@pytest.mark.parametrize("change", CHANGED_LAYERS)
def test_changed_layers_are_not_taken_for_plain_ones(change):
    th.manual_seed(0)
    policy = ActorCriticPolicy(spaces.Box(-5, 5, (4,)), ACTIONS["box"], lambda _: 0.0, net_arch=[4, 4])
    CHANGED_LAYERS[change](policy)
    functional = FunctionalPolicy(policy)
    observations, actions = th.randn(20, 4), th.randn(20, 2)
    parameters = {name: value + 0.1 for name, value in functional.parameters().items()}
    likelihood = log_likelihood(functional, parameters, observations, actions)
    assert isinstance(likelihood, AutogradLikelihood) and set(likelihood.gradient(th.ones(20))) == set(
        functional.adapted_names
    )
    moved = functional.policy_with(parameters)
    expected = moved.evaluate_actions(observations, actions)[1]
    th.testing.assert_close(functional.log_prob(parameters, observations, actions), expected)
    named = {name: p for name, p in moved.named_parameters() if name in parameters}
    direct = dict(zip(named, th.autograd.grad(expected.sum(), list(named.values())), strict=True))
    found = likelihood.gradient(th.ones(20))
    th.testing.assert_close({name: found[name] for name in direct}, direct)


@pytest.mark.parametrize(
    ("written_out", "kwargs"),
    [
        (True, {}),
        (True, {"activation_fn": nn.ReLU}),
        (True, {"net_arch": []}),
        (False, {"activation_fn": nn.ELU}),
        (False, {"activation_fn": nn.PReLU}),
        (False, {"features_extractor_class": Float64}),
    ],
    ids=str,
)
def test_which_policies_are_written_out(written_out, kwargs):
    policy = ActorCriticPolicy(OBSERVATIONS["box"], ACTIONS["box"], lambda _: 0.0, **kwargs)
    policy = FunctionalPolicy(policy.double() if "features_extractor_class" in kwargs else policy)
    samples = th.zeros(2, 3), th.zeros(2, 2)
    found = log_likelihood(policy, policy.parameters(), *samples)
    assert isinstance(found, MlpLikelihood if written_out else AutogradLikelihood)

"""Policies that need no probe have the properties that the probe finds."""

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_sgmrl.policies.functional import FunctionalPolicy
from sb3_sgmrl.policies.standard import is_standard

VECTOR = spaces.Box(-1, 1, (3,))


def make_policy(observations=VECTOR, actions=VECTOR, cls=ActorCriticPolicy, **kwargs):
    return cls(observations, actions, lambda _: 1e-3, **{"net_arch": [4, 4], **kwargs})


def found(policy):
    functional = FunctionalPolicy(policy)
    return functional.kind, functional.adapted_names, functional.not_twice, functional.mlp.layers, functional.vectorized


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("net_arch", [[], [4], {"pi": [3, 2], "vf": []}, {"vf": [5]}])
@pytest.mark.parametrize("actions", [VECTOR, spaces.Discrete(3)])
@pytest.mark.parametrize("observations", [VECTOR, spaces.Discrete(4), spaces.Box(0, 9, (2, 2), dtype="int64")])
def test_the_probe_finds_the_same(monkeypatch, observations, actions, net_arch, activation):
    policy = make_policy(observations, actions, net_arch=net_arch, activation_fn=activation)
    assert is_standard(policy)
    without = found(policy)
    monkeypatch.setattr("sb3_sgmrl.policies.functional.is_standard", lambda policy: False)
    assert found(policy) == without


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Cautious(ActorCriticPolicy):
    def get_distribution(self, obs):
        return super().get_distribution(obs / 2)


def with_hook(policy):
    policy.action_net.register_forward_hook(lambda module, inputs, output: 2 * output)


def with_pre_hook(policy):
    policy.action_net.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))


def with_gradient_hook(policy):
    policy.action_net.register_full_backward_hook(lambda module, inputs, outputs: (2 * inputs[0],))


def with_own_forward(policy):
    policy.action_net.forward = lambda x: 2 * nn.functional.linear(x, policy.action_net.weight)


def with_own_distribution(policy):
    policy.get_distribution = lambda obs: ActorCriticPolicy.get_distribution(policy, 2 * obs)


def with_own_log_prob(policy):
    policy.action_dist.log_prob = lambda actions: type(policy.action_dist).log_prob(policy.action_dist, 2 * actions)


def with_other_layer(policy):
    policy.action_net = Doubled(4, 3)


def with_dropout_of_values(policy):
    policy.mlp_extractor.value_net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))


def with_double(policy):
    policy.double()


def with_parametrization(policy):
    th.nn.utils.parametrizations.weight_norm(policy.action_net)


CHANGES = [
    with_hook,
    with_pre_hook,
    with_gradient_hook,
    with_own_forward,
    with_own_distribution,
    with_own_log_prob,
    with_other_layer,
    with_dropout_of_values,
    with_double,
    with_parametrization,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_policy_is_probed(change):
    policy = make_policy()
    change(policy)
    assert not is_standard(policy)


def test_other_classes_are_probed():
    assert not is_standard(make_policy(cls=Cautious))
    assert not is_standard(make_policy(activation_fn=nn.ELU))

"""The weights that policies start with."""

import numpy as np
from torch import nn
from toys import (
    point_vec,
    tiny,
)

from sb3_sgmrl import MAML


def test_policies_start_with_glorot_weights_unless_sb3_is_asked():
    ours = tiny(MAML, point_vec(1), policy_kwargs={"net_arch": [100, 100]}).policy
    for layer, (n_in, n_out) in ((ours.mlp_extractor.policy_net[2], (100, 100)), (ours.action_net, (100, 1))):
        bound = (6 / (n_in + n_out)) ** 0.5
        assert 0.8 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert not layer.bias.any()
    for ortho_init in (True, False):
        given = tiny(MAML, point_vec(1), policy_kwargs={"ortho_init": ortho_init}).policy
        small = float(given.action_net.weight.detach().norm()) < 0.02
        assert small == ortho_init and bool(given.action_net.bias.any()) != ortho_init


def test_a_features_extractor_keeps_the_weights_it_came_with():
    class Constant(nn.Module):
        features_dim = 3

        def __init__(self, observation_space):
            super().__init__()
            self.linear = nn.Linear(int(np.prod(observation_space.shape)), 3)
            nn.init.constant_(self.linear.weight, 7.0)

        def forward(self, observations):
            return self.linear(observations.flatten(1))

    policy = tiny(MAML, point_vec(1), policy_kwargs={"features_extractor_class": Constant}).policy
    assert (policy.features_extractor.linear.weight == 7).all()

"""The policies to differentiate through."""

import pytest
from chain_tools import gaussian_mlp
from torch import nn

from sb3_sgmrl.policies.mlp import PlainMlp


@pytest.fixture(scope="module", params=["automatic", "written out"])
def policy(request):
    """Derivatives by automatic differentiation, or those of a plain MLP."""
    policy = gaussian_mlp()
    assert policy.mlp is None, "because of its features extractor"
    if request.param == "written out":
        layers = ("mlp_extractor.policy_net.0", "action_net")
        policy.mlp = PlainMlp(layers, nn.Tanh(), policy.policy.observation_space, policy.policy.action_space)
    return policy

"""Where the parameters of a policy start."""

from __future__ import annotations

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn


def initialize(policy: ActorCriticPolicy) -> None:
    """
    Glorot-uniform weights and zero biases for the layers that follow the features extractor, as in the paper's experiments.

    SB3's orthogonal initialisation shrinks the last layer a hundredfold: an inner step of plain gradient ascent would change
    little but its bias, and adaptation would start from nothing. PyTorch's own has first-layer weights and biases that are
    large beside observations of small scale.

    :param policy: the policy, changed in place; its features extractor is left alone
    """
    for part in (policy.mlp_extractor, policy.action_net, policy.value_net):
        for module in part.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

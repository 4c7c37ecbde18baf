"""The initial parameters of a policy."""

from __future__ import annotations

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn


def initialize(policy: ActorCriticPolicy) -> None:
    """
    Initialise the layers after the features extractor with Glorot-uniform weights and zero biases, as in the paper.

    SB3's orthogonal initialisation shrinks the last layer a hundredfold. An inner step of plain gradient ascent would then
    change little but the bias of that layer. PyTorch's default has first-layer weights and biases that are large compared
    to observations of small scale.

    :param policy: The policy, changed in place except for its features extractor
    """
    for part in (policy.mlp_extractor, policy.action_net, policy.value_net):
        for module in part.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

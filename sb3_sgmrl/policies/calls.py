"""The questions that are asked of a policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn


class PolicyCall(nn.Module):
    """
    ``functional_call`` reaches ``forward`` only; this routes it to the methods of the policy.

    :param policy: the policy
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.policy = policy
        self.dtype = next(policy.parameters()).dtype

    def forward(self, method: str, observations: Any, argument: Any = None) -> Any:
        """
        :param method: ``log_prob``, ``arrays``, ``sample`` or ``values``
        :param observations: tensors (n, \\*obs_shape)
        :param argument: the actions of ``log_prob``; what takes the arrays out of torch's distribution for ``arrays``
        :return: tensors (n, ...)
        """
        if method == "values":
            return self.policy.predict_values(observations).flatten()
        distribution = self.policy.get_distribution(observations)
        if method == "arrays":
            return argument(distribution.distribution)
        if method == "sample":
            return distribution.sample()
        actions = argument
        if isinstance(self.policy.action_space, (spaces.Box, spaces.MultiBinary)):
            actions = actions.reshape(len(actions), -1).to(self.dtype)  # these are compared with the policy's outputs
        return distribution.log_prob(actions)


def by_key(function: Callable[[Any], Any], observations: Any) -> Any:
    """
    :param function: of a tensor or an array
    :param observations: one, or one per key
    :return: what becomes of it, or of each
    """
    if isinstance(observations, dict):
        return {key: function(value) for key, value in observations.items()}
    return function(observations)


@contextmanager
def seeded(seed: int, device: th.device) -> Iterator[None]:
    """
    Torch's generator at a seed, and as it was afterwards.

    :param seed: for a ``with`` statement
    :param device: whose generator is used as well
    """
    with th.random.fork_rng([device] if device.type == "cuda" else []):
        th.manual_seed(seed)
        yield


@contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Whoever asks for distributions knows whose they are and checks them; torch's own check is slow and names nobody."""
    before = th.distributions.Distribution._validate_args
    th.distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        th.distributions.Distribution.set_default_validate_args(before)

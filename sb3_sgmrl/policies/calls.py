"""Calls of a policy's methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn


class PolicyCall(nn.Module):
    """
    A module that routes ``forward`` to the methods of a policy, because ``functional_call`` reaches ``forward`` only.

    :param policy: The policy
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.policy = policy
        self.dtype = next(policy.parameters()).dtype

    def forward(self, method: str, observations: Any, argument: Any = None) -> Any:
        """
        Call a method of the policy.

        :param method: The method: ``log_prob``, ``arrays``, ``sample`` or ``values``
        :param observations: Tensors of shape (n, \\*obs_shape)
        :param argument: The actions for ``log_prob``; for ``arrays``, the function that takes the arrays out of torch's
            distribution
        :return: Tensors of shape (n, ...)
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
            # the distribution compares them with the policy's outputs
            actions = actions.reshape(len(actions), -1).to(self.dtype)
        return distribution.log_prob(actions)


def by_key(function: Callable[[Any], Any], observations: Any) -> Any:
    """
    Apply a function to a value, or to each value of a dictionary.

    :param function: The function of a tensor or an array
    :param observations: A tensor or an array, or a dictionary of them
    :return: The result, or a dictionary of results
    """
    if isinstance(observations, dict):
        return {key: function(value) for key, value in observations.items()}
    return function(observations)


@contextmanager
def seeded(seed: int, device: th.device) -> Iterator[None]:
    """
    Seed torch's generator inside a ``with`` statement, and restore it afterwards.

    :param seed: The seed
    :param device: The device whose generator is seeded as well
    """
    with th.random.fork_rng([device] if device.type == "cuda" else []):
        th.manual_seed(seed)
        yield


_UNCHECKED = Lock()
_n_unchecked = 0
_checked_before = True


@contextmanager
def unchecked_distributions() -> Iterator[None]:
    """
    Switch off torch's check of distribution parameters inside a ``with`` statement, for all threads.

    Torch's check is slow and does not name the task. The caller checks the parameters instead. The last thread that leaves
    switches the check on again.
    """
    global _n_unchecked, _checked_before
    with _UNCHECKED:
        if _n_unchecked == 0:
            _checked_before = th.distributions.Distribution._validate_args
            th.distributions.Distribution.set_default_validate_args(False)
        _n_unchecked += 1
    try:
        yield
    finally:
        with _UNCHECKED:
            _n_unchecked -= 1
            if _n_unchecked == 0:
                th.distributions.Distribution.set_default_validate_args(_checked_before)

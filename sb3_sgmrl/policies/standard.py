"""Policies whose properties are known without a trial, because they consist of SB3's and torch's own modules."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

from sb3_sgmrl.policies.mlp import ACTIVATIONS

_MODULES = frozenset({ActorCriticPolicy, FlattenExtractor, MlpExtractor, nn.Flatten, nn.Sequential, nn.Linear, *ACTIVATIONS})
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def is_standard(policy: ActorCriticPolicy) -> bool:
    """
    Return whether every module of a policy has a known class, no hooks, and the methods of its class.

    :param policy: The policy, a :class:`~sb3_sgmrl.policies.mlp.PlainMlp`
    :return: Whether it is known to be a twice differentiable function of one observation and its parameters
    """
    return (
        all(_is_standard_module(module) for module in policy.modules())
        and not _has_own_methods(policy.action_dist)
        and all(parameter.dtype == th.float32 for parameter in policy.parameters())
    )


def _is_standard_module(module: nn.Module) -> bool:
    has_hooks = any(getattr(module, hooks) for hooks in _HOOKS)
    return type(module) in _MODULES and not has_hooks and not _has_own_methods(module)


def _has_own_methods(thing: Any) -> bool:
    return any(callable(getattr(type(thing), name, None)) for name in vars(thing))

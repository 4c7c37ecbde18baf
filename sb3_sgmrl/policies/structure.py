"""The structure of a policy, to detect changes of it."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.distributions import Distribution
from torch import nn

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_EXTRACTORS = ("pi_features_extractor", "vf_features_extractor")
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


class Structure:
    """
    The modules, tensors and plain attributes of a policy, without the values of parameters and buffers.

    :param policy: The policy
    """

    def __init__(self, policy: nn.Module) -> None:
        # objects are compared by their ids, which are unique while the objects live
        self._alive: list[Any] = []
        modules = list(policy.named_modules(remove_duplicate=False))
        parameters = list(policy.named_parameters(remove_duplicate=False))
        tensors = [*parameters, *policy.named_buffers(remove_duplicate=False)]
        #: the modules and tensors of the network
        self.network = [
            *((name, self._id(module), self._id(type(module)), self._hooks(module)) for name, module in modules),
            *((name, self._id(tensor), tensor.shape, tensor.dtype, tensor.device) for name, tensor in tensors),
        ]
        #: the names of the extractors that are the policy's ``features_extractor``
        own = getattr(policy, "features_extractor", None)
        self.shared = [name for name in _EXTRACTORS if own is not None and getattr(policy, name, None) is own]
        #: whether each parameter is trainable
        self.trainable = [parameter.requires_grad for _, parameter in parameters]
        #: the attributes of modules other than tensors and modules
        self.attributes = [
            (name, key, self._value(value))
            for name, module in modules
            for key, value in vars(module).items()
            if key not in _OF_EVERY_MODULE and not isinstance(value, th.optim.Optimizer)
        ]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Structure):
            return NotImplemented
        return (self.network, self.trainable, self.attributes) == (other.network, other.trainable, other.attributes)

    __hash__ = None  # type: ignore[assignment]

    def _id(self, thing: Any) -> int:
        self._alive.append(thing)
        return id(thing)

    def _hooks(self, module: nn.Module) -> list[int]:
        return [self._id(hook) for hooks in (module._forward_pre_hooks, module._forward_hooks) for hook in hooks.values()]

    def _value(self, value: Any) -> Any:
        """Return an object that compares equal while the value does not change."""
        if isinstance(value, _PLAIN):
            return repr(value)  # NaN is equal to itself
        if isinstance(value, th.Tensor):
            return self._id(value), 0 if value.is_inference() else value._version
        if isinstance(value, np.ndarray):
            return self._id(value), value.shape, zlib.crc32(repr(value).encode() if value.dtype.hasobject else value.tobytes())
        if isinstance(value, dict):
            return [(repr(key), self._value(part)) for key, part in value.items()]
        if isinstance(value, (list, tuple)):
            return [self._value(part) for part in value]
        if isinstance(value, Distribution):  # every call of the policy sets other parameters
            settings = [(key, repr(part)) for key, part in vars(value).items() if isinstance(part, _PLAIN)]
            return self._id(value), self._id(type(value)), [setting for setting in settings if setting[1] != "None"]
        return self._id(value)


def layers(policy: nn.Module) -> list[str]:
    """
    List the name and class of every module.

    :param policy: The policy
    :return: The entries ``name: Class``; policies whose entries differ are different functions
    """
    return [f"{name}: {type(module).__name__}" for name, module in policy.named_modules() if name]

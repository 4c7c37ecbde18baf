"""An SB3 ActorCriticPolicy as a pure function of (parameters, batch), for one or many parameter sets."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_sgmrl.data.batch import Observations
from sb3_sgmrl.policies.mlp import PlainMlp

Parameters = dict[str, th.Tensor]


class _PolicyCall(nn.Module):
    """``functional_call`` reaches ``forward`` only; this routes it to the methods of the policy."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.policy = policy
        self.dtype = next(policy.parameters()).dtype

    def forward(self, method: str, observations: Any, actions: th.Tensor | None = None) -> Any:
        if method == "values":
            return self.policy.predict_values(observations).flatten()
        distribution = self.policy.get_distribution(observations)
        if method == "log_prob":
            assert actions is not None
            if isinstance(self.policy.action_space, (spaces.Box, spaces.MultiBinary)):
                actions = actions.flatten(1).to(self.dtype)  # these are compared with the policy's outputs
            return distribution.log_prob(actions)
        inner: Any = distribution.distribution
        if isinstance(inner, list):  # multi-discrete
            return tuple(part.logits for part in inner)
        if isinstance(inner, th.distributions.Normal):
            return inner.mean, inner.stddev
        return inner.logits


@contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Whoever asks for distributions knows whose they are and checks them; torch's own check is slow and names nobody."""
    before = th.distributions.Distribution._validate_args
    th.distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        th.distributions.Distribution.set_default_validate_args(before)


class FunctionalPolicy:
    """
    Pure functions of the parameters of a policy. They run on skeleton copies, as many as threads ask at once, so the policy
    itself is never touched: ``functional_call`` swaps parameters in place while it runs.

    :param policy: the policy whose architecture is used
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        self.device = policy.device
        self.dtype = next(policy.parameters()).dtype
        self.mlp = PlainMlp.find(policy)
        self._skeletons: list[_PolicyCall] = []
        # what skeletons share with the policy, into which a file may be loaded later
        frozen = {name: value for name, value in policy.named_parameters() if not value.requires_grad}
        self._constants = {f"policy.{name}": value for name, value in [*frozen.items(), *policy.named_buffers()]}
        self.adapted_names = self._names_reached("log_prob")

    def _skeleton(self) -> _PolicyCall:
        skeleton = copy.deepcopy(self.policy)
        skeleton.set_training_mode(False)
        skeleton.requires_grad_(False)
        return _PolicyCall(skeleton)

    def _names_reached(self, method: str) -> tuple[str, ...]:
        """Names of the trainable parameters the method depends on; the value net, for one, does not shape the actions."""
        space, action_space = self.policy.observation_space, self.policy.action_space
        obs_tensor, _ = self.policy.obs_to_tensor(space.sample())
        action = th.as_tensor(np.asarray(action_space.sample())[None], device=self.device)
        trainable = {name: value for name, value in self.policy.named_parameters() if value.requires_grad}
        parameters = {name: value.detach().clone().requires_grad_() for name, value in trainable.items()}
        output = self._call(parameters, method, obs_tensor, action)
        gradients = th.autograd.grad(output.sum(), list(parameters.values()), allow_unused=True)
        return tuple(name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None)

    def _call(self, parameters: Parameters, *args: Any) -> Any:
        named = {**self._constants, **{f"policy.{name}": value for name, value in parameters.items()}}
        try:
            skeleton = self._skeletons.pop()
        except IndexError:
            skeleton = self._skeleton()
        # an extractor shared by actor and critic is registered under several names: without tie_weights=False adapted
        # tensors would stay behind in the skeleton
        output = th.func.functional_call(skeleton, named, args, tie_weights=False, strict=False)
        # one that raised is not used again
        self._skeletons.append(skeleton)
        return output

    def parameters(self) -> Parameters:
        """
        :return: detached copies of the adapted parameters, by their de-duplicated names
        """
        named = dict(self.policy.named_parameters())
        return {name: named[name].detach().clone() for name in self.adapted_names}

    def policy_with(self, parameters: Parameters) -> ActorCriticPolicy:
        """
        :param parameters: adapted parameters by name
        :return: a copy of the policy that holds them
        """
        policy = copy.deepcopy(self.policy)
        with th.no_grad():
            for name, parameter in policy.named_parameters():
                if name in parameters:
                    parameter.copy_(parameters[name])
        return policy

    def to_tensor(self, observations: Observations) -> Any:
        """
        :param observations: shape (n, \\*obs_shape), or such an array per key
        :return: copies on the policy's device
        """
        # copies, because rounding in a matrix product can depend on the alignment of its factors, which numpy leaves to chance
        if isinstance(observations, dict):
            return {key: th.tensor(value, device=self.device) for key, value in observations.items()}
        return th.tensor(observations, device=self.device)

    def log_prob(self, parameters: Parameters, observations: Any, actions: th.Tensor) -> th.Tensor:
        """
        log π(a|s; parameters) of each sample.

        :param parameters: adapted parameters by name
        :param observations: tensors (n, \\*obs_shape)
        :param actions: unclipped actions (n, \\*action_shape)
        :return: shape (n,)
        """
        return self._call(parameters, "log_prob", observations, actions)

    def values(self, observations: Any) -> th.Tensor:
        """
        The critic's values at its current parameters.

        :param observations: tensors (n, \\*obs_shape)
        :return: shape (n,)
        """
        return self.policy.predict_values(observations).flatten()

    def distributions(self, stacked: Parameters, observations: Any) -> tuple[np.ndarray, ...]:
        """
        Parameters of the action distributions of many parameter sets, each at its own observations.

        :param stacked: adapted parameters with the sets in front, (n_sets, \\*shape)
        :param observations: tensors (n_sets, n, \\*obs_shape)
        :return: (mean, standard deviation) for continuous actions, one array of logits per action dimension otherwise;
            shapes (n_sets, n, ...)
        """
        with th.no_grad(), unchecked_distributions():
            output = th.func.vmap(lambda p, o: self._call(p, "distribution", o), chunk_size=64)(stacked, observations)
        output = output if isinstance(output, tuple) else (output,)
        return tuple(np.asarray(part.cpu().numpy()) for part in output)


def stack_parameters(parameter_sets: list[Parameters]) -> Parameters:
    """
    :param parameter_sets: parameters by name, one dictionary per set
    :return: the same with the sets in front, (n_sets, \\*shape)
    """
    return {name: th.stack([parameters[name] for parameters in parameter_sets]) for name in parameter_sets[0]}

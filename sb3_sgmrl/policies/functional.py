"""An SB3 ActorCriticPolicy as a pure function of (parameters, batch), for one or many parameter sets."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_sgmrl.data.batch import Observations
from sb3_sgmrl.policies.actions import draw_noise
from sb3_sgmrl.policies.calls import PolicyCall, by_key, unchecked_distributions
from sb3_sgmrl.policies.copies import detached_copy
from sb3_sgmrl.policies.distributions import KINDS, Kind
from sb3_sgmrl.policies.mlp import PlainMlp
from sb3_sgmrl.policies.probing import Probe
from sb3_sgmrl.policies.standard import is_standard
from sb3_sgmrl.policies.structure import Structure

Parameters = dict[str, th.Tensor]


class FunctionalPolicy:
    """
    Pure functions of the parameters of a policy.

    ``functional_call`` swaps parameters in place while it runs. The functions therefore run on skeleton copies, one per
    thread, and never change the policy itself.

    The constructor probes the policy on a few observations, see :class:`~sb3_sgmrl.policies.probing.Probe`. The features
    extractor and the distribution decide which calls can be combined. SB3's own MLPs need no probe.

    :param policy: The policy whose architecture is used
    :raises ValueError: When the policy is not a function of observation and parameters, or no trainable parameter shapes its
        actions
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        self.structure = Structure(policy)
        self.device = policy.device
        self.dtype = next(policy.parameters()).dtype
        self._skeletons: list[PolicyCall] = []
        # skeletons share these tensors with the policy, so they follow when a file is loaded later
        self._places = _places(policy)
        frozen: Parameters = {name: value for name, value in policy.named_parameters() if not value.requires_grad}
        self._constants = {**self._by_place(frozen), **{f"policy.{name}": value for name, value in policy.named_buffers()}}
        self.mlp = PlainMlp.find(policy)
        if self.mlp is not None and is_standard(policy):
            self.kind: Kind | None = KINDS[type(policy.action_dist)]
            self.adapted_names = tuple(name for name, _ in policy.named_parameters() if name in self.mlp.parameter_names)
            #: names of the adapted parameters that the value net depends on, such as those of a shared features extractor
            self.shared_with_critic: tuple[str, ...] = ()
            #: the reason why there are no second derivatives; None when there are
            self.not_twice: str | None = None
            #: whether one call can evaluate many parameter sets
            self.vectorized = True
            return
        probe = Probe(policy, self._call, self.to_tensor)
        self.kind = probe.kind
        self.adapted_names = probe.adapted_names
        self.shared_with_critic = probe.shared_with_critic
        self.not_twice = probe.not_twice
        if self.mlp is not None and not probe.agrees(self.mlp.arrays):
            self.mlp = None
        self.vectorized = self.mlp is not None or probe.vectorizes(self._vectorized)

    def __deepcopy__(self, memo: dict[int, Any]) -> FunctionalPolicy:
        return FunctionalPolicy(copy.deepcopy(self.policy, memo))

    def followed(self, policy: ActorCriticPolicy) -> FunctionalPolicy:
        """
        Follow changes of the policy.

        :param policy: The current policy, or another one that replaced it
        :return: The same object while only values of parameters and buffers change, else a new one
        :raises ValueError: When the replaced features extractor is one that the policy does not use, or the new policy is no
            ActorCriticPolicy
        """
        if not isinstance(policy, ActorCriticPolicy):
            raise ValueError(
                f"`policy` must be an ActorCriticPolicy, got {type(policy).__name__}: replace or compile its modules instead."
            )
        structure = Structure(policy)
        if policy is self.policy and structure == self.structure:
            return self
        if policy is self.policy:
            was_shared, is_shared = self.structure.shared, structure.shared
            unused = [name for name in was_shared if name not in is_shared]
            if unused:
                raise ValueError(
                    f"`policy.features_extractor` was replaced, but not `policy.{unused[0]}`, which the policy uses: set both."
                )
        return FunctionalPolicy(policy)

    def check_same_network(self, policy: ActorCriticPolicy) -> None:
        """
        Check that the network is the one that played the episodes.

        :param policy: The current policy
        :raises ValueError: When the network was changed after the episodes were played
        """
        if policy is not self.policy or Structure(policy).network != self.structure.network:
            raise ValueError(
                "`policy` was changed while a meta-iteration was played: change it in a callback's `on_rollout_start`, or "
                "between two calls of `learn`."
            )

    def _skeleton(self) -> PolicyCall:
        skeleton = detached_copy(self.policy)
        skeleton.set_training_mode(False)
        skeleton.requires_grad_(False)
        return PolicyCall(skeleton)

    def _by_place(self, parameters: Parameters) -> Parameters:
        return {f"policy.{place}": value for name, value in parameters.items() for place in self._places[name]}

    @contextmanager
    def _borrowed(self) -> Iterator[PolicyCall]:
        """Lend a skeleton to one thread. It is made here, because torch's transforms do not allow to make one."""
        try:
            skeleton = self._skeletons.pop()
        except IndexError:
            skeleton = self._skeleton()
        yield skeleton
        # a skeleton whose call raised an error is not reused
        self._skeletons.append(skeleton)

    def _run(self, skeleton: PolicyCall, parameters: Parameters, *args: Any) -> Any:
        named = {**self._constants, **self._by_place(parameters)}
        # An extractor shared by actor and critic is registered under several names. Without tie_weights=False, adapted
        # tensors would stay in the skeleton.
        return th.func.functional_call(skeleton, named, args, tie_weights=False, strict=False)

    def _call(self, parameters: Parameters, *args: Any) -> Any:
        with self._borrowed() as skeleton:
            return self._run(skeleton, parameters, *args)

    def parameters(self) -> Parameters:
        """
        Copy the adapted parameters.

        :return: The detached copies of the adapted parameters, by their de-duplicated names
        """
        named = dict(self.policy.named_parameters())
        return {name: named[name].detach().clone() for name in self.adapted_names}

    def policy_with(self, parameters: Parameters) -> ActorCriticPolicy:
        """
        Copy the policy and set its adapted parameters.

        :param parameters: The adapted parameters by name
        :return: A copy of the policy that holds them
        """
        policy = detached_copy(self.policy)
        with th.no_grad():
            for name, parameter in policy.named_parameters():
                if name in parameters:
                    parameter.copy_(parameters[name])
        return policy

    def to_tensor(self, observations: Observations) -> Any:
        """
        Copy observations to the policy's device.

        :param observations: An array of shape (n, \\*obs_shape), or such an array per key
        :return: The copies, on the policy's device
        """
        # copies, because rounding in a matrix product can depend on the alignment of its factors, which varies in numpy
        if isinstance(observations, dict):
            return {key: th.tensor(value, device=self.device) for key, value in observations.items()}
        return th.tensor(observations, device=self.device)

    def log_prob(self, parameters: Parameters, observations: Any, actions: th.Tensor) -> th.Tensor:
        """
        Compute log π(a|s; parameters) of each sample.

        :param parameters: The adapted parameters by name
        :param observations: Tensors of shape (n, \\*obs_shape)
        :param actions: The unclipped actions (n, \\*action_shape)
        :return: A tensor of shape (n,)
        """
        return self._call(parameters, "log_prob", observations, actions)

    def values(self, observations: Any) -> th.Tensor:
        """
        Compute the critic's values at its current parameters.

        :param observations: Tensors of shape (n, \\*obs_shape)
        :return: A tensor of shape (n,)
        """
        return self.policy.predict_values(observations).flatten()

    def distributions(self, stacked: Parameters, observations: Any) -> tuple[np.ndarray, ...]:
        """
        Compute the action distributions of many parameter sets, each at its own observations.

        :param stacked: The adapted parameters of all sets, shapes (n_sets, \\*shape)
        :param observations: Tensors of shape (n_sets, n, \\*obs_shape)
        :return: The mean and standard deviation for continuous actions, one array of logits per action dimension otherwise;
            shapes (n_sets, n, ...)
        """
        with th.no_grad(), unchecked_distributions():
            output = self._vectorized(stacked, observations) if self.vectorized else self._one_by_one(stacked, observations)
        return tuple(np.asarray(part.cpu().numpy()) for part in output)

    def _vectorized(self, stacked: Parameters, observations: Any) -> tuple[th.Tensor, ...]:
        assert self.kind is not None
        arrays = self.kind.arrays
        with self._borrowed() as skeleton:
            return th.func.vmap(lambda p, o: self._run(skeleton, p, "arrays", o, arrays), chunk_size=64)(stacked, observations)

    def _one_by_one(self, stacked: Parameters, observations: Any) -> tuple[th.Tensor, ...]:
        assert self.kind is not None
        found = []
        for i in range(len(next(iter(stacked.values())))):
            parameters, own = {name: value[i] for name, value in stacked.items()}, by_key(itemgetter(i), observations)
            found.append(self._call(parameters, "arrays", own, self.kind.arrays))
        return tuple(th.stack(part) for part in zip(*found, strict=True))

    def draw_noise(self, n: int, generator: np.random.Generator) -> np.ndarray:
        """
        Draw the noise of actions: the noise of a known kind of distribution, else a seed for each action.

        :param n: The number of actions
        :param generator: The source of randomness
        :return: An array of shape (n, n_dimensions)
        """
        if self.kind is None:
            return generator.integers(2**63, size=(n, 1))
        return draw_noise(self.policy.action_space, n, generator)

    def sample(self, parameters: Parameters, observation: Any, seed: int) -> np.ndarray:
        """
        Draw an action by the distribution's own ``sample``, for distributions of no known kind.

        :param parameters: The adapted parameters by name
        :param observation: Tensors of shape (1, \\*obs_shape)
        :param seed: The seed of torch's generator; the caller restores the generator
        :return: An array of shape (\\*action_shape,)
        :raises ValueError: When the distribution cannot be drawn from
        """
        th.manual_seed(seed)
        with th.no_grad():
            action = self._call(parameters, "sample", observation)
        return action.cpu().numpy().reshape(self.policy.action_space.shape)


def _places(policy: nn.Module) -> dict[str, list[str]]:
    """List the places of each parameter, by its de-duplicated name. Tied weights have several places."""
    names = {id(parameter): name for name, parameter in policy.named_parameters()}
    found: dict[str, list[str]] = {name: [] for name in names.values()}
    for prefix, module in policy.named_modules():
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            found[names[id(parameter)]].append(f"{prefix}.{key}" if prefix else key)
    return found


def stack_parameters(parameter_sets: list[Parameters]) -> Parameters:
    """
    Stack parameter sets along a new first axis.

    :param parameter_sets: The parameters by name, one dictionary per set
    :return: The stacked parameters by name, shapes (n_sets, \\*shape)
    """
    return {name: th.stack([parameters[name] for parameters in parameter_sets]) for name in parameter_sets[0]}

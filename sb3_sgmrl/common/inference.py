"""Acting with many parameter sets at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

from sb3_sgmrl.common.batch import Observations
from sb3_sgmrl.common.functional import FunctionalPolicy, Parameters, stack_parameters

Forward = Callable[[Parameters, Observations], tuple[np.ndarray, ...]]


class ParallelPolicies:
    """
    Action distributions of many parameter sets, each asked for some of its own rows.

    Every parameter set is always evaluated on ``n_rows`` rows: rounding in a matrix product depends on its shape, and so the
    result of a row does not depend on which other rows are asked for, hence not on the number of workers.

    :param policy: the policy as a function
    :param parameter_sets: one set per task, or a single one that all tasks share
    :param n_tasks: number of tasks
    :param n_rows: rows per task
    """

    def __init__(self, policy: FunctionalPolicy, parameter_sets: list[Parameters], n_tasks: int, n_rows: int) -> None:
        self.forward: Forward = _mlp_forward(policy.policy) or _general_forward(policy)
        self.stacked = stack_parameters(parameter_sets)
        self.shared = len(parameter_sets) == 1
        self.n_tasks = n_tasks
        self.n_rows = n_rows

    def distributions(self, tasks: np.ndarray, rows: np.ndarray, observations: Observations) -> tuple[np.ndarray, ...]:
        """
        :param tasks: task of each observation, shape (n,)
        :param rows: row of each observation within its task, shape (n,)
        :param observations: shape (n, \\*obs_shape), or such an array per key
        :return: see :meth:`FunctionalPolicy.distributions`; shapes (n, ...)
        """
        involved, position = np.unique(tasks, return_inverse=True)

        def spread(x: np.ndarray) -> np.ndarray:
            grid = np.zeros((len(involved), self.n_rows, *x.shape[1:]), dtype=x.dtype)
            grid[position, rows] = x
            return grid

        if isinstance(observations, dict):
            grid: Observations = {key: spread(value) for key, value in observations.items()}
        else:
            grid = spread(observations)
        parameters = self.stacked
        if self.shared:
            parameters = {name: value.expand(len(involved), *value.shape[1:]) for name, value in parameters.items()}
        elif len(involved) < self.n_tasks:
            parameters = {name: value[involved] for name, value in parameters.items()}
        return tuple(part[position, rows] for part in self.forward(parameters, grid))


def _general_forward(policy: FunctionalPolicy) -> Forward:
    return lambda parameters, observations: policy.distributions(parameters, policy.to_tensor(observations))


def _mlp_forward(policy: ActorCriticPolicy) -> Forward | None:
    """
    Batched matrix products, for an MLP policy of any depth and activation on vectors or categories.

    :param policy: the policy whose architecture is looked at
    :return: None when it has another architecture
    """
    space, action_space = policy.observation_space, policy.action_space
    plain = (
        type(policy).get_distribution is ActorCriticPolicy.get_distribution
        and type(policy)._get_action_dist_from_latent is ActorCriticPolicy._get_action_dist_from_latent
        and type(policy.pi_features_extractor) is FlattenExtractor
        and type(policy.mlp_extractor) is MlpExtractor
        and isinstance(space, (spaces.Box, spaces.Discrete))
        and not is_image_space(space)
        and isinstance(action_space, (spaces.Box, spaces.Discrete))
        and not policy.squash_output
        and policy.device.type == "cpu"
    )
    if not plain or not isinstance(policy.action_net, nn.Linear):
        return None
    layers: list[str | nn.Module] = []
    for i, module in enumerate(policy.mlp_extractor.policy_net):
        if any(True for _ in module.children()) or (
            not isinstance(module, nn.Linear) and any(True for _ in module.parameters())
        ):
            return None
        layers.append(f"mlp_extractor.policy_net.{i}" if isinstance(module, nn.Linear) else module)
    layers.append("action_net")
    dtype = policy.action_net.weight.dtype

    @th.no_grad()
    def forward(parameters: Parameters, observations: Observations) -> tuple[np.ndarray, ...]:
        assert isinstance(observations, np.ndarray)
        if isinstance(space, spaces.Discrete):
            x = th.eye(int(space.n), dtype=dtype)[th.from_numpy(observations - int(space.start))]
        else:
            x = th.from_numpy(observations.reshape(*observations.shape[:2], -1)).to(dtype)
        for layer in layers:
            if isinstance(layer, str):
                bias, weight = parameters[f"{layer}.bias"], parameters[f"{layer}.weight"]
                x = th.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
            else:
                x = layer(x)
        mean_or_logits = x.numpy()
        if isinstance(action_space, spaces.Box):
            std = parameters["log_std"].exp().unsqueeze(1).expand(x.shape)
            return mean_or_logits, std.numpy()
        return (mean_or_logits,)

    return forward

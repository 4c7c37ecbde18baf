"""The state of a model at the boundary between two meta-iterations, from which training resumes exactly."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr

# the statistics that VecNormalize learns
_STATISTICS = ("obs_rms", "ret_rms", "returns")


@dataclass(frozen=True)
class Boundary:
    """
    A copy of everything that a meta-iteration changes of a model.

    :param attributes: Counters, windows of statistics and memories, by name
    :param state_dicts: The states of the policy and of the optimisers, by name
    :param statistics: The statistics of the workers' VecNormalize, by name; empty without a VecNormalize
    """

    attributes: dict[str, Any]
    state_dicts: dict[str, dict[str, Any]]
    statistics: dict[str, Any]

    @classmethod
    def of(cls, model: BaseAlgorithm, names: tuple[str, ...]) -> Boundary:
        """
        Copy the present state of a model.

        :param model: The model
        :param names: The attributes that a meta-iteration changes
        :return: The copied state
        """
        attributes = {name: deepcopy(getattr(model, name)) for name in names if hasattr(model, name)}
        parts, _ = model._get_torch_save_params()
        state_dicts = {part: deepcopy(recursive_getattr(model, part).state_dict()) for part in parts}
        normalizer = model.get_vec_normalize_env()
        learned = () if normalizer is None else _STATISTICS
        statistics = {name: deepcopy(getattr(normalizer, name)) for name in learned if hasattr(normalizer, name)}
        return cls(attributes, state_dicts, statistics)

    def restore(self, model: BaseAlgorithm) -> None:
        """
        Restore a model to this state. A policy whose network has changed since keeps its current parameters.

        :param model: The model from which the state was copied
        """
        same_network = _shapes(model.policy.state_dict()) == _shapes(self.state_dicts["policy"])
        for name, value in self.attributes.items():
            setattr(model, name, deepcopy(value))
        for part, state in self.state_dicts.items():
            if part.startswith("policy") and not same_network:
                continue
            recursive_getattr(model, part).load_state_dict(deepcopy(state))
        normalizer = model.get_vec_normalize_env()
        for name, value in self.statistics.items():
            setattr(normalizer, name, deepcopy(value))


def _shapes(state: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, "shape", None) for name, value in state.items()}

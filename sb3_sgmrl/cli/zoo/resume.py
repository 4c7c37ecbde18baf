"""Resume a model: find its algorithm, and return its settings as hyperparameters of RL Zoo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.utils import ConstantSchedule

from sb3_sgmrl.algorithms import algorithm_of
from sb3_sgmrl.common.arguments import argument_names
from sb3_sgmrl.common.files.schedules import LinearToZero
from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
from sb3_sgmrl.common.saving import read_file, saved_algorithm


def check_algorithm(path: str, algo: str) -> None:
    """
    Check that the chosen algorithm saved the model.

    :param path: The file of a model
    :param algo: The name of the algorithm in RL Zoo
    :raises ValueError: When another algorithm saved the model, or the file is not a model
    """
    saved = algorithm_of(saved_algorithm(path))
    if saved.name != algo:
        raise ValueError(f"`--algo` must be {saved.name} for `-i {path}`, a model of {saved.cls.__name__}, got {algo}.")


def saved_hyperparameters(path: str, algorithm: type[MetaOnPolicyAlgorithm], trusted: bool = False) -> dict[str, Any]:
    """
    Return the settings of a model as hyperparameters of RL Zoo.

    :param path: The file of a model
    :param algorithm: The algorithm that saved the model
    :param trusted: Whether to also read pickles from before 0.1
    :return: The settings that a file of hyperparameters can express
    """
    data = read_file(path, trusted).settings
    policies = {policy: alias for alias, policy in algorithm.policy_aliases.items()}
    settings = {name: data[name] for name in sorted(argument_names(algorithm, "learning", "log")) if name in data}
    settings["policy"] = policies.get(data["policy_class"], data["policy_class"].__name__)
    as_written = {name: _as_written(settings.pop(name)) for name in ("learning_rate", "clip_range") if name in settings}
    return {**settings, **{name: value for name, value in as_written.items() if not callable(value)}}


def _as_written(schedule: Any) -> Any:
    """Return a schedule as RL Zoo's files have it; other functions stay as they are."""
    if isinstance(schedule, ConstantSchedule):
        return schedule.val
    return f"lin_{schedule.initial_value}" if isinstance(schedule, LinearToZero) else schedule


def check_changes(given: Mapping[str, Any]) -> None:
    """
    Check that given hyperparameters can change in a resumed model.

    :param given: The hyperparameters of the command line
    :raises ValueError: When a hyperparameter cannot change
    """
    for name in ("policy", "policy_kwargs"):
        if name in given:
            raise ValueError(f"`-params` must not contain {name} with `-i`, got {given[name]!r}: the model keeps its network.")

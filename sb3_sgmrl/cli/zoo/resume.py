"""Resume a model: find its algorithm, and return its settings as hyperparameters of RL Zoo."""

from __future__ import annotations

import inspect
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.utils import ConstantSchedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sgmrl.algorithms import algorithm_of
from sb3_sgmrl.cli.zoo.checks import evaluated
from sb3_sgmrl.common.arguments import argument_names
from sb3_sgmrl.common.files.schedules import LinearToZero
from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
from sb3_sgmrl.common.saving import is_legacy_file, read_file, saved_algorithm
from sb3_sgmrl.util.arrays import read_arrays
from sb3_sgmrl.util.files import replace_when_complete


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


def check_normalization(given: Any, path: str, trusted: bool = False) -> None:
    """
    Check that the hyperparameter ``normalize`` does not contradict a model, which keeps its own normalisation.

    ``gamma`` may differ: RL Zoo replaces it by that of the algorithm.

    :param given: The hyperparameter, from the file of hyperparameters or from the command line
    :param path: The file of the model
    :param trusted: Whether to also read pickles from before 0.1
    :raises ValueError: When the model was trained with another normalisation
    """
    if is_legacy_file(path):  # its statistics are in a file of their own
        return
    value = evaluated(given) if isinstance(given, str) else given
    normalizes = value is True or isinstance(value, dict)
    statistics = read_file(path, trusted).statistics
    if statistics is None:
        if normalizes:
            raise ValueError(f"`normalize` must be False with `-i {path}`, a model without VecNormalize, got {given!r}.")
        return
    defaults = {name: argument.default for name, argument in inspect.signature(VecNormalize).parameters.items()}
    wanted = {**defaults, **(value if isinstance(value, dict) else {})}
    names = ["norm_obs", "norm_reward", "clip_obs", "clip_reward", "epsilon"]
    names += ["norm_obs_keys"] if wanted["norm_obs_keys"] is not None else []  # None selects all keys
    saved = {name: statistics["settings"][name] for name in names}
    if not normalizes or any(wanted[name] != setting for name, setting in saved.items()):
        own = ", ".join(f"{name}={setting!r}" for name, setting in saved.items() if setting != defaults[name])
        raise ValueError(
            f"`normalize` must be {f'dict({own})' if own else 'True'} with `-i {path}`, as the model was trained, "
            f"got {given!r}."
        )


def bring_evaluations(path: str, folder: str, trusted: bool = False) -> None:
    """
    Copy the evaluations of a stopped run, and its best model, to the folder in which the run resumes.

    Evaluations after the steps of the model are left out, because the resumed run repeats them.

    :param path: The file of the model that resumes, in the folder of the run that stopped
    :param folder: The folder of the resumed run
    :param trusted: Whether to also read pickles from before 0.1
    :raises ValueError: When the file of evaluations is damaged
    """
    evaluations, best = (pathlib.Path(path).with_name(name) for name in ("evaluations.npz", "best_model.zip"))
    n_steps = read_file(path, trusted).settings["num_timesteps"]
    if n_steps == 0 or not evaluations.is_file():
        return
    try:
        timesteps, results, tasks = read_arrays(evaluations, ("timesteps", "results", "tasks"))
        kept = timesteps <= n_steps
        rows = {"timesteps": timesteps[kept], "results": results[kept], "tasks": tasks}
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"`--resume` cannot read {evaluations}, which is damaged: move it away to resume without it."
        ) from error
    with replace_when_complete(os.path.join(folder, evaluations.name)) as file:
        np.savez(file, **rows)
    if best.is_file() and read_file(best, trusted).settings["num_timesteps"] <= n_steps:
        shutil.copyfile(best, os.path.join(folder, best.name))

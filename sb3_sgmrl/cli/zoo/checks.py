"""Checks of hyperparameter files and RL Zoo's options."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml
from rl_zoo3 import exp_manager
from rl_zoo3.utils import get_class_by_name
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sgmrl.cli.zoo.hyperparameter_file import read_as_written
from sb3_sgmrl.cli.zoo.run_folder import ZOO_HYPERPARAMETERS
from sb3_sgmrl.common.arguments import argument_names, check_arguments
from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
from sb3_sgmrl.util.validation import check_mapping, check_names, check_positive, shown


def evaluated(text: str) -> Any:
    """
    Evaluate Python text of a hyperparameter file as RL Zoo does.

    :param text: The Python text
    :return: The value
    :raises ValueError: When it is not Python
    """
    try:
        return eval(text, dict(vars(exp_manager)))
    except Exception as error:  # text may raise anything
        raise ValueError(f"Hyperparameters must be numbers or Python, got {shown(text)}: {error}.") from error


@contextmanager
def reading(config: str) -> Iterator[None]:
    """
    Check a hyperparameter file and convert errors of reading it, in a ``with`` statement.

    :param config: The file or module of the option ``--conf-file``
    :raises ValueError: When it is neither a file nor a module, or has another format
    """
    if not _is_there(config):
        raise ValueError(f"`--conf-file` must be an existing .yml, .yaml or .py file, or a module, got {config}.")
    try:
        with read_as_written():
            yield
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"`--conf-file` must be valid YAML with each name once, got {config}: {text}.") from error
    except (AttributeError, KeyError, TypeError) as error:  # RL Zoo's errors for files of another format
        raise ValueError(f"`--conf-file` must have an entry with name: value lines per environment, got {config}.") from error


def _is_there(config: str) -> bool:
    if config.endswith((".yml", ".yaml", ".py")):
        return os.path.isfile(config)
    try:
        return bool(importlib.import_module(config))
    except TypeError:  # a path that begins with a dot
        return False
    except ModuleNotFoundError as error:
        if not config.startswith(str(error.name)):  # the module exists, but not a module that it imports
            raise
        return False


def check_n_timesteps(n_timesteps: Any, config: str) -> None:
    """
    Check the number of steps.

    :param n_timesteps: The number of steps in a hyperparameter file
    :param config: The file
    :raises ValueError: When it is not a positive number
    """
    if not isinstance(n_timesteps, (int, float)) or n_timesteps < 1:
        raise ValueError(f"`n_timesteps` (here or as `-n`) must be a positive number, got {n_timesteps!r} in {config}.")


def check_counts(settings: Mapping[str, Any]) -> None:
    """
    Check the numbers of tasks, steps, episodes and workers.

    :param settings: The hyperparameters, including all arguments of the algorithm
    :raises ValueError: When a number is not positive
    """
    check_positive(**{name: settings[name] for name in ("meta_batch_size", "n_inner_steps", "n_episodes")})
    optional = {name: settings[name] for name in ("n_outer_episodes", "n_envs") if settings[name] is not None}
    check_positive(**optional)


def check_folder(option: str, path: str) -> None:
    """
    Check that a folder can be written to, and make it.

    :param option: The option that names the folder, for errors
    :param path: The folder
    :raises ValueError: When the folder cannot be made
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise ValueError(f"`{option}` must be a writable folder, got {path}: {error}.") from error


def check_classes(name: str, value: Any) -> None:
    """
    Check the names of classes.

    :param name: The name of the hyperparameter
    :param value: The names of classes, alone or in a list; a name may be the key of its arguments
    :raises ValueError: When a class cannot be imported
    """
    for item in value if isinstance(value, list) else [value]:
        path = next(iter(item)) if isinstance(item, dict) and item else item
        if not isinstance(path, str):
            continue
        try:
            get_class_by_name(path)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"`{name}` must name a class that can be imported, as MODULE.CLASS, got {path!r}: {error}."
            ) from error


def hyperparameter_names(algorithm: type[MetaOnPolicyAlgorithm]) -> set[str]:
    """
    List the arguments of an algorithm that a hyperparameter file may set.

    :param algorithm: The algorithm
    :return: The names of the arguments
    """
    return argument_names(algorithm, "learning", "playing", "log") | {"policy"}


def check_hyperparameters(algorithm: type[MetaOnPolicyAlgorithm], hyperparams: dict[str, Any]) -> None:
    """
    Check the names of hyperparameters, and the learning rate.

    :param algorithm: The algorithm
    :param hyperparams: The entry of a hyperparameter file, with the hyperparameters of the command line
    :raises ValueError: When a name is unknown, or the learning rate is invalid
    """
    check_names(
        hyperparams, ZOO_HYPERPARAMETERS | hyperparameter_names(algorithm), f"is not a hyperparameter of {algorithm.__name__}"
    )
    nested = {"normalize": VecNormalize, "policy_kwargs": algorithm.policy_aliases.get(hyperparams.get("policy", ""))}
    for name, of in nested.items():
        value = hyperparams.get(name)
        value = evaluated(value) if isinstance(value, str) else value
        if of is not None and isinstance(value, dict):
            check_names(value, set(inspect.signature(of).parameters), f"of `{name}` is not an argument of {of.__name__}")
        if value is not None and not isinstance(value, (dict, bool) if name == "normalize" else dict):
            raise ValueError(
                f"`{name}` must be a dictionary{' or True or False' * (name == 'normalize')}, got {shown(value)}."
            )
    for name in ("env_kwargs", "monitor_kwargs"):
        if hyperparams.get(name) is not None:
            check_mapping(name, hyperparams[name])
    if hyperparams.get("frame_stack") is not None:
        check_positive(frame_stack=hyperparams["frame_stack"])
    if not isinstance(hyperparams.get("policy", ""), str):
        raise ValueError(f"`policy` must be the name of a policy, got {shown(hyperparams['policy'])}.")
    # RL Zoo reads schedules and policy_kwargs from text
    of_zoo = [name for name in ("learning_rate", "clip_range", "policy_kwargs") if isinstance(hyperparams.get(name), str)]
    numbers = {name: value for name, value in hyperparams.items() if name not in of_zoo}
    check_arguments(algorithm.arguments, numbers)
    for name in ("learning_rate", "clip_range"):
        rate = hyperparams.get(name, 1.0)
        if isinstance(rate, str) and not re.fullmatch(r"lin_([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", rate):
            raise ValueError(f"`{name}` must be a number, or 'lin_' and a number for a linear decay to 0, got {shown(rate)}.")

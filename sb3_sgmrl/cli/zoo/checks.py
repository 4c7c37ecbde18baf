"""What a person may have written wrongly in a file of hyperparameters or an option of RL Zoo."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch as th
import yaml
from rl_zoo3 import exp_manager
from rl_zoo3.utils import get_class_by_name
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sgmrl.common.arguments import argument_names
from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
from sb3_sgmrl.util.validation import check_names, check_positive

# what RL Zoo reads from the hyperparameters itself
_ZOO_HYPERPARAMETERS = {
    *("n_timesteps", "n_envs", "normalize", "frame_stack", "env_wrapper", "vec_env_wrapper", "env_kwargs", "monitor_kwargs"),
    "callback",
}


def evaluated(text: str) -> Any:
    """
    :param text: Python in a file of hyperparameters
    :return: its value, as RL Zoo reads it
    """
    return eval(text, dict(vars(exp_manager)))


def check_device(device: th.device | str) -> None:
    """
    :param device: of the option ``--device``
    :raises ValueError: when PyTorch has none of that name
    """
    try:
        get_device(device)
    except RuntimeError as error:
        raise ValueError(f"--device {device} is not a device of PyTorch, such as cpu or cuda.") from error


@contextmanager
def reading(config: str) -> Iterator[None]:
    """
    While a file of hyperparameters is read, in a ``with`` statement.

    :param config: of the option ``--conf-file``
    :raises ValueError: when it is neither a file nor a module, or holds something else
    """
    if not _is_there(config):
        raise ValueError(f"--conf-file must be a file that ends in .yml, .yaml or .py, or a module, and exist, got {config}.")
    try:
        yield
    except yaml.YAMLError as error:
        raise ValueError(f"{config} is not valid YAML: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:  # what RL Zoo finds in a file of another kind
        raise ValueError(f"{config} must have an entry of name: value lines for each environment.") from error


def _is_there(config: str) -> bool:
    if config.endswith((".yml", ".yaml", ".py")):
        return os.path.isfile(config)
    try:
        return bool(importlib.import_module(config))
    except TypeError:  # a path that begins with a dot
        return False
    except ModuleNotFoundError as error:
        if not config.startswith(str(error.name)):  # the module is there, but not what it imports
            raise
        return False


def check_n_timesteps(n_timesteps: Any, config: str) -> None:
    """
    :param n_timesteps: in a file of hyperparameters
    :param config: the file
    :raises ValueError: when it is no positive number
    """
    if not isinstance(n_timesteps, (int, float)) or n_timesteps < 1:
        raise ValueError(f"n_timesteps, here or by -n, must be a positive number, got {n_timesteps!r} in {config}.")


def check_counts(settings: Mapping[str, Any]) -> None:
    """
    :param settings: hyperparameters, those of the algorithm all
    :raises ValueError: for a number of tasks, steps, episodes or workers that is not positive
    """
    check_positive(**{name: settings[name] for name in ("meta_batch_size", "n_inner_steps", "n_episodes")})
    optional = {name: settings[name] for name in ("n_outer_episodes", "n_envs") if settings[name] is not None}
    check_positive(**optional)


def check_folder(option: str, path: str) -> None:
    """
    :param option: of the command
    :param path: a folder to write to
    :raises ValueError: when it cannot be one
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{option} must be a folder that can be written to, got {path}: {error}.") from error


def check_classes(name: str, value: Any) -> None:
    """
    :param name: of the hyperparameter
    :param value: names of classes, alone or in a list, as they are or as the key of their arguments
    :raises ValueError: for the first that cannot be imported
    """
    for item in value if isinstance(value, list) else [value]:
        path = next(iter(item)) if isinstance(item, dict) and item else item
        if not isinstance(path, str):
            continue
        try:
            get_class_by_name(path)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"{name} must name a class that can be imported, MODULE.CLASS, got {path!r}: {error}.") from error


def hyperparameter_names(algorithm: type[MetaOnPolicyAlgorithm]) -> set[str]:
    """
    :param algorithm: the algorithm
    :return: names of its arguments that a file of hyperparameters may have
    """
    return argument_names(algorithm, "learning", "playing", "log") | {"policy"}


def check_hyperparameters(algorithm: type[MetaOnPolicyAlgorithm], hyperparams: dict[str, Any]) -> None:
    """
    :param algorithm: the algorithm
    :param hyperparams: an entry of a file of hyperparameters, with those of the command line
    :raises ValueError: for the first name in it that is not known, or a schedule that is not
    """
    check_names(
        hyperparams, _ZOO_HYPERPARAMETERS | hyperparameter_names(algorithm), f"is not a hyperparameter of {algorithm.__name__}"
    )
    nested = {"normalize": VecNormalize, "policy_kwargs": algorithm.policy_aliases.get(hyperparams.get("policy", ""))}
    for name, of in nested.items():
        value = hyperparams.get(name)
        value = evaluated(value) if isinstance(value, str) else value
        if of is not None and isinstance(value, dict):
            check_names(value, set(inspect.signature(of).parameters), f"of {name} is not an argument of {of.__name__}")
    rate = hyperparams.get("learning_rate", 1.0)
    if isinstance(rate, str) and not re.fullmatch(r"lin_[0-9.]+(e-?[0-9]+)?", rate):
        raise ValueError(f"learning_rate must be a number, or 'lin_' and a number for a linear decay to 0, got {rate!r}.")

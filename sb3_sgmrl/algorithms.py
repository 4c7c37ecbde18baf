"""The registry of algorithms, which RL Zoo, the commands, the plots and the searches read, and the trained agents of each."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import torch as th

from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
from sb3_sgmrl.emaml import EMAML
from sb3_sgmrl.maml import MAML
from sb3_sgmrl.promp import ProMP
from sb3_sgmrl.reptile import Reptile
from sb3_sgmrl.sgmrl import SGMRL
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv
from sb3_sgmrl.trpomaml import TRPOMAML
from sb3_sgmrl.util.validation import check_path, shown

_HYPERPARAMETERS = pathlib.Path(__file__).parent / "hyperparams"
#: RL Zoo's layout: ALGO/ENV_1/ENV.zip. Source distributions have the folder, wheels do not
TRAINED_AGENTS = pathlib.Path(__file__).parent.parent / "trained_agents"


@dataclass(frozen=True)
class Algorithm:
    """
    An algorithm and where its settings and its documentation are.

    :param name: The name in commands, such as ``sgmrl``
    :param cls: The class
    :param search: The ranges of arguments that a search for hyperparameters has in place of the usual ones, on a logarithmic
        scale; None leaves the argument out
    """

    name: str
    cls: type[MetaOnPolicyAlgorithm]
    search: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)

    @property
    def hyperparameters(self) -> pathlib.Path:
        """File of RL Zoo's hyperparameters."""
        return _HYPERPARAMETERS / f"{self.name}.yml"

    @property
    def page(self) -> str:
        """Page of the documentation, below ``docs/``."""
        return f"modules/{self.name}.md"


_ALL = (
    Algorithm("sgmrl", SGMRL),
    Algorithm("maml", MAML),
    Algorithm("emaml", EMAML),
    Algorithm("promp", ProMP),
    Algorithm("trpomaml", TRPOMAML, {"target_kl": (1e-3, 0.1), "learning_rate": None, "score_gae_lambda": None}),
    Algorithm("reptile", Reptile, {"learning_rate": (1e-2, 1.0)}),
)
ALGORITHMS: dict[str, Algorithm] = {algorithm.name: algorithm for algorithm in _ALL}


def algorithm_of(cls_name: str) -> Algorithm:
    """
    :param cls_name: The name of a class, as a saved model has it
    :return: The algorithm
    :raises ValueError: When no algorithm has this class
    """
    for algorithm in ALGORITHMS.values():
        if algorithm.cls.__name__ == cls_name:
            return algorithm
    known = ", ".join(algorithm.cls.__name__ for algorithm in ALGORITHMS.values())
    raise ValueError(f"{cls_name!r} is no algorithm of this package; there are {known}.")


def load_trained(
    env: str, algo: str = "sgmrl", folder: str | pathlib.Path = TRAINED_AGENTS, device: th.device | str = "auto"
) -> MetaOnPolicyAlgorithm:
    """
    Load a trained agent.

    :param env: The id of the task family, such as ``HalfCheetahDir-v0``
    :param algo: The name of the algorithm, as in the commands
    :param folder: The folder of trained agents
    :param device: The PyTorch device
    :return: The model, with the environment that its card measured it in. A run folder without a card has none:
        :meth:`~sb3_sgmrl.common.base_class.MetaModel.set_env` gives one
    :raises ValueError: When the folder has no agent of this family and algorithm, or its card is damaged
    """
    if not isinstance(env, str):
        raise ValueError(f"`env` must be the id of a task family, such as 'HalfCheetahDir-v0', got {env!r}.")
    if not isinstance(algo, str) or algo not in ALGORITHMS:
        raise ValueError(f"`algo` must be one of {', '.join(ALGORITHMS)}, got {algo!r}.")
    check_path("folder", folder)
    file = pathlib.Path(folder) / algo / f"{env}_1" / f"{env}.zip"
    if not file.is_file():
        raise ValueError(why_missing(env, algo, folder))
    return ALGORITHMS[algo].cls.load(file, env=_measured_env(env, file.parent / "results.json"), device=device)


def _measured_env(env: str, results: pathlib.Path) -> TaskDistEnv | None:
    """Make the environment that a card measured an agent in; None without a card."""
    arguments = _measured_with(results)
    if arguments is None:
        return None
    try:
        return TaskDistEnv(gym.make(env, **arguments))
    except TypeError as error:  # Gymnasium's, for a name that the family does not know
        raise ValueError(f"`env_kwargs` in {results} must be arguments of {env}, got {shown(arguments)} ({error}).") from error


def _measured_with(results: pathlib.Path) -> dict[str, Any] | None:
    """Read the arguments of the environment that a card measured an agent in; None without a card."""
    if not results.exists():
        return None
    try:
        found = json.loads(results.read_text(encoding="utf-8"))
        arguments = found.get("env_kwargs")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{results} must be written by python -m sb3_sgmrl.card, but cannot be read ({error}).") from error
    # text could name a module, which Gymnasium would import
    if arguments is not None and (not isinstance(arguments, dict) or '"' in json.dumps(list(arguments.values()))):
        raise ValueError(f"`env_kwargs` in {results} must be a dictionary of numbers, got {shown(arguments)}.")
    return arguments


def trained_agents(folder: str | pathlib.Path = TRAINED_AGENTS) -> list[tuple[str, str]]:
    """
    List the trained agents.

    :param folder: The folder of trained agents
    :return: The algorithm and the id of the task family of each agent, sorted
    """
    check_path("folder", folder)
    files = pathlib.Path(folder).glob("*/*_1/*.zip")
    return sorted((file.parts[-3], file.stem) for file in files if file.parent.name == f"{file.stem}_1")


def why_missing(env: str, algo: str, folder: str | pathlib.Path, prefix: str = "") -> str:
    """
    Say why a folder has no model of a family and an algorithm.

    :param env: The id of the task family
    :param algo: The name of the algorithm
    :param folder: The folder
    :param prefix: The text before the names of arguments, such as that of options
    :return: One sentence
    """
    found = trained_agents(folder)
    if not found:
        return (
            f"`{prefix}folder` {folder} has no trained agents: train one by python -m sb3_sgmrl.train, or take the folder "
            "trained_agents from the source of this package, because the wheel does not have it."
        )
    of_env = [name for name, trained_on in found if trained_on == env]
    if of_env:
        return f"`{prefix}algo` {algo!r} has no agent trained on {env} in {folder}: use {' or '.join(of_env)}."
    family = re.sub(r"-v\d+$", "", env)
    of_family = [f"{trained_on} ({name})" for name, trained_on in found if re.sub(r"-v\d+$", "", trained_on) == family]
    if of_family and env == family:
        return f"`{prefix}env` {env} must be an id with its version, as the trained agents have it: {', '.join(of_family)}."
    if of_family:
        return f"`{prefix}env` {env} is another version of its family than the trained agents have: {', '.join(of_family)}."
    known = ", ".join(sorted({trained_on for _, trained_on in found}))
    return f"`{prefix}env` {env} has no trained agent in {folder}: there are {known}."

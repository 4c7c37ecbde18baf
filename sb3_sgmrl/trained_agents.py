"""Trained agents that come with the source of this package, to start from."""

from __future__ import annotations

import pathlib
import re

import torch as th

from sb3_sgmrl.algorithms import ALGORITHMS
from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm

#: RL Zoo's layout: ALGO/ENV_1/ENV.zip. Source distributions have the folder, wheels do not
FOLDER = pathlib.Path(__file__).parent.parent / "trained_agents"


def load_trained(
    env: str, algo: str = "sgmrl", folder: str | pathlib.Path = FOLDER, device: th.device | str = "auto"
) -> MetaOnPolicyAlgorithm:
    """
    Load a trained agent.

    :param env: The id of the task family, such as ``HalfCheetahDir-v0``
    :param algo: The name of the algorithm, as in the commands
    :param folder: The folder of trained agents
    :param device: The PyTorch device
    :return: The model, without an environment; :meth:`~sb3_sgmrl.common.base_class.MetaModel.set_env` gives it one
    :raises ValueError: When the folder has no agent of this family and algorithm
    """
    if algo not in ALGORITHMS:
        raise ValueError(f"`algo` must be one of {', '.join(ALGORITHMS)}, got {algo!r}.")
    file = pathlib.Path(folder) / algo / f"{env}_1" / f"{env}.zip"
    if not file.is_file():
        raise ValueError(_why_missing(env, algo, pathlib.Path(folder)))
    return ALGORITHMS[algo].cls.load(file, device=device)


def trained_agents(folder: str | pathlib.Path = FOLDER) -> list[tuple[str, str]]:
    """
    List the trained agents.

    :param folder: The folder of trained agents
    :return: The algorithm and the id of the task family of each agent, sorted
    """
    files = pathlib.Path(folder).glob("*/*_1/*.zip")
    return sorted((file.parts[-3], file.stem) for file in files if file.parent.name == f"{file.stem}_1")


def _why_missing(env: str, algo: str, folder: pathlib.Path) -> str:
    found = trained_agents(folder)
    if not found:
        return (
            f"`folder` {folder} has no trained agents: they come with the source of this package, not with the wheel; see the "
            "folder trained_agents of its repository."
        )
    of_env = [name for name, trained_on in found if trained_on == env]
    if of_env:
        return f"`algo` {algo!r} has no agent trained on {env}: use {' or '.join(of_env)}."
    family = re.sub(r"-v\d+$", "", env)
    of_family = [f"{trained_on} ({name})" for name, trained_on in found if re.sub(r"-v\d+$", "", trained_on) == family]
    if of_family:
        return f"`env` {env} is another version of its family than the trained agents have: {', '.join(of_family)}."
    return f"`env` {env} has no trained agent: there are {', '.join(sorted({trained_on for _, trained_on in found}))}."

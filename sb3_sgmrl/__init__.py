"""Gradient-based meta-reinforcement learning for Stable-Baselines3."""

import importlib
import os
from typing import TYPE_CHECKING, Any

from sb3_sgmrl.algorithms import load_trained
from sb3_sgmrl.common.callbacks import MetaEvalCallback
from sb3_sgmrl.common.evaluation import AdaptationReport, evaluate_adaptation
from sb3_sgmrl.common.export import to_sb3
from sb3_sgmrl.common.files.classes import register
from sb3_sgmrl.data.batch import PhaseBatch
from sb3_sgmrl.deployment import (
    EpisodeRecorder,
    export_onnx,
    export_torchscript,
    guarded_adapt,
    load_episodes,
    save_episodes,
)
from sb3_sgmrl.emaml import EMAML
from sb3_sgmrl.envs import register_envs
from sb3_sgmrl.maml import MAML
from sb3_sgmrl.promp import ProMP
from sb3_sgmrl.reptile import Reptile
from sb3_sgmrl.sgmrl import SGMRL
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv
from sb3_sgmrl.trpomaml import TRPOMAML
from sb3_sgmrl.vec_env.from_vector_env import from_vector_env
from sb3_sgmrl.vec_env.task_checker import check_tasks

if TYPE_CHECKING:
    from sb3_sgmrl.envs.mujoco_check import check_family
    from sb3_sgmrl.envs.mujoco_family import MujocoFamily

with open(os.path.join(os.path.dirname(__file__), "version.txt")) as file:
    __version__ = file.read().strip()

register_envs()

__all__ = [
    "EMAML",
    "MAML",
    "SGMRL",
    "TRPOMAML",
    "AdaptationReport",
    "EpisodeRecorder",
    "MetaEvalCallback",
    "MujocoFamily",
    "PhaseBatch",
    "ProMP",
    "Reptile",
    "TaskDistEnv",
    "__version__",
    "check_family",
    "check_tasks",
    "evaluate_adaptation",
    "export_onnx",
    "export_torchscript",
    "from_vector_env",
    "guarded_adapt",
    "load_episodes",
    "load_trained",
    "register",
    "save_episodes",
    "to_sb3",
]

# MuJoCo takes a second to import, and not everyone needs it.
_OF_MUJOCO = {"MujocoFamily": "sb3_sgmrl.envs.mujoco_family", "check_family": "sb3_sgmrl.envs.mujoco_check"}


def __getattr__(name: str) -> Any:
    if name not in _OF_MUJOCO:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_OF_MUJOCO[name]), name)

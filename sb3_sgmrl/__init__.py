"""Gradient-based meta-reinforcement learning for Stable-Baselines3."""

import os

from sb3_sgmrl.common.callbacks import MetaEvalCallback
from sb3_sgmrl.common.evaluation import AdaptationReport, evaluate_adaptation
from sb3_sgmrl.common.export import to_sb3
from sb3_sgmrl.emaml import EMAML
from sb3_sgmrl.envs import register_envs
from sb3_sgmrl.maml import MAML
from sb3_sgmrl.sgmrl import SGMRL
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv
from sb3_sgmrl.vec_env.from_vector_env import from_vector_env
from sb3_sgmrl.vec_env.task_checker import check_tasks

with open(os.path.join(os.path.dirname(__file__), "version.txt")) as file:
    __version__ = file.read().strip()

register_envs()

__all__ = [
    "EMAML",
    "MAML",
    "SGMRL",
    "AdaptationReport",
    "MetaEvalCallback",
    "TaskDistEnv",
    "__version__",
    "check_tasks",
    "evaluate_adaptation",
    "from_vector_env",
    "to_sb3",
]

"""Baselines to compare meta-learners with: multi-task training, an oracle, RL², and policies that learn nothing."""

from sb3_sgmrl.baselines.base import Baseline
from sb3_sgmrl.baselines.fine_tuning import FromScratch, MultiTaskPPO, MultiTaskTRPO, OraclePPO
from sb3_sgmrl.baselines.fixed import RandomActions, StandingStill
from sb3_sgmrl.baselines.rl2 import RL2
from sb3_sgmrl.baselines.task_observation import TaskInObservation
from sb3_sgmrl.baselines.trials import TrialVecEnv

__all__ = [
    "RL2",
    "Baseline",
    "FromScratch",
    "MultiTaskPPO",
    "MultiTaskTRPO",
    "OraclePPO",
    "RandomActions",
    "StandingStill",
    "TaskInObservation",
    "TrialVecEnv",
]

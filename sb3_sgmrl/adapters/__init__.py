"""Task distributions of third-party benchmarks. Each function imports its package when you call it."""

from sb3_sgmrl.adapters.carl import carl_contexts
from sb3_sgmrl.adapters.metaworld import metaworld_benchmark
from sb3_sgmrl.adapters.minigrid import minigrid_layouts
from sb3_sgmrl.adapters.robotics import robotics_goals
from sb3_sgmrl.common.success import evaluate_success

__all__ = ["carl_contexts", "evaluate_success", "metaworld_benchmark", "minigrid_layouts", "robotics_goals"]

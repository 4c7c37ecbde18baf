"""
Plots of adaptation, training and meta-gradients.

Every ``plot_*`` function returns a matplotlib figure; write it to a file with ``savefig``. You do not need a display.
"""

from sb3_sgmrl.plots.adaptation import plot_adaptation
from sb3_sgmrl.plots.gradient_quality import plot_gradient_quality, plot_quality_sweep
from sb3_sgmrl.plots.gradient_terms import plot_gradient_terms
from sb3_sgmrl.plots.learning_curves import plot_learning_curves
from sb3_sgmrl.plots.runs import LearningCurve, Progress, read_progress
from sb3_sgmrl.plots.scores import (
    aggregate_scores,
    improvement_probabilities,
    plot_performance_profiles,
    plot_probability_of_improvement,
)
from sb3_sgmrl.plots.tasks import named_parameters, plot_task_returns, task_parameters
from sb3_sgmrl.plots.trajectories import Trajectories, is_navigation, navigation_trajectories, plot_trajectories

__all__ = [
    "LearningCurve",
    "Progress",
    "Trajectories",
    "aggregate_scores",
    "improvement_probabilities",
    "is_navigation",
    "named_parameters",
    "navigation_trajectories",
    "plot_adaptation",
    "plot_gradient_quality",
    "plot_gradient_terms",
    "plot_learning_curves",
    "plot_performance_profiles",
    "plot_probability_of_improvement",
    "plot_quality_sweep",
    "plot_task_returns",
    "plot_trajectories",
    "read_progress",
    "task_parameters",
]

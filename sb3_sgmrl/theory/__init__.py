"""Exact quantities on small tabular MDPs, and measures of the quality of meta-gradient estimators."""

from sb3_sgmrl.theory.attained import attained
from sb3_sgmrl.theory.callback import GradientQualityCallback
from sb3_sgmrl.theory.constants import ConvergenceConstants, PolicyBounds, softmax_bounds
from sb3_sgmrl.theory.directional import DirectionalChange, directional_change
from sb3_sgmrl.theory.enumeration import (
    exact_gradient,
    exact_return,
    exact_value,
    expectation,
    expected_gradient,
    relative_error,
    trajectory_probabilities,
)
from sb3_sgmrl.theory.gradient_quality import GradientQuality, compare_gradients, quality_table
from sb3_sgmrl.theory.gradient_sample import GradientSample, make_estimators, sample_gradients
from sb3_sgmrl.theory.statistics import Estimate
from sb3_sgmrl.theory.tabular import TabularMDP, softmax_policy
from sb3_sgmrl.theory.tabular_reference import TabularReference
from sb3_sgmrl.theory.tabular_tasks import TabularTasks

__all__ = [
    "ConvergenceConstants",
    "DirectionalChange",
    "Estimate",
    "GradientQuality",
    "GradientQualityCallback",
    "GradientSample",
    "PolicyBounds",
    "TabularMDP",
    "TabularReference",
    "TabularTasks",
    "attained",
    "compare_gradients",
    "directional_change",
    "exact_gradient",
    "exact_return",
    "exact_value",
    "expectation",
    "expected_gradient",
    "make_estimators",
    "quality_table",
    "relative_error",
    "sample_gradients",
    "softmax_bounds",
    "softmax_policy",
    "trajectory_probabilities",
]

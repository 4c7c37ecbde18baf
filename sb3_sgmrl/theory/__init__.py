"""Exact quantities on small tabular MDPs, to check the estimators against."""

from sb3_sgmrl.theory.enumeration import (
    exact_gradient,
    exact_return,
    exact_value,
    expectation,
    expected_gradient,
    relative_error,
    trajectory_probabilities,
)
from sb3_sgmrl.theory.tabular import TabularMDP, softmax_policy

__all__ = [
    "TabularMDP",
    "exact_gradient",
    "exact_return",
    "exact_value",
    "expectation",
    "expected_gradient",
    "relative_error",
    "softmax_policy",
    "trajectory_probabilities",
]

"""Names of the score terms: the values of ``control_variate``, and the object behind each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from sb3_sgmrl.score_terms.base import ScoreTerm
from sb3_sgmrl.score_terms.control_variates import (
    ControlVariate,
    OuterScale,
    TaskRegression,
    VariateScaling,
    leave_one_out_return,
    leave_one_task_out,
    none,
)
from sb3_sgmrl.score_terms.refitted import Linearized, Refitted, RefittedCausal
from sb3_sgmrl.score_terms.returns import Counterfactual, Returns, TaskRegressionTerm

ControlVariateName = Literal[
    "refitted_causal",
    "refitted",
    "linearized",
    "none",
    "leave_one_task_out",
    "leave_one_out_return",
    "task_regression",
    "counterfactual",
]


@dataclass
class ScoreMemory:
    """
    State that score terms keep from earlier iterations. It is saved with the model.

    :param task_regression: The regression of ``task_regression``
    :param scaling: The regression of ``control_variate_scaling``
    :param outer_scale: The scale of all exact forms
    """

    task_regression: TaskRegression = field(default_factory=TaskRegression)
    scaling: VariateScaling = field(default_factory=VariateScaling)
    outer_scale: OuterScale = field(default_factory=OuterScale)


@dataclass(frozen=True)
class ScoreOptions:
    """
    Options that a score term is built from.

    :param gae_lambda: The κ of ``refitted_causal``
    :param memory: The state from earlier iterations
    :param scaled: Whether control variates of returns are scaled
    """

    gae_lambda: float
    memory: ScoreMemory
    scaled: bool

    @property
    def scaling(self) -> VariateScaling | None:
        """Return the regression that scales control variates; None where they are not scaled."""
        return self.memory.scaling if self.scaled else None


def _returns(variate: ControlVariate) -> Callable[[ScoreOptions], ScoreTerm]:
    return lambda options: Returns(variate, options.memory.outer_scale, options.scaling)


SCORE_TERMS: dict[str, Callable[[ScoreOptions], ScoreTerm]] = {
    "refitted_causal": lambda options: RefittedCausal(options.gae_lambda),
    "refitted": lambda options: Refitted(),
    "linearized": lambda options: Linearized(),
    "none": _returns(none),
    "leave_one_task_out": _returns(leave_one_task_out),
    "leave_one_out_return": _returns(leave_one_out_return),
    "task_regression": lambda options: TaskRegressionTerm(
        options.memory.task_regression, options.memory.outer_scale, options.scaling
    ),
    "counterfactual": lambda options: Counterfactual(options.memory.outer_scale, options.scaling),
}

"""The interface of a score term: what multiplies ∇log π of the samples of an inner batch in formula (B)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch as th

from sb3_sgmrl.gradient.inner import INNER_SURROGATES
from sb3_sgmrl.gradient.meta_gradient import MetaGradient
from sb3_sgmrl.gradient.objective import InnerStep, MetaObjective, MetaRollout
from sb3_sgmrl.policies.functional import FunctionalPolicy


@dataclass(frozen=True)
class TermContext:
    """
    What a score term may use of the model.

    :param policy: The policy as a function
    :param objective: The gradient that is estimated
    :param executor: Threads over tasks; None computes them one after another
    """

    policy: FunctionalPolicy
    objective: MetaObjective
    executor: ThreadPoolExecutor | None = None


class ScoreTerm(ABC):
    """
    The score term of an algorithm. One object serves all iterations.

    In each iteration :meth:`prepare` is called with all tasks, then :meth:`coefficients` of what it returned for every inner
    step of every task, and :meth:`observe` of the same object after the gradient was followed. A term that looks at single
    inner steps only overrides :meth:`coefficients` and nothing else.
    """

    # whether ``rollout.task_features`` are read
    needs_task_features = False

    def check(self, settings: Any) -> None:
        """
        Check that the term goes with an algorithm's arguments; called at construction and before training.

        :param settings: The algorithm, with its constructor arguments as attributes
        :raises ValueError: For an argument that does not go with the term
        """
        check_counted_once(settings.inner_surrogate)

    def prepare(self, rollout: MetaRollout, context: TermContext) -> ScoreTerm:
        """
        Compute what the coefficients need of all tasks together.

        :param rollout: The data of the iteration
        :param context: The policy and the objective
        :return: The term of this iteration; the term itself where it needs nothing of other tasks
        """
        return self

    @abstractmethod
    def coefficients(self, step: InnerStep) -> th.Tensor:
        """
        Coefficients of the scores ∇log π of an inner step.

        :param step: The inner step of one task
        :return: c of each sample in the units of the outer surrogate, shape (n_samples,)
        """

    def observe(self, rollout: MetaRollout, estimate: MetaGradient) -> dict[str, float]:
        """
        Learn from the iteration what later ones use; called after its gradient was followed.

        :param rollout: The data of the iteration
        :param estimate: The gradient that was followed
        :return: Numbers for the log, by name; they are recorded under ``train/``
        """
        return {}


def check_counted_once(inner_surrogate: str) -> None:
    """
    :param inner_surrogate: The inner surrogate of an algorithm with a score term
    :raises ValueError: When it counts what the score term counts
    """
    if INNER_SURROGATES[inner_surrogate].counts_sampling:
        raise ValueError(
            f"`inner_surrogate={inner_surrogate!r}` already holds the derivative of the sampling distribution, which "
            "the score term of formula (A) would count a second time: use `inner_surrogate='pathwise'`, or no score term "
            "(`score_coef=0`, or MAML)."
        )


def check_leaves_one_out(settings: Any) -> None:
    """
    :param settings: The algorithm, with its constructor arguments as attributes
    :raises ValueError: When there is no second episode, so that none can be left out
    """
    if settings.n_episodes < 2:
        raise ValueError(
            f"`n_episodes` must be at least 2 with `control_variate={settings.control_variate!r}`, which leaves one "
            "episode out."
        )

"""Interface of a score term: the factors of ∇log π of the samples of an inner batch in formula (B)."""

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
    The parts of the model that a score term may use.

    :param policy: The policy as a function
    :param objective: The gradient that is estimated
    :param executor: The threads over tasks; None computes the tasks one after another
    """

    policy: FunctionalPolicy
    objective: MetaObjective
    executor: ThreadPoolExecutor | None = None


class ScoreTerm(ABC):
    """
    Base class of the score term of an algorithm. One object serves all iterations.

    Each iteration makes four kinds of calls:

    1. :meth:`prepare`, with all tasks, returns the term of the iteration.
    2. :meth:`weigh` of the returned term may change the weights of the outer episodes.
    3. :meth:`coefficients` of the returned term, for every inner step of every task.
    4. :meth:`observe` of the returned term, after the gradient was followed.

    A term that looks at single inner steps only overrides :meth:`coefficients` and nothing else.
    """

    # whether the term reads ``rollout.task_features``
    needs_task_features = False

    def check(self, settings: Any) -> None:
        """
        Check that the term goes with the arguments of an algorithm. Called at construction and before training.

        :param settings: The algorithm, with its constructor arguments as attributes
        :raises ValueError: When an argument does not go with the term
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

    def weigh(self, rollout: MetaRollout) -> MetaRollout:
        """
        Choose the weights of the outer episodes that the gradient is computed from.

        A term changes them when its coefficients are not in the units of the tasks' own outer surrogates.

        :param rollout: The data of the iteration
        :return: The data as they are, or with other weights of the outer episodes
        """
        return rollout

    @abstractmethod
    def coefficients(self, step: InnerStep) -> th.Tensor:
        """
        Compute the coefficients of the scores ∇log π of an inner step.

        :param step: The inner step of one task
        :return: The c of each sample in the units of the outer surrogate, shape (n_samples,)
        """

    def observe(self, rollout: MetaRollout, estimate: MetaGradient) -> dict[str, float]:
        """
        Learn from the iteration for later iterations. Called after the gradient of the iteration was followed.

        :param rollout: The data of the iteration
        :param estimate: The gradient that was followed
        :return: The numbers for the log, by name; they are recorded under ``train/``
        """
        return {}


def check_counted_once(inner_surrogate: str) -> None:
    """
    Check that only the score term counts the derivative of the sampling distribution.

    :param inner_surrogate: The inner surrogate of an algorithm with a score term
    :raises ValueError: When the inner surrogate already counts this derivative
    """
    if INNER_SURROGATES[inner_surrogate].counts_sampling:
        raise ValueError(
            f"`inner_surrogate={inner_surrogate!r}` already holds the derivative of the sampling distribution, which "
            "the score term of formula (A) would count a second time: use `inner_surrogate='pathwise'`, or no score term "
            "(`score_coef=0`, or MAML)."
        )


def check_leaves_one_out(settings: Any) -> None:
    """
    Check that each task has enough episodes to leave one out.

    :param settings: The algorithm, with its constructor arguments as attributes
    :raises ValueError: When there is no second episode
    """
    if settings.n_episodes < 2:
        raise ValueError(
            f"`n_episodes` must be at least 2 with `control_variate={settings.control_variate!r}`, which leaves one "
            "episode out."
        )

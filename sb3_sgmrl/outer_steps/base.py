"""The outer step: how the meta-parameters move after a meta-iteration was played."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_sgmrl.gradient.meta_gradient import MetaGradient, meta_gradient
from sb3_sgmrl.gradient.objective import MetaObjective, MetaRollout
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.score_terms.base import ScoreTerm


@dataclass(frozen=True)
class OuterProblem:
    """
    The inputs of an outer step.

    :param policy: The policy with its optimiser; its parameters θ have played the iteration
    :param functional: The policy as a function
    :param objective: The gradient that is estimated
    :param rollout: The data of the iteration
    :param score_term: The score term, prepared for this iteration; None leaves it out
    :param max_grad_norm: The norm at which the meta-gradient is clipped; None does not clip
    :param executor: The threads over tasks; None computes the tasks one after another
    :param record: A function that takes the name and the value of a number for the log
    """

    policy: ActorCriticPolicy
    functional: FunctionalPolicy
    objective: MetaObjective
    rollout: MetaRollout
    score_term: ScoreTerm | None = None
    max_grad_norm: float | None = None
    executor: ThreadPoolExecutor | None = None
    record: Callable[[str, float], None] = lambda name, value: None

    def gradient(self, score_term: ScoreTerm | None = None) -> MetaGradient:
        """
        Estimate the meta-gradient at the parameters that have played the iteration.

        :param score_term: A term that replaces the problem's own; None uses the problem's own
        :return: The estimate of ∇V at the parameters that have played the iteration, formula (B)
        """
        score_term = self.score_term if score_term is None else score_term
        coefficients = None if score_term is None else score_term.coefficients
        return meta_gradient(
            self.functional, self.objective, coefficients, self.rollout.traces, self.executor, self.rollout.ranks
        )


class OuterStep(ABC):
    """The outer gradient and the update that follows it. An algorithm has one as its attribute ``outer_step``."""

    def estimate(self, problem: OuterProblem) -> MetaGradient:
        """
        Estimate the direction along which the parameters move first.

        :param problem: The inputs of the outer step
        :return: The estimate of ∇V at the parameters that have played
        """
        return problem.gradient()

    @abstractmethod
    def update(self, problem: OuterProblem) -> MetaGradient:
        """
        Move the parameters of ``problem.policy``.

        :param problem: The inputs of the outer step
        :return: The estimate of ∇V at the parameters that have played, for the log, learned step sizes and the score term
        :raises ValueError: When the meta-gradient is not finite; the parameters are unchanged then
        """


class OptimizerStep(OuterStep):
    """One step of the policy's optimiser along the estimate of ∇V."""

    def update(self, problem: OuterProblem) -> MetaGradient:
        estimate = problem.gradient()
        check_finite(estimate)
        ascend(problem.policy, estimate.gradient, problem.max_grad_norm)
        return estimate


def check_finite(estimate: MetaGradient) -> None:
    """
    Check that the meta-gradient is finite.

    :param estimate: The meta-gradient
    :raises ValueError: When the meta-gradient is not finite
    """
    if not all(th.isfinite(value).all() for value in (*estimate.gradient.values(), *estimate.relative_lr.values())):
        raise ValueError("The meta-gradient is NaN or infinite; a smaller `inner_lr` or `learning_rate` may help.")


def put(policy: ActorCriticPolicy, parameters: Parameters) -> None:
    """
    Assign new values to the parameters of a policy.

    Parameters that were frozen since they played stay as they are.

    :param policy: The policy
    :param parameters: The values by name
    """
    named = dict(policy.named_parameters())
    with th.no_grad():
        for name, value in parameters.items():
            if named[name].requires_grad:
                named[name].copy_(value)


def ascend(policy: ActorCriticPolicy, gradient: Parameters, max_grad_norm: float | None = None) -> None:
    """
    Take one step of the policy's optimiser.

    Parameters that were frozen since they played stay as they are.

    :param policy: The policy with its optimiser
    :param gradient: The direction of ascent, by name of the parameter
    :param max_grad_norm: The norm at which the gradient is clipped; None does not clip
    """
    named = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad and name in gradient}
    policy.optimizer.zero_grad()
    for name in gradient:
        if name in named:
            named[name].grad = -gradient[name]  # the optimiser descends
    if max_grad_norm is not None:
        th.nn.utils.clip_grad_norm_([named[name] for name in gradient if name in named], max_grad_norm)
    policy.optimizer.step()

"""A step towards the adapted parameters, without a gradient (Reptile)."""

from __future__ import annotations

import torch as th

from sb3_sgmrl.gradient.meta_gradient import MetaGradient
from sb3_sgmrl.outer_steps.base import OuterProblem, OuterStep, check_finite, put


class Interpolation(OuterStep):
    """
    The step θ ← θ + ε mean(ψ − θ) over tasks (Nichol, Achiam, Schulman 2018).

    ψ are the parameters after the last inner step. ε is the learning rate of the policy's optimiser, which is not used
    otherwise.
    """

    def estimate(self, problem: OuterProblem) -> MetaGradient:
        rollout = problem.rollout
        theta, n_tasks = problem.functional.parameters(), len(rollout.traces)
        adapted = (rollout.traces[i][-1].parameters for i in rollout.own)
        steps = list(rollout.ranks.to_sum({name: psi[name] - theta[name] for name in theta} for psi in adapted))
        displacement = {name: th.stack([step[name] for step in steps]).sum(0) / n_tasks for name in theta}
        return MetaGradient(displacement, None, [], problem.objective)

    def update(self, problem: OuterProblem) -> MetaGradient:
        estimate = self.estimate(problem)
        check_finite(estimate)
        theta, fraction = problem.functional.parameters(), problem.policy.optimizer.param_groups[0]["lr"]
        put(problem.policy, {name: value + fraction * estimate.gradient[name] for name, value in theta.items()})
        return estimate

"""Several epochs of a clipped outer surrogate on the episodes of one meta-iteration."""

from __future__ import annotations

from dataclasses import dataclass

import torch as th

from sb3_sgmrl.gradient.meta_gradient import MetaGradient
from sb3_sgmrl.outer_steps.base import OuterProblem, OuterStep, ascend
from sb3_sgmrl.outer_steps.kl_penalty import InnerKlPenalty
from sb3_sgmrl.outer_steps.local_surrogate import LOGGED, LocalSurrogate


@dataclass(frozen=True)
class ClippedEpochs(OuterStep):
    """
    Several steps of the policy's optimiser on the episodes of one meta-iteration.

    The steps follow the gradient of the local surrogate of :mod:`~sb3_sgmrl.gradient.local_gradient`. The first epoch follows
    the estimate of ∇V itself, to the bit.

    :param n_epochs: The number of epochs; each is one step on all tasks
    :param clip_range: The clip range ε: how far the likelihood ratio of a sample may move from 1 before it stops counting
    :param target_kl: The target KL divergence. The epochs end where the estimated KL divergence of the adapted policies
        exceeds 1.5 times this value, as in SB3's PPO; None never ends them early
    :param inner_kl_penalty: The penalty on the KL divergences of the inner steps; None adds none
    """

    n_epochs: int
    clip_range: float
    target_kl: float | None = None
    inner_kl_penalty: InnerKlPenalty | None = None

    def update(self, problem: OuterProblem) -> MetaGradient:
        surrogate = LocalSurrogate(problem)
        penalty, n_inner_steps = self.inner_kl_penalty, len(problem.rollout.traces[0]) - 1
        kl_coefs = None if penalty is None else penalty.weights(n_inner_steps)
        ascend(problem.policy, surrogate.estimate.gradient, problem.max_grad_norm)
        n_epochs = 1
        while n_epochs < self.n_epochs:
            moved = surrogate.gradient(self.clip_range, kl_coefs)
            for name in LOGGED:
                problem.record(name, getattr(moved, name))
            too_far = self.target_kl is not None and moved.approx_kl > 1.5 * self.target_kl
            if too_far or not all(bool(th.isfinite(value).all()) for value in moved.gradient.values()):
                break
            ascend(problem.policy, moved.gradient, problem.max_grad_norm)
            n_epochs += 1
        problem.record("n_epochs", n_epochs)
        if penalty is not None:
            kls = surrogate.value().inner_approx_kls
            problem.record("inner_approx_kl", kls[0])
            problem.record("inner_kl_coef", sum(penalty.coefficient(stage) for stage in range(n_inner_steps)) / n_inner_steps)
            penalty.observe(kls)
        return surrogate.estimate

"""
Products with the Fisher information of adapted policies as functions of θ, through the inner steps.

Consider the KL divergence of the adapted policy from the one that played the outer episodes. Near θ_old it is ½ dᵀ (Mᵀ F M) d.
Here d = θ − θ_old, M = M_ζ … M_1 is the Jacobian of the inner steps, and F is the Fisher information at ψ.

F is sampled: the mean of ∇log π ∇log πᵀ over the outer samples. The mean has no bias because the adapted policy itself played
these samples. It is the second derivative of the divergence that :mod:`~sb3_sgmrl.gradient.local_gradient` estimates from the
same samples.
"""

from __future__ import annotations

from collections.abc import Sequence

from sb3_sgmrl.gradient.inner import jacobian, transposed_jacobian
from sb3_sgmrl.gradient.local_gradient import PlayedPhase
from sb3_sgmrl.gradient.objective import MetaObjective
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.policies.likelihood import log_likelihood


def task_fisher_product(
    policy: FunctionalPolicy, objective: MetaObjective, played: Sequence[PlayedPhase], v: Parameters
) -> Parameters:
    """
    Compute the Fisher information of one task times a vector, at the parameters that played.

    :param policy: The policy as a function
    :param objective: The objective, which gives the inner step; with ``first_order`` its Jacobian is 1
    :param played: The ζ + 1 phases of the task
    :param v: A direction in the space of θ, by name
    :return: The product Mᵀ F M v, by name
    """
    at = [
        log_likelihood(policy, phase.parameters, phase.samples.observations, phase.samples.actions)
        for phase in (played[-1:] if objective.first_order else played)
    ]
    *inner, outer = zip(at, [phase.samples for phase in played[-len(at) :]], strict=True)
    settings = objective.inner_lr, objective.relative_lr, objective.inner_surrogate
    for likelihood, samples in inner:
        v = jacobian(likelihood, samples, v, *settings)
    x = outer[0].directional(v)
    v = outer[0].gradient(x / len(x))
    for likelihood, samples in reversed(inner):
        v, _ = transposed_jacobian(likelihood, samples, v, *settings)
    return v

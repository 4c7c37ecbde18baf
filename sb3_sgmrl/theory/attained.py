"""How tight the bounds of the convergence theory are on tabular tasks."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch as th

from sb3_sgmrl.theory.enumeration import every_trace
from sb3_sgmrl.theory.tabular_tasks import TabularTasks

_STARTS, _ROUNDS = 4, 20  # starting points and rounds of the search for the norm of a third derivative


def attained(problem: TabularTasks, thetas: np.ndarray) -> dict[str, float]:
    """
    Compute the largest value of each quantity that the convergence theory bounds.

    The maximum is over the given policies, all states and actions, and all trajectories. For the estimator it is also over all
    meta-batches of one task with one outer episode. The names are the attributes of
    :class:`~sb3_sgmrl.theory.PolicyBounds` and :class:`~sb3_sgmrl.theory.ConvergenceConstants`. A local search finds the norms
    of third derivatives, so these values may be too low.

    :param problem: The tasks and the inner step; the estimator uses its control variate
    :param thetas: The policies, shape (n_policies, n_parameters)
    :return: The largest value of each quantity, by name
    """
    largest: dict[str, float] = defaultdict(float)
    single = TabularTasks(problem.mdps, problem.objective, 1)  # with one episode per batch, batches are trajectories
    for theta in thetas:
        for name, value in _derivatives(single, th.from_numpy(theta)).items():
            largest[name] = max(largest[name], value)
        largest["smoothness"] = max(largest["smoothness"], _largest_norm(problem.hessian(th.from_numpy(theta))))
        largest["estimator_bound"] = max(largest["estimator_bound"], _largest_estimate(problem, theta))
    return dict(largest)


def _derivatives(single: TabularTasks, theta: th.Tensor) -> dict[str, float]:
    """Compute the norms of the derivatives of log π and ν, and of eq. (8)."""
    by_parameter = th.func.jacrev(single.log_prob)
    scores = by_parameter(theta)
    curvature = th.func.jacrev(by_parameter)(theta)
    slope = th.func.jacrev(th.func.jacrev(by_parameter))(theta)
    found = {"score": float(scores.norm(dim=-1).max()), "curvature": _largest_norm(curvature)}
    found["curvature_slope"] = _largest_slope(slope)
    for name in ("gradient_bound", "hessian_bound", "hessian_slope"):
        found[name] = 0.0
    for task in single.tasks:
        gradients, hessians, slopes = (th.tensordot(task.weights, derivative, 1) for derivative in (scores, curvature, slope))
        of_all, by_all = task.visits @ scores, th.tensordot(task.visits, curvature, 1)  # ∇log q and its derivative
        eq_8 = th.einsum("ki,kj->kij", gradients, of_all) + hessians
        slope_of_eq_8 = th.einsum("kil,kj->kijl", hessians, of_all) + th.einsum("ki,kjl->kijl", gradients, by_all) + slopes
        found["gradient_bound"] = max(found["gradient_bound"], float(gradients.norm(dim=-1).max()))
        found["hessian_bound"] = max(found["hessian_bound"], _largest_norm(eq_8))
        found["hessian_slope"] = max(found["hessian_slope"], _largest_slope(slope_of_eq_8))
    return found


def _largest_norm(matrices: th.Tensor) -> float:
    return float(th.linalg.matrix_norm(matrices, 2).max())


def _largest_slope(tensors: th.Tensor) -> float:
    """
    Compute the maximum over w of the spectral norm of T(·, ·, w), for T of shape (n, d, d, d).

    The search alternates between w and the other two vectors.
    """
    generator = th.Generator().manual_seed(0)
    n, d = tensors.shape[0], tensors.shape[-1]
    best = 0.0
    for _ in range(_STARTS):
        w = th.nn.functional.normalize(th.randn((n, d), generator=generator, dtype=tensors.dtype), dim=-1)
        for _ in range(_ROUNDS):
            u, s, v = th.linalg.svd(th.einsum("nijl,nl->nij", tensors, w))
            w = th.nn.functional.normalize(th.einsum("nijl,ni,nj->nl", tensors, u[:, :, 0], v[:, 0]), dim=-1)
        best = max(best, float(s.max()))
    return best


def _largest_estimate(problem: TabularTasks, theta: np.ndarray) -> float:
    policy, objective = problem.policy, problem.objective
    of_tasks = (
        every_trace(policy, problem.parameters(theta), mdp, objective, [problem.n_episodes, 1]) for mdp in problem.mdps
    )
    gradients = (problem.estimate("sgmrl", [trace]) for of_task in of_tasks for _, trace in of_task)
    return max(float(th.nn.utils.get_total_norm(list(gradient.values()))) for gradient in gradients)

"""
Compute the exact relative error of the expectation of each estimator of ∇V.

The script averages the function that training calls over every batch of a small tabular MDP in float64. It prints relative
errors after a few minutes. Pass ``--horizon 1`` for a faster run.
"""

import argparse
import itertools
from dataclasses import replace

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_sgmrl.gradient.advantages import AdvantageSettings
from sb3_sgmrl.gradient.objective import MetaObjective
from sb3_sgmrl.score_terms import control_variates as cv
from sb3_sgmrl.score_terms.counterfactual import counterfactual_baselines
from sb3_sgmrl.score_terms.leave_one_out import leave_one_out_parameters
from sb3_sgmrl.score_terms.refitted import Refitted, RefittedCausal
from sb3_sgmrl.score_terms.returns import ReturnCoefficients, return_baselines
from sb3_sgmrl.theory import TabularMDP, exact_gradient, exact_value, expected_gradient, relative_error, softmax_policy

N, SPACE, POLICY = 2, spaces.Discrete(2), softmax_policy(2, 2, seed=0)  # N episodes per inner batch
PLAIN = AdvantageSettings(0.9, gae_lambda=1.0, baseline="none", normalize=False, discount_from="episode", time_reduction="sum")
PRACTICAL = AdvantageSettings(0.9, gae_lambda=0.95, baseline="linear", normalize=True)


def score_term(baseline=cv.none):
    return lambda traces: ReturnCoefficients(traces, 0.9, return_baselines(traces, 0.9, baseline))


def with_hessian_of_eq_9(traces):
    """Eq. (9) adds α/N Σ_j ∇ν_j (∇log q_jᵀ v) to the pathwise part. Here it is transposed, which for horizon 1 is the same."""

    def coefficients(step):
        own = step.samples.per_episode(step.samples.weights * step.sensitivity)
        return score_term()(traces)(step) + step.samples.per_sample(own)

    return coefficients


def counterfactual(goal):
    def coefficients(traces):
        otherwise = return_baselines(traces, 0.9, cv.leave_one_out_return)
        found = counterfactual_baselines(POLICY, goal, SPACE, traces, otherwise)
        return ReturnCoefficients(traces, 0.9, found.baselines)

    return coefficients


def true_difference(mdp, goal, zeta):
    """Formula (C) before linearisation: the return after the remaining steps from ψ, minus the return from U(θ, D∖τ_j)."""

    def coefficients(step):
        adapted = [step.adapted, *leave_one_out_parameters(POLICY, step.phase, goal, SPACE)]
        leaves = [{name: p.detach().requires_grad_() for name, p in parameters.items()} for parameters in adapted]
        reached = th.stack([exact_value(POLICY, p, mdp, goal, N, zeta - step.stage - 1).detach() for p in leaves])
        return step.samples.per_sample(reached[0] - reached[1:])

    return lambda traces: coefficients


def estimators(mdp, two, goal, zeta):
    yield "MAML (pathwise, no score term)", mdp, None, goal
    yield "MAML, first order", mdp, None, replace(goal, first_order=True)
    yield "LVC, no score term", mdp, None, replace(goal, inner_surrogate="lvc")
    yield "DiCE, no score term", mdp, None, replace(goal, inner_surrogate="dice")
    yield "first order + score term", mdp, score_term(), replace(goal, first_order=True)
    yield "eq. (13) with the Hessian of eq. (9)", mdp, with_hessian_of_eq_9, goal
    yield "eq. (13) with DiCE's Hessian", mdp, score_term(), replace(goal, inner_surrogate="dice")
    yield "pathwise + score of batch 1 only", mdp, lambda t: lambda step: score_term()(t)(step) * (step.stage == 0), goal
    yield "exact, control variate none", mdp, score_term(), goal
    yield "exact, leave_one_task_out *", two, score_term(cv.leave_one_task_out), goal
    yield "exact, leave_one_out_return", mdp, score_term(cv.leave_one_out_return), goal
    yield "exact, task_regression", mdp, score_term(lambda outer, inner: np.full_like(inner, 0.7)), goal
    yield "exact, counterfactual", mdp, counterfactual(goal), goal
    yield "(C) with the true difference", mdp, true_difference(mdp[0], goal, zeta), goal
    yield "(C) = refitted", mdp, lambda t: Refitted().coefficients, goal
    causal = RefittedCausal(0.95).coefficients
    yield "refitted_causal, SGMRL's default", mdp, lambda t: causal, goal


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--horizon", type=int, default=2, help="number of steps per episode")
parser.add_argument("--seed", type=int, default=0, help="seed of the MDP")
args = parser.parse_args()
if args.horizon < 1 or args.seed < 0:
    parser.error("--horizon must be at least 1 and --seed not negative")
shapes = [(args.horizon, args.seed), (1, args.seed + 1), (1, args.seed + 2)]
mdps = [TabularMDP.random(2, 2, horizon, np.random.default_rng(seed), deterministic=True) for horizon, seed in shapes]
lines = {"inner rule, inner steps": "      plain, 1      plain, 2  practical, 1  practical, 2"}
for rule, zeta in itertools.product((PLAIN, PRACTICAL), (1, 2)):
    goal = MetaObjective(inner=rule, outer=PLAIN, inner_lr=0.4)
    exact = {len(tasks): exact_gradient(POLICY, tasks, goal, N, zeta) for tasks in (mdps[:1], mdps[1:])}
    for name, tasks, score, objective in estimators(mdps[:1], mdps[1:], goal, zeta):
        error = relative_error(expected_gradient(POLICY, tasks, objective, N, zeta, score), exact[len(tasks)])
        lines[name] = lines.get(name, "") + f"{error:14.1e}"
print(*(f"{name:37}{cells}" for name, cells in lines.items()), "* on two tasks with horizon 1", sep="\n")

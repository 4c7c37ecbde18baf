"""
How far is the expectation of each meta-gradient estimator from ∇V? Exactly: by going through every batch of a small tabular MDP,
in float64, with the function that training calls.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_sgmrl.common import control_variates as cv
from sb3_sgmrl.common.advantages import AdvantageSettings
from sb3_sgmrl.common.meta_gradient import MetaObjective, leave_one_out_parameters, refitted_coefficients, return_coefficients
from sb3_sgmrl.theory import TabularMDP, exact_gradient, exact_value, expected_gradient, relative_error, softmax_policy

N, SPACE = 2, spaces.Discrete(2)  # two episodes per inner batch, two states
PAPER = AdvantageSettings(0.9, gae_lambda=1.0, baseline="none", normalize=False, discount_from="episode", time_reduction="sum")
PRACTICAL = AdvantageSettings(0.9, gae_lambda=0.95, baseline="linear", normalize=True)


def returns(baseline, traces):
    return return_coefficients(traces, 0.9, baseline)


def first_step_only(traces):
    """The score of the first inner batch only, as the published program has it."""
    return lambda step: returns(cv.none, traces)(step) * (step.stage == 0)


def double_count(traces):
    """Eq. (13) with the Hessian of eq. (9): to the score term add each episode's α/N ∇νᵀv, which is the transpose of α ∇ν ∇log qᵀ."""

    def coefficients(step):
        own = th.zeros(N, dtype=th.float64).index_add(0, step.samples.episode_index, step.samples.weights * step.sensitivity)
        return returns(cv.none, traces)(step) + own

    return coefficients


def true_difference(policy, mdp, goal, n_steps, traces):
    """Formula (C) before its linearisation: V of the remaining steps at ψ minus that at U(θ, D without τ_j)."""

    def coefficients(step):
        def value(parameters):
            parameters = {name: p.detach().requires_grad_() for name, p in parameters.items()}
            return exact_value(policy, parameters, mdp, goal, N, n_steps - step.stage - 1).detach()

        key = (step.stage, *step.phase.batch.actions.tobytes(), float(step.phase.parameters["action_net.weight"].sum()))
        return th.stack([value(step.adapted) - value(p) for p in leave_one_out_parameters(policy, step, goal, SPACE)])

    return coefficients

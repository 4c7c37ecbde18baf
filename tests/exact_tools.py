"""Tabular problems whose meta-gradients can be enumerated."""

import numpy as np
import pytest
from gymnasium import spaces

from sb3_sgmrl.gradient.advantages import AdvantageSettings
from sb3_sgmrl.gradient.objective import MetaObjective
from sb3_sgmrl.score_terms.control_variates import (
    leave_one_out_return,
)
from sb3_sgmrl.score_terms.counterfactual import counterfactual_baselines
from sb3_sgmrl.score_terms.returns import ReturnCoefficients, return_baselines
from sb3_sgmrl.theory import (
    TabularMDP,
    softmax_policy,
)

GAMMA = 0.9

PAPER = AdvantageSettings(
    gamma=GAMMA, gae_lambda=1.0, baseline="none", normalize=False, discount_from="episode", time_reduction="sum"
)

PRACTICAL = AdvantageSettings(gamma=GAMMA, gae_lambda=0.95, baseline="linear", normalize=True)

RULES = {"paper": PAPER, "practical": PRACTICAL}

SPACE = spaces.Discrete(2)

# a horizon of two gives four trajectories: with two episodes per batch every expectation is a sum of at most 400 terms
MDP = TabularMDP.random(2, 2, 2, np.random.default_rng(0), deterministic=True)


@pytest.fixture(scope="module")
def policy():
    return softmax_policy(2, 2, seed=0)


def objective(rule, **kwargs):
    return MetaObjective(inner=RULES[rule], outer=PAPER, inner_lr=0.4, **kwargs)


def subtracting(variate):
    """The exact form of the score term with a control variate."""
    return lambda traces: ReturnCoefficients(traces, GAMMA, return_baselines(traces, GAMMA, variate))


def counterfactuals(policy, goal, min_effective_sample_size=0.9):
    """The exact form with importance weights, and the list of what they were in each batch."""
    seen = []

    def make(traces):
        otherwise = return_baselines(traces, GAMMA, leave_one_out_return)
        seen.append(counterfactual_baselines(policy, goal, SPACE, traces, otherwise, min_effective_sample_size))
        return ReturnCoefficients(traces, GAMMA, seen[-1].baselines)

    return make, seen

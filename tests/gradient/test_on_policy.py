"""How likely recorded actions are, against closed forms."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from toys import point_vec, tiny

from sb3_sgmrl import SGMRL
from sb3_sgmrl.data.batch import TaskBatch
from sb3_sgmrl.gradient import on_policy
from sb3_sgmrl.gradient.on_policy import likelihood_deviation, share_at_bounds, warn_of_other_policy


def batch_of(actions):
    n = len(actions)
    return TaskBatch(np.zeros((1, n, 3), np.float32), actions[None], np.zeros((1, n)), np.ones((1, n), bool))


def policy_with(bias, action):
    """The same distribution at every observation; Gaussians have a standard deviation of 1."""
    policy = tiny(SGMRL, point_vec(1, action=action)).functional
    parameters = {name: th.zeros_like(value) for name, value in policy.parameters().items()}
    parameters["action_net.bias"] += th.tensor(bias)
    return policy, parameters


def test_deviation_of_a_single_action(monkeypatch):
    """The mean of log π lies one standard deviation below its greatest value, in two dimensions."""
    monkeypatch.setattr(on_policy, "_N_DRAWS", 20_000)
    policy, parameters = policy_with([0.3, -0.2], "box")
    found = likelihood_deviation(policy, parameters, batch_of(np.float32([[0.3, -0.2]])))
    assert found == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("z", [0.0, 2.0, -2.0])
def test_deviation_of_actions_that_are_no_draws(z, monkeypatch):
    """
    In two dimensions log π is −z² and a constant, with mean −1 and variance 1. So n actions deviate by n (1 − z²), in units of
    √(n (1 + 1/k)), as the mean is one over k draws.
    """
    monkeypatch.setattr(on_policy, "_N_DRAWS", 2)
    monkeypatch.setattr(on_policy, "_CHUNK", 512)
    policy, parameters = policy_with([0.3, -0.2], "box")
    actions = np.tile(np.float32([0.3, -0.2]) + np.float32(z), (2000, 1))
    expected = 2000 * (1 - z**2) / np.sqrt(2000 * 1.5)
    assert likelihood_deviation(policy, parameters, batch_of(actions)) == pytest.approx(expected, rel=0.05)


def test_actions_that_are_certain():
    policy, parameters = policy_with([1000.0, 0.0, 0.0, 0.0], "discrete")
    assert likelihood_deviation(policy, parameters, batch_of(np.zeros(5, np.int64))) == 0
    assert likelihood_deviation(policy, parameters, batch_of(np.array([0, 0, 2]))) == -np.inf


def test_the_share_at_bounds_counts_the_entries_of_played_actions():
    actions = np.array([[[-1.0, 1.0], [0.5, 1.0], [0.0, 0.0], [1.0, 1.0]]])
    batch = TaskBatch(np.zeros((1, 4, 3)), actions, np.zeros((1, 4)), np.array([[True, True, True, False]]))
    assert share_at_bounds(batch, spaces.Box(-1, 1, (2,))) == 0.5
    assert share_at_bounds(batch, spaces.MultiDiscrete([2, 2])) == 0


@pytest.mark.parametrize(("z", "direction"), [(0.0, "more"), (3.0, "less")])
def test_the_warning_says_in_which_direction(z, direction):
    policy, parameters = policy_with([0.3, -0.2], "box")
    actions = np.tile(np.float32([0.3, -0.2]) + np.float32(z), (100, 1))
    with pytest.warns(UserWarning, match=f"their actions are {direction} likely than its own, by [0-9]+ standard"):
        warn_of_other_policy(policy, parameters, batch_of(actions))

"""How often the guard's interval covers the true gain on a second toy, whose returns are exact by dynamic programming."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from toys import tiny

from sb3_sgmrl import MAML, TaskDistEnv
from sb3_sgmrl.data.batch import PhaseBatch
from sb3_sgmrl.deployment import guarded_adapt

N_STATES, N_ACTIONS, N_STEPS = 3, 3, 8
_RNG = np.random.default_rng(5)
TRANSITIONS = _RNG.dirichlet(np.full(N_STATES, 0.5), (N_STATES, N_ACTIONS))
REWARDS = _RNG.normal(0, 1, (N_STATES, N_ACTIONS))


class Chain(gym.Env):
    """Has the spaces of the decision process; its episodes are drawn by :func:`played`."""

    observation_space, action_space = spaces.Discrete(N_STATES), spaces.Discrete(N_ACTIONS)
    task_space = spaces.Box(-1, 1, (1,))

    def set_task(self, task):
        self.task = task

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return int(self.np_random.integers(N_STATES)), {}

    def step(self, action):
        return int(self.np_random.integers(N_STATES)), float(self.task[0]), False, False, {}


def probabilities(policy):
    with th.no_grad():
        return policy.get_distribution(th.arange(N_STATES)).distribution.probs.double().numpy()


def expected_return(pi):
    values = np.zeros(N_STATES)
    for _ in range(N_STEPS):
        values = (pi * (REWARDS + TRANSITIONS @ values)).sum(1)
    return values[0]


def drawn(probs, rng):
    return (probs.cumsum(1) < rng.random((len(probs), 1)) * probs.sum(1, keepdims=True)).sum(1)


def played(pi, n, noise, rng):
    """Episodes from the first state; ``noise`` is the standard deviation of the rewards' noise."""
    state, steps = np.zeros(n, int), []
    for _ in range(N_STEPS):
        action = drawn(pi[state], rng)
        steps.append((state, action, REWARDS[state, action] + rng.normal(0, noise, n)))
        state = drawn(TRANSITIONS[state, action], rng)
    parts = [np.stack(part, 1) for part in zip(*steps, strict=True)]
    return PhaseBatch.from_episodes([tuple(part[i] for part in parts) for i in range(n)])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("n", [10, 20])
def test_the_guard_takes_no_bad_step_and_its_interval_covers(n):
    # by is_reliable: whether the interval covers the gain, and whether it lies above the gain
    covered, above = {True: [], False: []}, {True: [], False: []}
    worse, wrongly = 0, 0
    for inner_lr in (0.3, 1.0, 3.0, 10.0, 30.0):
        model = tiny(MAML, TaskDistEnv(Chain(), horizon=N_STEPS), inner_lr=inner_lr)
        th.manual_seed(1)
        with th.no_grad():
            model.policy.action_net.weight.normal_()
        pi = probabilities(model.policy)
        for run in range(60):
            rng = np.random.default_rng([run, n])
            noise = (1, 4)[run % 2]  # the greater one makes some steps bad
            episodes = played(pi, n, noise, rng)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = guarded_adapt(model, episodes, held_out=played(pi, n, noise, rng))
                gain = expected_return(probabilities(model.adapt(episodes=episodes))) - expected_return(pi)
            low, high = found.estimate.interval
            covered[found.estimate.is_reliable].append(low <= gain <= high)
            above[found.estimate.is_reliable].append(gain < low)
            worse += gain < 0
            wrongly += found.accepted and gain < 0
    for is_reliable, values in covered.items():  # the table in the docs
        overrated = f"{sum(above[is_reliable])} of {len(values)} above; {worse} bad, {wrongly} taken"
        print(f"{n} episodes, is_reliable {is_reliable}: {np.mean(values):.2f} covered, {overrated}")
    assert len(covered[True]) > 40
    assert np.mean(covered[True]) > 0.8
    assert sum(above[True] + above[False]) <= 30 and wrongly <= 3  # of 300: a gain is seldom overrated

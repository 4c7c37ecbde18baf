"""The estimate of what an inner step gains, and the decision that follows from it."""

import itertools
import warnings
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from toys import HORIZON, assert_same, tiny

from sb3_sgmrl import MAML, TaskDistEnv
from sb3_sgmrl.data.batch import PhaseBatch
from sb3_sgmrl.deployment import EpisodeRecorder, guarded_adapt
from sb3_sgmrl.deployment.gain import GainEstimate, gains_of_episodes, student_quantile


class ActionEnv(gym.Env):
    """The reward depends on the action alone, so the return of a policy is known."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-100.0, 100.0, (1,), np.float32)
    task_space = spaces.Box(-1.0, 1.0, (1,))
    goal = 1.0

    def sample_tasks(self, n, rng):
        return list(rng.uniform(-1, 1, (n, 1)))

    def set_task(self, task):
        self.goal = float(task[0])

    def get_task(self):
        return np.array([self.goal])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action):
        return np.ones(1, np.float32), -float((action[0] - self.goal) ** 2), False, False, {}


def true_return(policy):
    with th.no_grad():
        distribution = policy.get_distribution(th.ones(1, 1)).distribution
    return -HORIZON * float((distribution.mean - ActionEnv.goal) ** 2 + distribution.stddev**2)


def model_of(inner_lr):
    return tiny(MAML, TaskDistEnv(TimeLimit(ActionEnv(), HORIZON)), inner_lr=inner_lr, policy_kwargs={"log_std_init": -1.0})


def recorded(model, n, seed=0, policy=None):
    return EpisodeRecorder(TimeLimit(ActionEnv(), HORIZON)).play(model, n, policy, seed)


def policy_state(policy):
    return {name: value.detach().numpy().copy() for name, value in policy.state_dict().items()}


def test_the_estimate_is_unbiased():
    """The mean over all pairs of episodes of a decision process with two actions and three steps is the exact gain."""
    old, new = np.array([0.3, 0.7]), np.array([0.6, 0.4])

    def rewards_of(actions):
        return np.array([1.0 + actions[0], 3.0 * actions[1] - actions[0], 5.0 * actions[0] * actions[2]])

    paths = list(itertools.product([0, 1], repeat=3))
    returns = np.array([rewards_of(path).sum() for path in paths])
    of_old, of_new = (np.array([np.prod(pi[list(path)]) for path in paths]) for pi in (old, new))
    expected = 0.0
    for (i, one), (j, other) in itertools.product(enumerate(paths), repeat=2):
        rewards = np.stack([rewards_of(one), rewards_of(other)])
        log_ratios = np.log(new / old)[np.array([one, other])]
        expected += of_old[i] * of_old[j] * gains_of_episodes(rewards, log_ratios).mean()
    assert expected == pytest.approx((of_new - of_old) @ returns, abs=1e-12)
    # what every episode earns at a step says nothing of the policies
    shifted = gains_of_episodes(rewards + np.array([5.0, -2.0, 30.0]), log_ratios)
    np.testing.assert_allclose(shifted, gains_of_episodes(rewards, log_ratios), atol=1e-12)


def test_quantiles_are_those_of_student():
    stats = pytest.importorskip("scipy.stats")
    for degrees in (4, 5, 9, 30, 200):
        for probability in (0.9, 0.95, 0.975, 0.99, 0.995):
            assert student_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=3e-3)


def test_the_interval_is_that_of_student_or_wider_on_the_skewed_side():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for values, skewed in ((np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), 0), (rng.exponential(size=20), 1)):
        for sign in (1, -1):
            found = GainEstimate(sign * values, np.zeros(len(values))).interval
            usual = stats.t.interval(0.95, len(values) - 1, sign * values.mean(), stats.sem(values))
            assert found[0] <= usual[0] + 1e-3 and found[1] >= usual[1] - 1e-3
            long, short = (1, 0) if sign > 0 else (0, 1)
            assert (abs(found[long] - usual[long]) > 0.05) == bool(skewed)
            assert found[short] == pytest.approx(usual[short], abs=2e-2)
    assert GainEstimate(np.ones(5), np.zeros(5)).interval == (1.0, 1.0)


def test_a_good_step_is_taken_and_a_bad_one_is_not():
    model = model_of(0.01)
    episodes, held_out = recorded(model, 40), recorded(model, 40, seed=1)
    for further in ({}, {"held_out": held_out}):
        good = guarded_adapt(model, episodes, **further)
        assert good.accepted and good.estimate.interval[0] > 0 and good.is_held_out == bool(further)
        assert_same(policy_state(good.policy), policy_state(model.adapt(episodes=episodes)))
        low, high = good.estimate.interval
        assert low < true_return(good.policy) - true_return(model.policy) < high
        assert "The adapted policy is taken." in str(good) and "40 " + ("held-out" if further else "the same") in str(good)
    reversed_rewards = replace(held_out, rewards=-held_out.rewards)
    bad = guarded_adapt(model, episodes, held_out=reversed_rewards)
    assert not bad.accepted and bad.estimate.interval[1] < 0
    assert_same(policy_state(bad.policy), policy_state(model.policy))
    assert guarded_adapt(model, episodes, held_out=reversed_rewards, tolerance=100.0).accepted
    assert "it may be worse" in str(bad)


def test_the_last_of_several_steps_is_judged():
    model = model_of(0.01)
    first = recorded(model, 20)
    once = model.adapt(episodes=first)
    second, held_out = (recorded(model, 20, seed, once) for seed in (1, 2))
    found = guarded_adapt(model, [first, second], held_out)
    wanted = model.adapt(episodes=[first, second]) if found.accepted else once
    assert_same(policy_state(found.policy), policy_state(wanted))
    gain = guarded_adapt(model, [first, second], replace(held_out, rewards=-held_out.rewards))
    assert not gain.accepted
    assert_same(policy_state(gain.policy), policy_state(once))
    # by hand
    log_prob = []
    for policy in (once, model.adapt(episodes=[first, second])):
        with th.no_grad():
            actions = th.as_tensor(held_out.actions[0].reshape(-1, 1))
            log_prob.append(policy.get_distribution(th.ones(len(actions), 1)).log_prob(actions).numpy().astype(float))
    ratios = (log_prob[1] - log_prob[0]).reshape(20, HORIZON)
    np.testing.assert_allclose(found.estimate.gains, gains_of_episodes(held_out.rewards[0], ratios), rtol=1e-5)


def test_folds_do_not_see_the_episodes_that_judge_them():
    model = model_of(0.01)
    batch = recorded(model, 6)
    found = guarded_adapt(model, batch, n_folds=3).estimate
    part = np.array([0, 3])

    def some(index):
        return PhaseBatch.from_episodes([(batch.observations[0, i], batch.actions[0, i], batch.rewards[0, i]) for i in index])

    other = model.adapt(episodes=some([1, 2, 4, 5]))
    actions = th.as_tensor(batch.actions[0, part].reshape(-1, 1))
    with th.no_grad():
        after, before = (
            p.get_distribution(th.ones(len(actions), 1)).log_prob(actions).numpy().reshape(2, -1)
            for p in (other, model.policy)
        )
    np.testing.assert_allclose(found.log_weights[part], (after - before).sum(1), rtol=1e-4, atol=1e-5)


def test_how_many_episodes_a_gain_needs():
    gains = np.random.default_rng(0).normal(0, 3, 100)
    estimate = GainEstimate(gains, np.zeros(100))
    n = estimate.episodes_needed(0.5)
    assert n == pytest.approx((1.96 * gains.std(ddof=1) / 0.5) ** 2, abs=1)
    assert estimate.episodes_needed(1.0) == pytest.approx(n / 4, abs=1)
    assert estimate.episodes_needed(1e9) == 5
    for wrong in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match="`gain` must be a positive number"):
            estimate.episodes_needed(wrong)


def test_bad_arguments():
    model = model_of(0.01)
    batch = recorded(model, 6)
    few = recorded(model, 4)
    for arguments, complaint in (
        ({"episodes": few}, "`episodes` must hold at least 5 episodes to judge a step, got 4"),
        ({"episodes": batch, "held_out": few}, "`held_out` must hold at least 5 episodes"),
        ({"episodes": batch, "n_folds": 7}, "`n_folds` must lie between 2 and the number of episodes, 6, got 7"),
        ({"episodes": batch, "n_folds": 1}, "`n_folds` must lie between 2"),
        ({"episodes": batch, "n_folds": 2.5}, "`n_folds` must be a positive integer"),
        ({"episodes": batch, "level": 95}, "`level` must lie between 0 and 1, got 95"),
        ({"episodes": batch, "tolerance": -1}, "`tolerance` must be a number of at least 0"),
        ({"episodes": batch, "held_out": 5}, "`episodes` must be a PhaseBatch of one task"),
        ({"episodes": []}, "`episodes` must be a PhaseBatch of one task"),
        ({"episodes": 5}, "`episodes` must be a PhaseBatch of one task"),
    ):
        with pytest.raises(ValueError, match=complaint):
            guarded_adapt(model, **arguments)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("n", [10, 20])
@pytest.mark.parametrize("is_held_out", [True, False])
def test_the_interval_covers_the_true_gain_and_bad_steps_are_seldom_taken(n, is_held_out):
    """The share of intervals with the true gain, with steps of which some are good and some are bad."""
    n_runs, covered, worse, wrongly = 200, 0, 0, 0
    reliable = 0
    model = model_of(0.005)
    for run in range(n_runs):
        episodes = recorded(model, n, seed=3 * run)
        # few and unrelated rewards make some steps bad
        noise = np.random.default_rng(run).normal(0, 3, episodes.rewards.shape)
        noisy = replace(episodes, rewards=episodes.rewards + noise)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = guarded_adapt(model, noisy, recorded(model, n, seed=3 * run + 1) if is_held_out else None, n_folds=2)
            if is_held_out:
                after = [model.adapt(episodes=noisy)]
            else:
                parts = noisy.observations[0], noisy.actions[0], noisy.rewards[0]
                other_folds = [[tuple(x[i] for x in parts) for i in range(n) if i % 2 != fold] for fold in range(2)]
                after = [model.adapt(episodes=PhaseBatch.from_episodes(others)) for others in other_folds]
        gain = np.mean([true_return(policy) for policy in after]) - true_return(model.policy)
        low, high = found.estimate.interval
        covered += low <= gain <= high
        reliable += found.estimate.is_reliable
        worse += gain < 0
        wrongly += gain < 0 and found.accepted
    print(n, is_held_out, reliable, covered / n_runs, worse, wrongly)
    assert reliable > 0.9 * n_runs
    assert covered / n_runs > 0.88  # the docs say: a little less than 0.95
    assert worse > 20
    assert wrongly <= 0.05 * n_runs

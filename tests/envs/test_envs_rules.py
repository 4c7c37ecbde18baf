"""Navigation, bandits and tabular MDPs: rewards and moves by hand."""

import gymnasium as gym
import numpy as np
import pytest

from sb3_sgmrl.envs.bandit import BernoulliBanditVectorEnv
from sb3_sgmrl.envs.navigation import Navigation2DEnv, Navigation2DVectorEnv
from sb3_sgmrl.envs.tabular_mdp import TabularMDP, TabularMDPEnv, TabularMDPVectorEnv


def test_navigation_moves_and_rewards():
    env = Navigation2DEnv()
    env.set_task([0.3, -0.4])
    env.reset()
    observation, reward, terminated, *_ = env.step(np.array([1.0, -0.5]))
    assert np.allclose(observation, [0.1, -0.05])
    assert reward == pytest.approx(-np.hypot(0.2, 0.35)) and not terminated
    observation, *_ = env.step(np.array([7.0, -7.0]))  # clipped to the box
    assert np.allclose(observation, [0.2, -0.15])
    for _ in range(10):
        observation, *_ = env.step(np.array([1.0, 0.0]))  # clipped to the arena
    assert np.allclose(observation, [0.5, -0.15])
    squared = Navigation2DEnv(squared=True)
    squared.set_task([0.3, -0.4])
    squared.reset()
    assert squared.step(np.zeros(2))[1] == pytest.approx(-0.25)


@pytest.mark.parametrize("goal, ends", [([0.1099, 0.0901], True), ([0.1101, 0.1], False), ([0.1, 0.0899], False)])
def test_navigation_ends_within_a_hundredth_of_the_goal(goal, ends):
    for early_end in (True, False):
        env = Navigation2DEnv(early_end=early_end)
        env.set_task(goal)
        env.reset()
        assert env.step(np.ones(2))[2] == (ends and early_end)


def test_the_papers_action_box_is_the_map_of_rescale_action():
    paper = gym.make("Navigation2DPaper-v0")
    rescaled = gym.wrappers.RescaleAction(gym.make("Navigation2D-v0"), np.float32(-10), np.float32(10))
    assert paper.action_space == rescaled.action_space
    paper.reset()
    rescaled.reset()
    rng = np.random.default_rng(5)
    for _ in range(50):
        action = rng.uniform(-10, 10, 2).astype(np.float32)
        assert np.allclose(paper.step(action)[0], rescaled.step(action)[0], atol=1e-6)


def test_standing_still_costs_what_the_paper_s_program_costs():
    """The mean distance of a uniform point of the unit square to its centre is (sqrt(2) + log(1 + sqrt(2))) / 6."""
    for squared, expected in ((False, (np.sqrt(2) + np.log(1 + np.sqrt(2))) / 6), (True, 1 / 6)):
        envs = Navigation2DVectorEnv(4000, squared=squared)
        envs.set_tasks(envs.sample_tasks(4000, np.random.default_rng(6)))
        envs.reset()
        rewards = envs.step(np.zeros((4000, 2)))[1]
        assert -rewards.mean() == pytest.approx(expected, abs=4 * rewards.std() / np.sqrt(4000))


def test_bandit_pays_with_the_probability_of_the_arm():
    n = 2000
    envs = BernoulliBanditVectorEnv(n, max_episode_steps=None, n_arms=3)
    envs.set_tasks([[0.0, 0.3, 1.0]] * n)
    envs.reset(seed=0)
    for arm, probability in enumerate([0.0, 0.3, 1.0]):
        rewards = np.array([envs.step(np.full(n, arm))[1] for _ in range(20)])
        assert set(np.unique(rewards)) <= {0.0, 1.0}
        assert rewards.mean() == pytest.approx(probability, abs=4 * np.sqrt(probability * (1 - probability) / rewards.size))
        if probability == 0.3:
            # Independent over steps, also across the blocks in which noise is drawn.
            correlations = np.corrcoef(rewards)[np.triu_indices(20, 1)]
            assert np.abs(correlations).max() < 5 / np.sqrt(n)


def test_tabular_mdp_follows_its_task():
    n = 4000
    envs = TabularMDPVectorEnv(n, n_states=4, n_actions=2)
    task = envs.sample_tasks(1, np.random.default_rng(7))[0]
    envs.set_tasks([task] * n)
    observations, _ = envs.reset(seed=1)
    assert not observations.any()
    observations, rewards, *_ = envs.step(np.ones(n, dtype=np.int64))
    assert np.allclose(np.bincount(observations, minlength=4) / n, task[0, 1, :4], atol=4 * 0.5 / np.sqrt(n))
    assert rewards.mean() == pytest.approx(task[0, 1, 4], abs=4 / np.sqrt(n))
    assert rewards.std() == pytest.approx(1.0, abs=0.06)
    next_observations, *_ = envs.step(np.zeros(n, dtype=np.int64))
    from_2 = next_observations[observations == 2]
    assert np.allclose(np.bincount(from_2, minlength=4) / len(from_2), task[2, 0, :4], atol=4 * 0.5 / np.sqrt(len(from_2)))


def test_tabular_mdp_without_noise_is_deterministic_where_its_task_is():
    task = np.zeros((3, 2, 4))
    for state in range(3):
        task[state, 0, (state + 1) % 3] = task[state, 1, state] = 1.0
        task[state, :, 3] = [state, -1.0]
    env = TabularMDPEnv(n_states=3, n_actions=2, reward_std=0.0)
    env.set_task(task)
    env.reset(seed=0)
    assert [env.step(action)[:2] for action in (0, 1, 0, 0)] == [(1, 0.0), (1, -1.0), (2, 1.0), (0, 2.0)]


def test_tabular_mdp_draws_mean_rewards_as_asked():
    rng = np.random.default_rng(8)
    normal = np.array(TabularMDP().sample_tasks(100, rng))[..., -1]
    uniform = np.array(TabularMDP(mean_reward="uniform").sample_tasks(100, rng))[..., -1]
    assert normal.mean() == pytest.approx(1.0, abs=0.06) and normal.std() == pytest.approx(1.0, abs=0.06)
    assert 0 <= uniform.min() and uniform.max() <= 1 and uniform.mean() == pytest.approx(0.5, abs=0.02)


def test_tabular_mdp_reaches_no_impossible_state_at_the_ends_of_the_unit_interval():
    family = TabularMDP(n_states=10, n_actions=1)
    task = np.zeros((1, 10, 1, 11))
    task[0, :, 0, 1:-1] = [0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    assert task[0, 0, 0, :-1].cumsum()[-1] < 1.0  # rounding, which check_tasks allows for
    for uniform, expected in ((0.0, 1), (np.nextafter(1.0, 0.0), 9)):
        states, *_ = family.transition(np.zeros(1, int), np.zeros(1, int), task, np.array([[uniform, 0.0]]))
        assert states.tolist() == [expected]

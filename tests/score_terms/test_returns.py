"""Returns times scores: the scale that all tasks share, and the outer surrogate that goes with it."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces
from random_batches import phase
from toys import point_vec, rollout_of, tiny

from sb3_sgmrl import SGMRL
from sb3_sgmrl.gradient.advantages import AdvantageSettings, episode_weights
from sb3_sgmrl.gradient.discounting import discounted_sum
from sb3_sgmrl.gradient.objective import MetaRollout, TaskPhase
from sb3_sgmrl.score_terms.control_variates import OuterScale
from sb3_sgmrl.score_terms.leave_one_out import held_out_advantages, leave_one_out
from sb3_sgmrl.score_terms.returns import with_scales

SPACE = spaces.Box(-5.0, 5.0, (3,), np.float32)


def test_the_scale_is_that_of_earlier_iterations():
    scale = OuterScale(decay=0.5)
    scale.observe(np.array([1.0, np.inf, 3.0]))
    np.testing.assert_array_equal(scale.scales(np.array([7.0, np.inf])), [2, 2])
    scale.observe(np.array([np.inf, np.inf]))  # says nothing
    assert scale.scales(np.ones(1)) == [2]
    scale.observe(np.array([5.0]))
    np.testing.assert_allclose(scale.scales(np.ones(1)), (0.5 * 2 + 5) / 1.5)


def test_the_first_scale_is_that_of_other_tasks():
    scale = OuterScale()
    np.testing.assert_allclose(scale.scales(np.array([1.0, 2.0, 6.0])), [4, 3.5, 1.5])
    np.testing.assert_allclose(scale.scales(np.array([1.0, np.inf, 6.0])), [6, 3.5, 1])
    np.testing.assert_array_equal(scale.scales(np.array([2.0, np.inf])), [np.inf, 2])
    np.testing.assert_array_equal(scale.scales(np.array([np.inf, np.inf])), [np.inf, np.inf])
    assert scale.scales(np.array([3.0])) == [3]


def task_phase(settings, n_episodes=9, seed=0):
    batch = phase(n_tasks=1, n_episodes=n_episodes, seed=seed)
    values = np.random.default_rng(1).standard_normal(batch.mask.shape) * batch.mask
    return TaskPhase({}, batch.task(0), episode_weights(batch, settings, SPACE, values)[0], values[0])


@pytest.mark.parametrize("start", ["step", "episode"])
@pytest.mark.parametrize("n_episodes", [1, 4])
def test_without_a_baseline_advantages_are_discounted_rewards_to_go(n_episodes, start):
    settings = AdvantageSettings(0.9, 1.0, "none", normalize=False, discount_from=start)
    one = task_phase(settings, n_episodes)
    d = 0.9 ** np.arange(6) if start == "episode" else 1.0
    expected = d * discounted_sum(one.batch.rewards, 0.9) * one.batch.mask
    np.testing.assert_allclose(held_out_advantages(one, settings, SPACE), expected, atol=1e-12)


@pytest.mark.parametrize("baseline", ["linear", "critic", "none"])
@pytest.mark.parametrize("normalize", [True, False])
def test_what_is_subtracted_from_an_episode_is_not_its_own(baseline, normalize):
    """Another reward of the last step of an episode changes what precedes it in the same way, whatever the others are."""
    settings = AdvantageSettings(0.9, 1.0, baseline, normalize)
    one = task_phase(settings)
    before = held_out_advantages(one, settings, SPACE)
    lengths = one.batch.mask.sum(1)
    one.batch.rewards[3, lengths[3] - 1] += 10
    after = held_out_advantages(one, settings, SPACE)
    expected = 10 * 0.9 ** (lengths[3] - 1 - np.arange(lengths[3]))
    np.testing.assert_allclose((after - before)[3, : lengths[3]], expected)
    assert not after[~one.batch.mask].any()
    others = np.delete(after - before, 3, axis=0)
    assert np.abs(others).max() > 1e-3 if normalize or baseline == "linear" else not others.any()


def test_advantages_have_the_mean_of_the_others_subtracted():
    settings = AdvantageSettings(0.9, 0.8, "linear")
    one = task_phase(settings)
    without = leave_one_out(one.batch, settings, SPACE)
    raw = held_out_advantages(one, settings, SPACE) + without.mean_advantages[:, None] * one.batch.mask
    plain = held_out_advantages(one, AdvantageSettings(0.9, 0.8, "linear", normalize=False), SPACE)
    assert not np.allclose(raw, plain) and np.corrcoef(raw[one.batch.mask], plain[one.batch.mask])[0, 1] > 0.9


def test_a_single_episode_has_the_values_of_the_critic_subtracted():
    """A critic was trained on earlier episodes, so its values are independent of this one. After the end the value is zero."""
    settings = AdvantageSettings(0.9, 1.0, "critic", normalize=False)
    one = task_phase(settings, n_episodes=1)
    length = int(one.batch.mask.sum()) - 2
    one.batch.mask[0, length:], one.batch.rewards[0, length:] = False, 0.0
    one = replace(one, values=np.arange(1.0, one.batch.mask.size + 1)[None])
    steps, rewards = np.arange(length), one.batch.rewards[0, :length]
    expected = [rewards[t:] @ 0.9 ** steps[: length - t] - one.values[0, t] for t in steps]
    found = held_out_advantages(one, settings, SPACE)
    np.testing.assert_allclose(found[0, :length], expected)
    assert not found[0, length:].any()


def test_too_few_samples_for_a_fit_have_no_baseline():
    """Ten features, and fewer than twenty steps without the episode."""
    settings, none = (AdvantageSettings(0.9, 1.0, b, normalize=False) for b in ("linear", "none"))
    one = task_phase(settings, n_episodes=4)
    left = one.batch.mask.sum() - one.batch.mask.sum(1)
    assert left.max() < 20
    np.testing.assert_allclose(held_out_advantages(one, settings, SPACE), held_out_advantages(one, none, SPACE))


def test_weights_are_advantages_by_a_scale_that_is_given():
    settings = AdvantageSettings(0.9, 0.8)
    inner, outer = task_phase(settings), task_phase(settings, seed=1)
    found = with_scales(MetaRollout([0, 1], [[inner, outer]] * 2), np.array([4.0, np.inf]), settings, SPACE)
    assert [trace[0] for trace in found.traces] == [inner, inner]
    expected = held_out_advantages(outer, settings, SPACE) / 36
    np.testing.assert_allclose(found.traces[0][1].weighted.weights, expected)
    assert found.traces[0][1].weighted.scale == 4
    assert not found.traces[1][1].weighted.weights.any() and found.traces[1][1].weighted.scale == np.inf


def test_all_tasks_have_the_scale_of_earlier_iterations():
    model = tiny(SGMRL, point_vec(2), control_variate="leave_one_out_return", score_coef=1.0)
    rollout = rollout_of(model)
    own = np.array([trace[-1].weighted.scale for trace in rollout.traces])
    first = model.outer_problem(rollout).rollout
    np.testing.assert_allclose([t[-1].weighted.scale for t in first.traces], (own.sum() - own) / 2)
    model.train(rollout)
    second = model.outer_problem(rollout_of(model)).rollout
    np.testing.assert_allclose([t[-1].weighted.scale for t in second.traces], own.mean())
    # other forms leave the weights alone
    plain = tiny(SGMRL, point_vec(2))
    own_rollout = rollout_of(plain)
    assert plain.outer_problem(own_rollout).rollout is own_rollout


def test_the_slope_of_scaled_control_variates_is_logged():
    """The others of three tasks return b = (Σ J̃ − J̃) / 2 on average, so J̃ = Σ J̃ − 2 b within an iteration."""
    model = tiny(SGMRL, point_vec(2), control_variate="leave_one_task_out", score_coef=1.0, control_variate_scaling=True)
    rollout = rollout_of(model)
    for slope in (1.0, -2.0):
        term, estimate = model.outer_problem(rollout).score_term, model.meta_gradient(rollout)
        assert term.observe(rollout, estimate)["control_variate_scale"] == pytest.approx(slope)

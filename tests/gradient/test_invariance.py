"""Gradients depend neither on the zero nor on the unit of rewards. Rewards without information change nothing."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces
from random_batches import phase
from toys import ALGORITHMS, point_vec, rollout_of, tiny

from sb3_sgmrl import EMAML, SGMRL
from sb3_sgmrl.common.phases import task_phases
from sb3_sgmrl.data.batch import PhaseBatch
from sb3_sgmrl.gradient.advantages import AdvantageSettings, alike_without_each, are_alike, episode_weights, unit_rewards
from sb3_sgmrl.gradient.discounting import discounted_sum
from sb3_sgmrl.gradient.objective import MetaRollout
from sb3_sgmrl.score_terms.leave_one_out import leave_one_out
from sb3_sgmrl.score_terms.names import SCORE_TERMS

SPACE = spaces.Box(-5.0, 5.0, (3,), np.float32)
NORMALISED = [
    AdvantageSettings(0.9, 0.8, baseline, True, start, reduction)
    for baseline in ("linear", "critic", "none")
    for start in ("step", "episode")
    for reduction in ("mean", "sum")
]
SCALES = [1e-12, 1e-8, 1e8]
SHIFTS = [-1.0, 100.0, 1e4]


def values_of(batch):
    return np.random.default_rng(1).standard_normal(batch.mask.shape) * batch.mask


def weights(batch, settings, values):
    """With all episodes, and without each."""
    found = episode_weights(batch, settings, SPACE, values)
    left_out = [leave_one_out(batch.task(i), settings, SPACE, values[i]).weights for i in range(batch.n_tasks)]
    return np.stack([one.weights for one in found]), np.stack(left_out), np.array([one.scale for one in found])


@pytest.mark.parametrize("varying", [True, False])
@pytest.mark.parametrize("factor", SCALES)
@pytest.mark.parametrize("settings", NORMALISED, ids=str)
def test_units_of_rewards_change_nothing(settings, factor, varying):
    batch = phase(n_episodes=9, varying=varying)
    values = values_of(batch)
    one, left_out, scale = weights(batch, settings, values)
    other, other_left_out, other_scale = weights(replace(batch, rewards=factor * batch.rewards), settings, factor * values)
    np.testing.assert_allclose(other, one, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(other_left_out, left_out, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(other_scale, factor * scale)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("settings", NORMALISED, ids=str)
def test_the_zero_of_rewards_changes_nothing_where_episodes_are_of_equal_length(settings, shift):
    batch = phase(n_episodes=9, varying=False)
    values = values_of(batch)
    one, left_out, scale = weights(batch, settings, values)
    other, other_left_out, other_scale = weights(replace(batch, rewards=batch.rewards + shift), settings, values)
    tolerance = 1e-10 * abs(shift)
    np.testing.assert_allclose(other, one, rtol=1e-7, atol=tolerance)
    np.testing.assert_allclose(other_left_out, left_out, rtol=1e-6, atol=10 * tolerance)
    np.testing.assert_allclose(other_scale, scale, rtol=1e-6)


@pytest.mark.parametrize("settings", NORMALISED, ids=str)
def test_to_live_longer_is_worth_what_a_step_is_worth(settings):
    """A reward at every step is information where episodes end at different times: the longer ones are the better ones."""
    batch = phase(n_tasks=1, n_episodes=9)
    batch = replace(batch, rewards=1.0 * batch.mask)
    found = episode_weights(batch, replace(settings, gae_lambda=1.0), SPACE, np.zeros(batch.mask.shape))[0].weights
    first, lengths = found[:, 0], batch.mask[0].sum(1)
    assert np.isfinite(found).all()
    if settings.baseline != "linear":  # which knows the states that last
        assert np.corrcoef(first, lengths)[0, 1] > 0.9


REWARDS = {
    "zero": lambda shape: np.zeros(shape),
    "constant": lambda shape: np.full(shape, 0.1),
    "-1": lambda shape: np.full(shape, -1.0),
    "tiny": lambda shape: np.full(shape, 1e-9),
    "large": lambda shape: np.full(shape, 1e8),
    "time": lambda shape: np.broadcast_to(np.sin(np.arange(shape[-1])), shape).copy(),
    "rounding": lambda shape: 3 + 1e-12 * np.random.default_rng(0).standard_normal(shape),
}


@pytest.mark.parametrize("rewards", REWARDS)
@pytest.mark.parametrize("settings", NORMALISED, ids=str)
def test_rewards_that_are_the_same_in_all_episodes_have_no_weight(settings, rewards):
    batch = phase(n_episodes=4, varying=False)
    batch = replace(batch, rewards=REWARDS[rewards](batch.mask.shape))
    found, left_out, scale = weights(batch, settings, values_of(batch))
    assert not found.any() and not left_out.any()
    assert (scale == np.inf).all()


def test_a_single_episode_says_whether_its_steps_differ():
    settings = AdvantageSettings(baseline="none")
    one = phase(n_tasks=1, n_episodes=1, varying=False)
    assert episode_weights(one, settings, SPACE)[0].weights.any()
    for c in (0.1, 0.3, -7.7):
        assert not episode_weights(replace(one, rewards=np.full(one.mask.shape, c)), settings, SPACE)[0].weights.any()


def test_are_alike():
    rewards, mask = np.zeros((2, 3)), np.ones((2, 3), bool)
    assert are_alike(rewards, mask) and not are_alike(rewards[:1], mask[:1])
    shorter = mask & (np.arange(3) < [[3], [2]])
    assert not are_alike(rewards, shorter)
    # without one of them; two are needed to compare
    for odd in range(3):
        of_three = np.ones((3, 3))
        of_three[odd, 1] = 2
        np.testing.assert_array_equal(alike_without_each(of_three, np.ones((3, 3), bool)), np.arange(3) == odd)
    assert alike_without_each(np.ones((3, 3)), np.ones((3, 3), bool)).all()
    assert not alike_without_each(np.ones((2, 3)), mask).any()
    different = rewards.copy()
    different[1, 2] = 1e-30
    assert not are_alike(different, mask)
    assert are_alike(different + 1, mask)
    both = are_alike(np.stack([rewards, different]), np.stack([mask, mask]))
    np.testing.assert_array_equal(both, [True, False])


def test_unit_rewards_sum_to_those_of_the_longest_episode():
    mask = np.arange(5) < np.array([[4], [1], [3]])
    to_go = discounted_sum(unit_rewards(mask, 0.5), 0.5)
    np.testing.assert_allclose(to_go[mask], np.broadcast_to([1.875, 1.75, 1.5, 1, 0], mask.shape)[mask])
    assert not unit_rewards(mask, 0.5)[~mask].any()
    # of episodes that are longer only the first steps are rewarded
    np.testing.assert_allclose(unit_rewards(mask, 0.5, np.array([2, 2, 2]))[:2], [[1, 1, 0, 0, 0], [1.5, 0, 0, 0, 0]])


def rewarded(model, rollout, rewards):
    """The same steps with other rewards."""
    phases = []
    for stage, trace in enumerate(zip(*rollout.traces, strict=True)):
        batches = [phase.batch for phase in trace]
        played = [np.stack([getattr(b, name) for b in batches]) for name in ("observations", "actions", "mask")]
        new = np.stack([rewards(b.rewards) * b.mask for b in batches])
        settings = model.objective.inner if stage < model.n_inner_steps else model.objective.outer
        batch = PhaseBatch(played[0], played[1], new, played[2], new.sum(-1))
        phases.append(task_phases(model.functional, settings, batch, [phase.parameters for phase in trace]))
    return MetaRollout(rollout.tasks, [list(trace) for trace in zip(*phases, strict=True)])


def gradient_after_observing(model, rollout):
    for _ in range(2):  # terms with a memory remember these rewards
        model.observe(model.outer_problem(rollout), model.meta_gradient(rollout))
    return np.concatenate([value.flatten().numpy() for value in model.meta_gradient(rollout).gradient.values()])


VARIANTS = [(algorithm, {}) for algorithm in ALGORITHMS] + [
    (SGMRL, {"control_variate": variate, "score_coef": 1.0}) for variate in SCORE_TERMS
]


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [*VARIANTS, *((a, {"baseline": b}) for a in (SGMRL, EMAML) for b in ("critic", "none"))],
    ids=str,
)
def test_nothing_is_learned_from_rewards_without_information(algorithm, settings):
    model = tiny(algorithm, point_vec(2), n_inner_steps=2, **settings)
    rollout = rollout_of(model)
    for rewards in (lambda r: 0 * r, lambda r: 0 * r + 1.0, lambda r: 0 * r - 0.3):
        assert not gradient_after_observing(model, rewarded(model, rollout, rewards)).any()


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [(a, s) for a, s in VARIANTS if s.get("control_variate") not in ("none", "task_regression", "counterfactual")],
    ids=str,
)
def test_meta_gradients_know_neither_zero_nor_unit_of_rewards(algorithm, settings):
    model = tiny(algorithm, point_vec(2), n_episodes=6, **settings)
    rollout = rollout_of(model)
    expected = gradient_after_observing(model, rewarded(model, rollout, lambda r: r))
    for rewards in (lambda r: r + 100, lambda r: 1e-8 * r, lambda r: 1e6 * r - 10):
        other = tiny(algorithm, point_vec(2), n_episodes=6, **settings)
        found = gradient_after_observing(other, rewarded(other, rollout, rewards))
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.linalg.norm(expected))


def test_rewards_of_emaml_are_standardised_whatever_their_unit():
    model = tiny(EMAML, point_vec(2))
    rollout = rollout_of(model)
    found = [
        model.outer_problem(rewarded(model, rollout, lambda r, f=factor: f * r)).score_term.mean_rewards
        for factor in (1.0, 1e-12)
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)

"""Formula (C) split over the steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_sgmrl.data.batch import PhaseBatch
from sb3_sgmrl.gradient.advantages import AdvantageSettings, episode_weights, mean_reward, unit_rewards
from sb3_sgmrl.gradient.baselines import baseline_features
from sb3_sgmrl.gradient.inner import WeightedSamples
from sb3_sgmrl.gradient.objective import InnerStep, TaskPhase
from sb3_sgmrl.score_terms.leave_one_out import leave_one_out
from sb3_sgmrl.score_terms.refitted import (
    Linearized,
    Refitted,
    RefittedCausal,
    _advantages,
    contributions,
    influence,
)

SPACE = spaces.Box(-3, 3, (2,))

SETTINGS = {
    "default": AdvantageSettings(gamma=0.9, gae_lambda=0.8),
    "no normalisation": AdvantageSettings(gamma=0.9, gae_lambda=0.8, normalize=False),
    "no baseline": AdvantageSettings(gamma=0.9, gae_lambda=0.8, baseline="none"),
    "critic": AdvantageSettings(gamma=0.9, gae_lambda=0.8, baseline="critic"),
    "sum": AdvantageSettings(gamma=0.9, gae_lambda=0.8, time_reduction="sum"),
    "paper": AdvantageSettings(0.9, 1.0, "none", normalize=False, discount_from="episode", time_reduction="sum"),
    "discounted from the start": AdvantageSettings(0.9, 0.8, discount_from="episode"),
}


@pytest.fixture(params=SETTINGS)
def settings(request):
    return SETTINGS[request.param]


def inner_step(settings, lengths=(7, 7, 7, 7, 7, 7), seed=0):
    """Random episodes with random sensitivities."""
    rng = np.random.default_rng(seed)
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    observations = rng.standard_normal((1, *mask.shape, 2)) * mask[..., None]
    rewards = rng.standard_normal(mask.shape) * mask
    phase = PhaseBatch(observations, np.zeros((1, *mask.shape, 1)), rewards[None], mask[None], rewards.sum(-1)[None])
    values = rng.normal(size=phase.mask.shape) * phase.mask if settings.baseline == "critic" else None
    weighted = episode_weights(phase, settings, SPACE, values)[0]
    batch = phase.task(0)
    n = int(batch.mask.sum())
    index = th.as_tensor(batch.episode_index)
    samples = WeightedSamples(None, th.zeros(n), th.as_tensor(weighted.weights[batch.mask]), index, batch.n_episodes)
    task_phase = TaskPhase({}, batch, weighted, None if values is None else values[0])
    return InnerStep(0, 0, task_phase, {}, samples, settings, SPACE, th.as_tensor(rng.normal(size=n)))


def left_out(step, settings):
    return leave_one_out(step.phase.batch, settings, SPACE, step.phase.values)


def differences(step, settings):
    """D_j, which the form ``refitted`` weights all steps of an episode with."""
    first = np.cumsum([0, *step.phase.batch.mask.sum(1)[:-1]])
    return Refitted().coefficients(step).numpy()[first]


def surrogate(step, settings, weights):
    """Σ w x when episode k counts ``weights[k]`` times in every sum that the weights w are made of."""
    batch, m = step.phase.batch, th.as_tensor(step.phase.batch.mask, dtype=th.float64)
    counted = weights[:, None] * m
    rewards = th.as_tensor(batch.rewards)
    n_steps = m.shape[1]

    def discount(g):
        return th.tensor([[g ** (u - t) if u >= t else 0.0 for u in range(n_steps)] for t in range(n_steps)])

    values = th.zeros_like(rewards) if step.phase.values is None else th.as_tensor(step.phase.values)
    if settings.normalize:
        left = rewards - values + settings.gamma * th.cat([values[:, 1:], th.zeros(len(values), 1)], dim=1)
        c = (counted * left).sum() / counted.sum()
        rewards = rewards - c * th.as_tensor(unit_rewards(batch.mask, settings.gamma))
    v = values
    if settings.baseline == "linear":
        f = th.as_tensor(baseline_features(SPACE, batch))
        target = rewards @ discount(settings.gamma).double().T
        gram = th.einsum("jt,jtf,jtg->fg", counted, f, f) + 1e-5 * th.eye(f.shape[-1], dtype=th.float64)
        v = f @ th.linalg.solve(gram, th.einsum("jt,jtf,jt->f", counted, f, target))
    deltas = rewards - v + settings.gamma * th.cat([v[:, 1:], th.zeros(len(v), 1)], dim=1)
    a = deltas @ discount(settings.gamma * settings.gae_lambda).double().T
    if settings.discount_from == "episode":
        a = a * settings.gamma ** th.arange(n_steps)
    scale = counted.sum() if settings.time_reduction == "mean" else weights.sum()
    if settings.normalize:
        mean = (counted * a).sum() / counted.sum()
        a = (a - mean) / (((counted * (a - mean) ** 2).sum() / counted.sum()).sqrt())
    x = th.zeros_like(m)
    x[m > 0] = step.sensitivity
    return (counted * a * x).sum() / scale


@pytest.mark.parametrize("lengths", [(7, 7, 7, 7, 7, 7), (1, 7, 3, 7, 2, 5)], ids=str)
def test_influence_is_the_derivative_by_the_weight_of_an_episode(settings, lengths):
    step = inner_step(settings, lengths)
    weights = th.ones(6, dtype=th.float64, requires_grad=True)
    expected = th.autograd.grad(surrogate(step, settings, weights), weights)[0]
    without = left_out(step, settings)
    # with the mean reward and the fit of all episodes in place of those of the others, their parts are derivatives too
    critic = step.phase.values if settings.baseline == "critic" else None
    means = np.broadcast_to(mean_reward(step.phase.batch.rewards, step.phase.batch.mask, settings, critic), 6)
    means = means if settings.normalize else without.mean_rewards
    of_all = {"rewards_without": without.rewards, "values_without": without.values, "mean_rewards": means}
    y = influence(step, settings, replace(without, **of_all))
    np.testing.assert_allclose(y.sum(1), expected, atol=1e-7)


@pytest.mark.parametrize("lengths", [(7, 7, 7, 7, 7, 7), (1, 7, 3, 7, 2, 5)], ids=str)
def test_contributions_add_up_to_the_difference(settings, lengths):
    step = inner_step(settings, lengths)
    difference = differences(step, settings)
    y = contributions(step, settings, left_out(step, settings), difference)
    np.testing.assert_allclose(y.sum(1), difference, atol=1e-12)
    assert not y[~step.phase.batch.mask].any()
    assert np.abs(difference).max() > 1e-3


def test_without_a_fit_contributions_know_nothing_of_what_comes_later():
    settings = SETTINGS["paper"]
    step = inner_step(settings)
    before = influence(step, settings, left_out(step, settings))
    batch = step.phase.batch
    rewards, x = batch.rewards.copy(), step.sensitivity.clone()
    rewards[2, 4:] += 1.0
    x[2 * 7 + 4 : 3 * 7] -= 1.0
    changed = replace(step, phase=replace(step.phase, batch=replace(batch, rewards=rewards)), sensitivity=x)
    after = influence(changed, settings, left_out(changed, settings))
    difference = after - before
    # but for the share of the whole that is taken from the first step of every episode
    difference[:, 0] -= difference[0, 0]
    np.testing.assert_allclose(difference[2, :4], 0, atol=1e-12)
    assert np.abs(difference[2, 4:]).max() > 0.01


def contributions_by_hand(step):
    """
    Those of ``paper``, where f_j = Σ_t Σ_{u≥t} γ^u r_u x_t of every episode counts as 1/n: D_j = (f_j − f̄)/(n − 1). Step u
    makes γ^u r_u Σ_{t≤u} x_t / n known, the first takes f̄/n away, and the last has the remainder.
    """
    rewards = step.phase.batch.rewards
    n = len(rewards)
    x = step.sensitivity.numpy().reshape(rewards.shape)
    parts = np.array([[0.9**u * rewards[j, u] * x[j, : u + 1].sum() for u in range(7)] for j in range(n)])
    f = parts.sum(1)
    y = parts / n
    y[:, 0] -= f.mean() / n
    y[:, -1] += (f - f.mean()) * (1 / (n - 1) - 1 / n)
    return y


def test_contributions_by_hand():
    settings = SETTINGS["paper"]
    step = inner_step(settings)
    expected = contributions_by_hand(step)
    y = contributions(step, settings, left_out(step, settings), differences(step, settings))
    np.testing.assert_allclose(y, expected, atol=1e-12)
    f = np.array([row.sum() for row in expected])
    np.testing.assert_allclose(differences(step, settings), f, atol=1e-12)


@pytest.mark.parametrize("k", [0.0, 0.5, 1.0])
def test_a_step_is_weighted_by_what_follows(settings, k):
    """Y_t = Σ_{u≥t} κ^{u−t} (y_u + b_{u+1} − b_u), b the ridge regression of Σ_{u≥t} y_u on observations and time."""
    step = inner_step(settings)
    batch = step.phase.batch
    if settings == SETTINGS["paper"]:
        y = contributions_by_hand(step)
    else:
        y = contributions(step, settings, left_out(step, settings), differences(step, settings))
    observations = batch.observations.reshape(42, 2)
    t = np.tile(np.arange(7) / 100, 6)
    features = np.column_stack([observations, observations**2, t, t**2, t**3, np.ones(42)])
    to_go = np.array([[y[j, u:].sum() for u in range(7)] for j in range(6)])
    gram = features.T @ features + 1e-5 * np.eye(8)
    b = (features @ np.linalg.solve(gram, features.T @ to_go.ravel())).reshape(6, 7)
    b = np.column_stack([b, np.zeros(6)])
    expected = [
        [sum(k ** (u - t) * (y[j, u] + b[j, u + 1] - b[j, u]) for u in range(t, 7)) for t in range(7)] for j in range(6)
    ]
    found = RefittedCausal(k).coefficients(step).numpy().reshape(6, 7)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert np.abs(found).max() > 0.01


@pytest.mark.parametrize("seed", range(3))
def test_a_baseline_that_meets_its_targets_leaves_nothing_to_split(seed):
    """Eight features and four steps: there is no residual that anything could be a part of."""
    settings = SETTINGS["default"]
    step = inner_step(settings, (2, 2), seed)
    left, whole = left_out(step, settings), Refitted().coefficients(step)
    split = _advantages(contributions(step, settings, left, differences(step, settings)), left, 1.0)
    assert np.linalg.norm(split) > 100 * whole.norm()
    np.testing.assert_allclose(RefittedCausal(1.0).coefficients(step), whole, atol=1e-12)


@pytest.mark.parametrize("lengths", [(2, 2, 2), (3, 3, 3), (5, 5), (1, 2, 3, 4), (1, 7, 3, 7, 2, 5)], ids=str)
def test_to_split_makes_no_term_much_larger(settings, lengths):
    step = inner_step(settings, lengths)
    whole = Refitted().coefficients(step)
    assert RefittedCausal(0.9).coefficients(step).norm() <= 10.001 * whole.norm()


def test_episodes_that_are_alike_keep_the_weights_of_their_steps():
    """As in discrete tasks. To leave one of them out changes nothing, so D_j is zero, but the actions had consequences."""
    settings = SETTINGS["no baseline"]
    one = inner_step(replace(settings, normalize=False), (7,))
    batch = one.phase.batch
    arrays = ("observations", "actions", "rewards", "mask")
    many = replace(batch, **{name: np.repeat(getattr(batch, name), 4, axis=0) for name in arrays})
    weights = np.repeat(one.phase.weighted.weights, 4, axis=0) / 4
    index = th.arange(4).repeat_interleave(7)
    samples = WeightedSamples(None, th.zeros(28), th.as_tensor(weights.ravel()), index, 4)
    step = replace(
        one,
        phase=replace(one.phase, batch=many, weighted=replace(one.phase.weighted, weights=weights)),
        samples=samples,
        settings=replace(settings, normalize=False),
        sensitivity=one.sensitivity.repeat(4),
    )
    np.testing.assert_allclose(Refitted().coefficients(step), 0, atol=1e-12)
    assert RefittedCausal(0.5).coefficients(step).norm() > 1e-3


@pytest.mark.parametrize(("n_episodes", "n_steps", "can_be_fitted"), [(3, 6, False), (4, 6, True), (3, 8, True)])
def test_a_baseline_is_fitted_with_two_steps_for_each_feature(n_episodes, n_steps, can_be_fitted):
    """Eight features; without one of four episodes of six steps there are 18 steps, without one of three there are 12."""
    step = inner_step(SETTINGS["default"], (n_steps,) * n_episodes)
    assert (left_out(step, SETTINGS["default"]).can_be_fitted == can_be_fitted).all()
    assert left_out(step, SETTINGS["no baseline"]).can_be_fitted.all()


def test_linearized_form_is_formula_c_where_nothing_is_refitted(settings):
    step = inner_step(settings)
    naive, refitted = Linearized().coefficients(step), Refitted().coefficients(step)
    refits = settings.baseline == "linear" or settings.normalize
    assert np.allclose(naive, refitted, atol=1e-12) == (not refits)


def test_equal_advantages_make_no_contribution(settings):
    step = inner_step(settings)
    batch = replace(step.phase.batch, rewards=np.zeros_like(step.phase.batch.rewards))
    weighted = replace(step.phase.weighted, weights=np.zeros_like(batch.rewards))
    step = replace(step, phase=replace(step.phase, batch=batch, weighted=weighted, values=np.zeros_like(batch.rewards)))
    for coefficients in (Refitted().coefficients, RefittedCausal(0.9).coefficients):
        assert not coefficients(step).any()

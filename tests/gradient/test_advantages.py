"""From rewards to the weights of the log-likelihoods."""

from dataclasses import replace

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from random_batches import phase
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_sgmrl.data.batch import PhaseBatch
from sb3_sgmrl.gradient import advantages, baselines
from sb3_sgmrl.gradient.advantages import AdvantageSettings, centred, episode_weights, gae
from sb3_sgmrl.gradient.baselines import RIDGE, baseline_features, flatten_observations
from sb3_sgmrl.gradient.discounting import accumulated, discounted_sum
from sb3_sgmrl.score_terms.leave_one_out import leave_one_out

SPACE = spaces.Box(-5.0, 5.0, (3,), np.float32)

PLAIN = AdvantageSettings(gamma=0.9, gae_lambda=1.0, baseline="none", normalize=False)

EVERY = [
    AdvantageSettings(0.9, 0.8, baseline, normalize, start, reduction)
    for baseline in ("linear", "critic", "none")
    for normalize in (True, False)
    for start in ("step", "episode")
    for reduction in ("mean", "sum")
]


def values_of(batch, seed=1):
    return np.random.default_rng(seed).standard_normal(batch.mask.shape) * batch.mask


def without(batch, j):
    """The batch of one task with an episode really removed."""
    keep = np.arange(batch.mask.shape[1]) != j
    return PhaseBatch(
        batch.observations[:, keep],
        batch.actions[:, keep],
        batch.rewards[:, keep],
        batch.mask[:, keep],
        batch.episode_returns[:, keep],
    )


@pytest.mark.parametrize("varying", [True, False])
@pytest.mark.parametrize("settings", EVERY, ids=str)
def test_leaving_one_out_is_removing_it(settings, varying):
    batch = phase(n_tasks=1, varying=varying)
    values = values_of(batch)
    weights = leave_one_out(batch.task(0), settings, SPACE, values[0]).weights
    assert weights.shape == (4, 4, 6)
    for j in range(4):
        expected = episode_weights(without(batch, j), settings, SPACE, np.delete(values, j, axis=1))[0].weights
        np.testing.assert_allclose(np.delete(weights[j], j, axis=0), expected, rtol=1e-7, atol=1e-10)
        np.testing.assert_array_equal(weights[j, j], 0)


@pytest.mark.parametrize("baseline", ["linear", "none"])
def test_small_differences_are_information_without_an_episode_too(baseline):
    """Rewards of 1 that differ by ten times what is rounding beside them."""
    settings = AdvantageSettings(0.9, 0.8, baseline)
    batch = phase(n_tasks=1, n_episodes=9, varying=False)
    batch = replace(batch, rewards=1 + 1e-8 * batch.rewards)
    expected = episode_weights(without(batch, 3), settings, SPACE)[0].weights
    found = leave_one_out(batch.task(0), settings, SPACE).weights[3]
    assert expected.any()
    np.testing.assert_allclose(np.delete(found, 3, axis=0), expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("settings", EVERY, ids=str)
def test_padding_changes_nothing(settings):
    batch = phase()
    values = values_of(batch)
    longer = np.zeros((*batch.mask.shape[:2], 4))
    # what stands in the padding must not matter either
    rubbish = np.full((*longer.shape, 3), 7.0, np.float32)
    padded = PhaseBatch(
        np.concatenate([batch.observations, rubbish], 2),
        np.zeros((3, 4, 10, 2)),
        np.concatenate([batch.rewards, longer], 2),
        np.concatenate([batch.mask, longer > 0], 2),
        batch.episode_returns,
    )
    padded_values = np.concatenate([values, longer + 3], 2)
    short, long = episode_weights(batch, settings, SPACE, values), episode_weights(padded, settings, SPACE, padded_values)
    for i, (one, other) in enumerate(zip(short, long, strict=True)):
        np.testing.assert_allclose(other.weights[:, :6], one.weights, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(other.weights[:, 6:], 0)
        np.testing.assert_array_equal(one.weights[~batch.mask[i]], 0)
        assert other.scale == pytest.approx(one.scale)
    left_out = [leave_one_out(b.task(0), settings, SPACE, v[0]).weights for b, v in ((batch, values), (padded, padded_values))]
    np.testing.assert_allclose(left_out[1][..., :6], left_out[0], rtol=1e-7, atol=1e-10)
    np.testing.assert_array_equal(left_out[1][..., 6:], 0)


@pytest.mark.parametrize("settings", EVERY, ids=str)
def test_tasks_do_not_mix(settings, monkeypatch):
    batch = phase()
    values = values_of(batch)
    together = episode_weights(batch, settings, SPACE, values)
    monkeypatch.setattr(advantages, "_CHUNK", 1)
    one_by_one = episode_weights(batch, settings, SPACE, values)
    for i in range(3):
        alone = episode_weights(batch.tasks(slice(i, i + 1)), settings, SPACE, values[i : i + 1])[0]
        for other in (together[i], one_by_one[i]):
            np.testing.assert_allclose(other.weights, alone.weights, rtol=1e-9, atol=1e-12)
            assert other.scale == pytest.approx(alone.scale)


def test_gae_is_that_of_sb3():
    """Episodes one after another in SB3's buffer, the last one complete as well."""
    settings = AdvantageSettings(gamma=0.95, gae_lambda=0.9)
    batch = phase(n_tasks=1)
    values = values_of(batch)
    mask = batch.mask[0]
    buffer = RolloutBuffer(int(mask.sum()), SPACE, spaces.Box(-1, 1, (2,)), "cpu", 0.9, 0.95)
    start = True
    for episode in range(4):
        for t in range(int(mask[episode].sum())):
            buffer.add(
                batch.observations[0, episode, t],
                np.zeros(2),
                np.float32(batch.rewards[0, episode, t]),
                np.array([start or t == 0]),
                th.tensor([values[0, episode, t]]),
                th.zeros(1),
            )
            start = False
    buffer.compute_returns_and_advantage(th.zeros(1), np.array([True]))
    ours = gae(batch.rewards, values, settings)[batch.mask]
    np.testing.assert_allclose(ours, buffer.advantages.ravel(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 7, 8, 100])
@pytest.mark.parametrize("factor", [0.0, 0.7, 1.0])
def test_accumulated_is_the_recursion(n_steps, factor):
    x = np.random.default_rng(n_steps).normal(size=(3, n_steps))
    expected = x.copy()
    for t in range(1, n_steps):
        expected[:, t] += factor * expected[:, t - 1]
    np.testing.assert_allclose(accumulated(x, factor), expected, rtol=1e-12, atol=1e-12)


def test_sums_do_not_depend_on_padding():
    x = np.random.default_rng(0).normal(size=(3, 37))
    padded = np.pad(x, [(0, 0), (0, 20)])
    np.testing.assert_array_equal(discounted_sum(padded, 0.9)[:, :37], discounted_sum(x, 0.9))
    np.testing.assert_array_equal(accumulated(padded, 0.9)[:, :37], accumulated(x, 0.9))


def test_discounted_sum():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 5))
    before = x.copy()
    expected = np.array(
        [[[sum(0.7 ** (k - t) * row[k] for k in range(t, 5)) for t in range(5)] for row in rows] for rows in x]
    )
    np.testing.assert_allclose(discounted_sum(x, 0.7), expected)
    np.testing.assert_array_equal(x, before)


def test_reward_to_go_from_the_step_and_from_the_episode():
    batch = phase()
    to_go = discounted_sum(batch.rewards, 0.9)
    for i, found in enumerate(episode_weights(batch, PLAIN, SPACE)):
        np.testing.assert_allclose(found.weights, to_go[i] * batch.mask[i] / batch.mask[i].sum())
    # R^h = Σ_{t≥h} γ^t r_t, eq. (4) of the paper; a sum over steps and a mean over episodes, eq. (3)
    paper = replace(PLAIN, discount_from="episode", time_reduction="sum")
    discounted = batch.rewards * 0.9 ** np.arange(6)
    expected = np.cumsum(discounted[..., ::-1], axis=-1)[..., ::-1] * batch.mask / 4
    for i, found in enumerate(episode_weights(batch, paper, SPACE)):
        np.testing.assert_allclose(found.weights, expected[i], atol=1e-15)
        assert found.scale == 1


@pytest.mark.parametrize("baseline", ["linear", "critic", "none"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_normalised_advantages_and_their_scale(baseline, reduction):
    """Mean 0 and standard deviation 1 over the played steps of a task; the scale is what they were divided by."""
    batch = phase(n_episodes=8)
    values = values_of(batch)
    settings = AdvantageSettings(0.9, 0.8, baseline, True, "step", reduction)
    given = values if baseline == "critic" else None
    without_mean = replace(batch, rewards=centred(batch.rewards, batch.mask, settings, given))
    raw = episode_weights(without_mean, replace(settings, normalize=False), SPACE, values)
    for i, found in enumerate(episode_weights(batch, settings, SPACE, values)):
        n_samples = batch.mask[i].sum()
        unit = n_samples if reduction == "mean" else 8
        played = found.weights[batch.mask[i]] * unit
        assert played.mean() == pytest.approx(0, abs=1e-9)
        assert played.std() == pytest.approx(1)
        unscaled = raw[i].weights[batch.mask[i]] * unit
        assert found.scale == pytest.approx(unscaled.std() * (n_samples / 8 if reduction == "mean" else 1))


def test_constant_rewards_normalise_to_zero():
    batch = phase(varying=False)
    batch = PhaseBatch(batch.observations, batch.actions, np.ones_like(batch.rewards), batch.mask, batch.episode_returns)
    bandit = batch.mask & (np.arange(6) < 1)
    batch = PhaseBatch(batch.observations, batch.actions, batch.rewards * bandit, bandit, batch.episode_returns)
    for found in episode_weights(batch, replace(PLAIN, normalize=True), SPACE):
        np.testing.assert_allclose(found.weights, 0, atol=1e-6)
        # so that no score coefficient is divided by next to nothing
        assert found.scale == np.inf


def test_the_linear_baseline_is_a_ridge_regression_on_the_returns():
    batch = phase(n_tasks=2)
    settings = AdvantageSettings(gamma=0.9, gae_lambda=1.0, baseline="linear", normalize=False, time_reduction="sum")
    for i, found in enumerate(episode_weights(batch, settings, SPACE)):
        mask = batch.mask[i]
        o, t = np.clip(batch.observations[i][mask], -10, 10).astype(float), np.nonzero(mask)[1] / 100
        features = np.column_stack([o, o**2, t, t**2, t**3, np.ones(len(t))])
        targets = discounted_sum(batch.rewards[i], 0.9)[mask]
        fitted = features @ np.linalg.solve(features.T @ features + RIDGE * np.eye(10), features.T @ targets)
        np.testing.assert_allclose(found.weights[mask] * 4, targets - fitted, rtol=1e-6, atol=1e-8)
        # it explains something
        assert np.var(targets - fitted) < np.var(targets)


def test_features_of_the_baseline():
    batch = phase()
    batch.observations[0, 0, 0] = [100, -100, 2]
    features = baseline_features(SPACE, batch)
    assert features.shape == (3, 4, 6, 10)
    np.testing.assert_allclose(features[0, 0, 0], [10, -10, 2, 100, 100, 4, 0, 0, 0, 1])
    np.testing.assert_array_equal(features[~batch.mask], 0)


def test_observations_of_every_kind_as_vectors():
    space = spaces.Dict(
        {
            "category": spaces.Discrete(3, start=1),
            "digits": spaces.MultiDiscrete([2, 3]),
            "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
            "matrix": spaces.Box(-1, 1, (2, 2)),
            "bits": spaces.MultiBinary(2),
        }
    )
    batch = {
        "category": np.array([[1, 3]]),
        "digits": np.array([[[1, 2], [0, 0]]]),
        "image": np.zeros((1, 2, 36, 36, 1), np.uint8),
        "matrix": np.arange(8.0).reshape(1, 2, 2, 2),
        "bits": np.array([[[0, 1], [1, 1]]]),
    }
    flat = flatten_observations(space, batch)
    rows = {tuple(row) for row in flat[0]}
    parts = {
        "bits": [(0, 1), (1, 1)],
        "category": [(1, 0, 0), (0, 0, 1)],
        "digits": [(0, 1, 0, 0, 1), (1, 0, 1, 0, 0)],
        "image": [(), ()],
        "matrix": [(0, 1, 2, 3), (4, 5, 6, 7)],
    }
    assert rows == {sum((parts[key][i] for key in space.spaces), ()) for i in range(2)}
    assert flatten_observations(space["image"], batch["image"]) is None
    # an image leaves the features of time
    images = PhaseBatch(
        np.zeros((1, 2, 3, 36, 36, 1), np.uint8), np.zeros((1, 2, 3, 1)), np.ones((1, 2, 3)), np.ones((1, 2, 3), bool), None
    )
    assert baseline_features(space["image"], images).shape == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gamma", 1.1),
        ("gamma", -0.1),
        ("gamma", float("nan")),
        ("gamma", "0.9"),
        ("gae_lambda", 2),
        ("gae_lambda", None),
        ("baseline", "linaer"),
        ("discount_from", 0),
        ("time_reduction", "max"),
    ],
)
def test_bad_settings(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must"):
        AdvantageSettings(**{name: value})


def test_many_observations_are_clipped_at_ten_too():
    batch, space = phase(1, 2, 3, varying=False), spaces.Box(-np.inf, np.inf, (600,), np.float32)
    direction = np.sign(np.random.default_rng(0).standard_normal((*batch.mask.shape, 600))).astype(np.float32)
    far, at_ten, inside = (
        baseline_features(space, replace(batch, observations=size * direction)) for size in (25.0, 10.0, 9.5)
    )
    np.testing.assert_array_equal(far, at_ten)
    assert np.abs(inside - at_ten).max() > 1


def test_fewer_features_for_many_observations_have_the_same_products(monkeypatch):
    """Of steps t, u with observations x, y: x·y + x²·y² + 1 + tu + (tu)² + (tu)³, with t and u in hundreds of steps."""
    monkeypatch.setattr(baselines, "_BLOCK", 250)
    batch, space = phase(1, 2, 150), spaces.Box(-np.inf, np.inf, (600,), np.float32)
    mask = batch.mask[0].ravel()
    x = 0.05 * np.random.default_rng(0).standard_normal((300, 600)) * mask[:, None]
    features = baseline_features(space, replace(batch, observations=x.reshape(1, 2, 150, 600)))[0].reshape(300, 300)
    t = np.tile(np.arange(150) / 100, 2)
    tu = np.outer(t, t)
    expected = (x @ x.T + x**2 @ x.T**2 + 1 + tu + tu**2 + tu**3) * np.outer(mask, mask)
    np.testing.assert_allclose(features @ features.T, expected, atol=1e-9)

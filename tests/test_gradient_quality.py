"""Bias, variance and directions of meta-gradients: against closed forms and enumeration, and without a trace in the model."""

import random

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecNormalize
from toys import assert_same, point, point_vec, state, tiny

from sb3_sgmrl import EMAML, MAML, SGMRL, TaskDistEnv
from sb3_sgmrl.common.meta_algorithm import MetaRollout
from sb3_sgmrl.plots import plot_gradient_quality, plot_quality_sweep
from sb3_sgmrl.theory import (
    Estimate,
    GradientQualityCallback,
    GradientSample,
    TabularMDP,
    TabularReference,
    compare_gradients,
    directional_change,
    exact_gradient,
    exact_return,
    expectation,
    make_estimators,
    quality_table,
    relative_error,
    sample_gradients,
    softmax_policy,
)
from sb3_sgmrl.theory.gradient_sample import flatten
from sb3_sgmrl.theory.statistics import mean_over_batches, mean_over_pairs
from sb3_sgmrl.theory.tabular_reference import dynamic_programming_return

PLAIN = {"gae_lambda": 1.0, "baseline": "none", "discount_from": "episode", "time_reduction": "sum"}
FORMS = {
    "maml": (MAML, {}),
    "sgmrl": (SGMRL, {"score_coef": 1.0}),
    "emaml": (EMAML, {}),
    "first order": (MAML, {"first_order": True}),
}


def covers(estimate, truth):
    low, high = estimate.interval
    return low <= truth <= high


def sample_of(**gradients):
    """Rows of numbers as a sample of gradients of a single parameter."""
    n_parameters = next(iter(gradients.values())).shape[1]
    return GradientSample(gradients, {"weight": th.zeros(n_parameters)}, 2.0, dict.fromkeys(gradients, 1.0))


# ---------------------------------------------------------------- statistics


@pytest.mark.parametrize("shape", [(7, 7), (5, 9), (9, 5)])
def test_means_without_a_batch_are_those_of_the_others(shape):
    rng = np.random.default_rng(0)
    products, values = rng.standard_normal(shape), rng.standard_normal(shape[0])
    n_batches = max(shape)
    different = ~np.eye(*shape, dtype=bool)
    found, found_values = mean_over_pairs(products, n_batches), mean_over_batches(values, n_batches)
    assert found[0] == pytest.approx(products[different].mean())
    assert found_values[0] == pytest.approx(values.mean())
    for j in range(n_batches):
        keep = np.ones(shape, dtype=bool)
        keep[j : j + 1], keep[:, j : j + 1] = False, False
        assert found[1 + j] == pytest.approx(products[keep & different].mean())
        assert found_values[1 + j] == pytest.approx(np.delete(values, j).mean() if j < shape[0] else values.mean())


def test_jackknife_of_a_mean_is_its_standard_error():
    sample = np.random.default_rng(0).standard_normal(50)
    estimate = Estimate.by_jackknife(mean_over_batches(sample, 50))
    assert estimate.value == pytest.approx(sample.mean())
    assert estimate.standard_error == pytest.approx(sample.std(ddof=1) / 50**0.5)
    assert Estimate.of_mean(sample).standard_error == pytest.approx(estimate.standard_error)
    assert np.isnan(Estimate.of_mean([1.0]).standard_error)


def test_moments_are_the_unbiased_ones():
    g = np.random.default_rng(0).standard_normal((20, 30)) + 0.5
    quality = compare_gradients(sample_of(g=g))["g"]
    variance = g.var(0, ddof=1).sum()
    assert quality.variance.value == pytest.approx(variance)
    assert quality.squared_norm.value == pytest.approx((g.mean(0) ** 2).sum() - variance / 20)
    assert quality.snr.value == pytest.approx(quality.squared_norm.value / variance)
    assert quality.noise_of_mean == pytest.approx(variance / 20 / (g.mean(0) ** 2).sum())
    assert quality.cost == pytest.approx(3.0 / quality.snr.value)
    assert quality.cost_interval[0] < quality.cost < quality.cost_interval[1]
    assert quality.relative_bias is None and quality.cosine is None


def test_metrics_against_closed_forms():
    """Gradients with known means and variances: no systematic error, and intervals that cover as often as they should."""
    n, n_reference, n_parameters, n_repeats = 30, 60, 40, 300
    rng = np.random.default_rng(0)
    reference, other = rng.standard_normal((2, n_parameters)) / n_parameters**0.5
    biased = reference + 0.5 * other
    truth = {
        "squared_norm": biased @ biased,
        "variance": 4.0 * n_parameters / 10,
        "snr": (biased @ biased) / (4.0 * n_parameters / 10),
        "squared_bias": 0.25 * (other @ other) / (reference @ reference),
        "cosine": biased @ reference / np.sqrt((biased @ biased) * (reference @ reference)),
    }
    found = {key: [] for key in truth}
    covered = {key: [] for key in truth}
    unbiased = []
    for _ in range(n_repeats):
        noise = rng.standard_normal((2, n_reference, n_parameters)) * (4.0 / 10) ** 0.5
        r = reference + 0.5 * noise[0]
        # part of the noise is shared, as it is for estimators with the same episodes
        g = biased + 0.8 * noise[0, :n] + 0.6 * noise[1, :n]
        quality = compare_gradients(sample_of(g=g, r=r, u=g - 0.5 * other), "r")
        for key, value in truth.items():
            found[key].append(getattr(quality["g"], key).value)
            covered[key].append(covers(getattr(quality["g"], key), value))
        unbiased.append(quality["u"].squared_bias.value)
        assert quality["r"].squared_bias is None
    for key in ("squared_norm", "variance"):
        assert covers(Estimate.of_mean(found[key]), truth[key]), key
    # what is divided by an estimated norm is a little off
    assert abs(np.mean(unbiased)) < 0.1
    for key, value in truth.items():
        assert np.median(found[key]) == pytest.approx(value, rel=0.15), key
        assert np.mean(covered[key]) > 0.88, key


def test_bias_against_an_exact_gradient():
    rng = np.random.default_rng(0)
    target = rng.standard_normal(10)
    g = target + 0.3 * rng.standard_normal((50, 10))
    quality = compare_gradients(sample_of(right=g, wrong=1.5 * g), {"weight": th.as_tensor(target)})
    assert covers(quality["right"].squared_bias, 0.0)
    assert covers(quality["wrong"].squared_bias, 0.25)
    assert quality["wrong"].relative_bias == pytest.approx(0.5, abs=0.05)
    assert quality["right"].cosine.value == pytest.approx(1.0, abs=0.01)


def test_what_noise_hides_is_not_resolved():
    rng = np.random.default_rng(0)
    noise = np.concatenate([x := rng.standard_normal((3, 20)), -x])
    quality = compare_gradients(sample_of(noise=noise, known=noise + 5.0), "noise")
    assert np.isnan([quality["known"].relative_bias, quality["known"].cosine.value]).all()
    assert quality["noise"].squared_norm.value < 0 and quality["noise"].cost == np.inf
    assert quality_table(quality).count("not resolved") == 2


# ---------------------------------------------------------------- tabular MDPs


def as_task(mdp):
    """A task of the family from an MDP."""
    return np.concatenate([mdp.transitions, mdp.rewards[..., None]], axis=-1)


@pytest.fixture(scope="module")
def tabular():
    """MAML on two MDPs with two states and two steps, and their exact gradient."""
    family = gym.make("sb3_sgmrl:TabularMDP-v0", n_states=2, n_actions=2, reward_std=0.0).unwrapped
    mdps = [TabularMDP.random(2, 2, 2, np.random.default_rng(seed), deterministic=True) for seed in (0, 3)]
    tasks = [as_task(mdp) for mdp in mdps]
    env = TaskDistEnv(TimeLimit(family, 2), tasks=tasks)
    model = tiny(MAML, env, meta_batch_size=10, n_episodes=2, inner_lr=1.0, normalize_advantage=False, gamma=0.9, **PLAIN)
    model.policy = softmax_policy(2, 2, seed=0).policy
    return model, mdps, exact_gradient(model.functional, mdps, model.objective, 2, 1)


def test_measured_bias_is_that_of_enumeration(tabular):
    model, _, exact = tabular
    forms = {
        "maml": (MAML, {}),
        "exact": (SGMRL, {"control_variate": "leave_one_out_return", "score_coef": 1.0}),
        "quiet": (TabularReference, {}),
    }
    sample = sample_gradients(make_estimators(model, forms), n_batches=20)
    quality = compare_gradients(sample, exact)
    for name in ("exact", "quiet"):
        assert covers(quality[name].squared_bias, 0.0), name
    assert quality["maml"].squared_bias.interval[0] > 0
    assert quality["quiet"].variance.value < quality["exact"].variance.value / 5
    against_quiet = compare_gradients(sample, "quiet")
    assert covers(against_quiet["exact"].squared_bias, 0.0)
    assert against_quiet["maml"].squared_bias.interval[0] > 0


def test_reference_has_no_bias(tabular):
    """Over every batch, with the practical inner rule."""
    model, mdps, _ = tabular
    reference = make_estimators(
        model,
        {"quiet": (TabularReference, {})},
        normalize_advantage=True,
        baseline="linear",
        outer_advantage={"normalize": False, **PLAIN},
    )["quiet"]
    for mdp in mdps:
        task = as_task(mdp)
        assert np.array_equal(TabularMDP.of_task(task, 2).initial, mdp.initial)
        found = expectation(
            model.functional,
            [mdp],
            reference.objective,
            [2, 1],
            lambda traces, task=task: reference.meta_gradient(MetaRollout([task], traces)).gradient,
        )
        assert relative_error(found, exact_gradient(model.functional, [mdp], reference.objective, 2, 1)) < 1e-10


def test_dynamic_programming_agrees_with_the_sum_over_trajectories(tabular):
    model, mdps, _ = tabular
    theta = model.functional.parameters()
    for mdp in mdps:
        found = dynamic_programming_return(model.functional, theta, mdp, 0.9)
        assert float(found) == pytest.approx(float(exact_return(model.functional, theta, mdp, 0.9)), rel=1e-12)


# ---------------------------------------------------------------- sampling


def test_estimators_see_the_same_episodes_and_follow_the_policy():
    model = tiny(SGMRL, point_vec(12), score_coef=1.0)
    estimators = make_estimators(model, FORMS)
    together, seed = sample_gradients(estimators, n_batches=3), 0
    assert {len(rows) for rows in together.gradients.values()} == {3}
    for name in FORMS:
        alone = sample_gradients({name: estimators[name]}, n_batches=3, seed=seed)
        np.testing.assert_array_equal(alone.gradients[name], together.gradients[name])
    np.testing.assert_array_equal(sample_gradients({"own": model}, 3).gradients["own"], together.gradients["sgmrl"])
    assert not np.array_equal(sample_gradients({"own": model}, 3, seed=1).gradients["own"], together.gradients["sgmrl"])
    mean = together.mean("maml")
    np.testing.assert_allclose(flatten(mean, together.parameters), together.gradients["maml"].mean(0), rtol=1e-5)
    model.learn(1)
    moved = sample_gradients(estimators, n_batches=3)
    np.testing.assert_array_equal(sample_gradients({"own": model}, 3).gradients["own"], moved.gradients["sgmrl"])
    assert not np.array_equal(moved.gradients["maml"], together.gradients["maml"])


def test_outer_weights_are_each_estimators_own():
    model = tiny(MAML, point_vec(12))
    estimators = make_estimators(
        model, {"usual": (MAML, {}), "plain": (MAML, {"outer_advantage": {"normalize": False, **PLAIN}})}
    )
    together = sample_gradients(estimators, n_batches=3)
    alone = sample_gradients({"plain": estimators["plain"]}, n_batches=3)
    np.testing.assert_array_equal(together.gradients["plain"], alone.gradients["plain"])


def test_more_batches_of_the_reference():
    model = tiny(MAML, point_vec(12))
    sample = sample_gradients(make_estimators(model, FORMS), 3, "sgmrl", 5)
    assert {name: len(rows) for name, rows in sample.gradients.items()} == {**dict.fromkeys(FORMS, 3), "sgmrl": 5}
    quality = compare_gradients(sample, "sgmrl")
    assert (quality["maml"].n_batches, quality["sgmrl"].n_batches) == (3, 5)


def test_other_numbers_of_episodes():
    model = tiny(MAML, point_vec(12))
    estimators = make_estimators(model, FORMS, n_episodes=2, n_outer_episodes=5)
    assert all(estimator.episodes_per_phase == [2, 5] for estimator in estimators.values())
    assert model.episodes_per_phase == [4, 4]
    sample_gradients(estimators, n_batches=1)


def test_wrong_arguments():
    model = tiny(MAML, point_vec(3))
    estimators = make_estimators(model, FORMS)
    with pytest.raises(ValueError, match="`estimators` must hold"):
        sample_gradients({})
    with pytest.raises(ValueError, match=r"`estimators` must agree in `inner_lr`, which is 0.1 in 'maml' and 0.2 in 'other'"):
        sample_gradients({**estimators, "other": make_estimators(model, {"other": (MAML, {"inner_lr": 0.2})})["other"]})
    with pytest.raises(ValueError, match="`estimators` must have the policy of one model, but 'maml' and 'other' differ"):
        sample_gradients({**estimators, "other": tiny(MAML, point_vec(3), seed=1)})
    with pytest.raises(ValueError, match="`n_batches` must be a positive integer"):
        sample_gradients(estimators, n_batches=0)
    with pytest.raises(ValueError, match="`reference` must be one of maml"):
        sample_gradients(estimators, reference="best")
    with pytest.raises(ValueError, match="`n_reference_batches` must be at least `n_batches`, 40, got 3"):
        sample_gradients(estimators, reference="maml", n_reference_batches=3)
    sample = sample_gradients(estimators, n_batches=2)
    with pytest.raises(ValueError, match="`sample` must hold at least three meta-batches"):
        compare_gradients(sample)
    with pytest.raises(ValueError, match="`reference` must be one of"):
        compare_gradients(sample, "best")
    with pytest.raises(ValueError, match="`directions` must hold at least one"):
        directional_change(model, {})
    with pytest.raises(ValueError, match="`directions` must have a length, but 'nowhere' is zero"):
        directional_change(model, {"nowhere": {name: 0 * value for name, value in sample.parameters.items()}})
    with pytest.raises(ValueError, match="`n_batches` must be at least 3"):
        GradientQualityCallback(n_batches=2)
    with pytest.raises(ValueError, match="`settings` must not hold 'MAML'"):
        model.learn(1, callback=GradientQualityCallback({"MAML": (MAML, {})}))
    with pytest.raises(ValueError, match="`n_inner_steps` must be 1 for the reference"):
        make_estimators(model, {"exact": (TabularReference, {})}, n_inner_steps=2)
    with pytest.raises(ValueError, match="`n_episodes` must be at least 2 for the reference"):
        make_estimators(model, {"exact": (TabularReference, {})}, n_episodes=1)
    for draw in (plot_gradient_quality, lambda nothing: plot_quality_sweep(nothing, "N")):
        with pytest.raises(ValueError, match="must hold at least one"):
            draw({})


def test_a_model_without_environment_is_an_error(tmp_path):
    model = tiny(MAML, point_vec(3))
    model.save(tmp_path / "model")
    alone = MAML.load(tmp_path / "model")
    with pytest.raises(ValueError, match="`model` has no environment"):
        make_estimators(alone, FORMS)
    with pytest.raises(ValueError, match="`estimators` must have an environment"):
        sample_gradients({"own": alone})
    with pytest.raises(ValueError, match="`model` has no environment"):
        directional_change(alone, {"any": model.functional.parameters()})


# ---------------------------------------------------------------- directions


def test_random_numbers_are_common():
    model = tiny(MAML, point_vec(12))
    sample = sample_gradients(make_estimators(model, FORMS), n_batches=3)
    directions = {name: sample.mean(name) for name in ("maml", "sgmrl")}
    change = directional_change(model, directions, step_sizes=(0.0, 0.05), n_tasks=40)
    assert change.start.shape == (40,)
    for name in directions:
        np.testing.assert_array_equal(change.returns[name][0], change.start)
        assert change.change(name)[0] == Estimate(0.0, 0.0)
    paired = change.difference("sgmrl", "maml")[1].standard_error
    unpaired = np.hypot(*(Estimate.of_mean(change.returns[name][1]).standard_error for name in directions))
    assert 0 < paired < unpaired / 10
    assert change.change("maml")[1].standard_error < unpaired / 5
    lines = change.table("maml").splitlines()
    assert lines[0].split() == ["step", "change", "of", "V", "difference", "to", "maml"]
    assert [line.split()[0] for line in lines[1:]] == ["maml", "maml", "sgmrl", "sgmrl"]


def test_return_rises_along_the_gradient_and_falls_against_it():
    model = tiny(MAML, point_vec(12))
    sample = sample_gradients({"maml": model}, n_batches=20)
    up = sample.mean("maml")
    change = directional_change(model, {"up": up, "down": {k: -x for k, x in up.items()}}, step_sizes=(0.1,), n_tasks=40)
    assert change.change("up")[0].interval[0] > 0 > change.change("down")[0].interval[1]


# ---------------------------------------------------------------- no trace


def random_states():
    return (random.getstate()[1], np.random.get_state()[1].tolist(), th.get_rng_state().tolist())


def test_measuring_changes_nothing():
    env = VecNormalize(point_vec(12), gamma=0.99)
    model, other = tiny(SGMRL, env), tiny(SGMRL, VecNormalize(point_vec(12), gamma=0.99))
    model.learn(1), other.learn(1)
    model.logger.record("kept", 1.0)
    before, counts, streams = state(model), (model.num_timesteps, model._n_updates), random_states()
    statistics = (env.obs_rms.mean.copy(), env.obs_rms.count, env.training)
    logged = dict(model.logger.name_to_value)
    sample = sample_gradients(make_estimators(model, FORMS), n_batches=3)
    directional_change(model, {"maml": sample.mean("maml")}, n_tasks=4)
    assert_same(before, state(model))
    assert (model.num_timesteps, model._n_updates) == counts
    assert random_states() == streams
    assert dict(model.logger.name_to_value) == logged
    np.testing.assert_array_equal(env.obs_rms.mean, statistics[0])
    assert (env.obs_rms.count, env.training) == statistics[1:]
    for one in (model, other):
        one.learn(200, reset_num_timesteps=False)
    assert_same(state(model), state(other))


class Recorded(Logger):
    """A logger that keeps everything."""

    def __init__(self):
        super().__init__(None, [])
        self.values = []

    def dump(self, step=0):
        self.values.append(dict(self.name_to_value))
        super().dump(step)


def test_training_with_the_callback_is_training_without(capsys):
    with_callback, without = (tiny(SGMRL, point()) for _ in range(2))
    logger = Recorded()
    with_callback.set_logger(logger)
    forms = {"maml": (MAML, {}), "none": (SGMRL, {"control_variate": "none", "score_coef": 1.0})}
    callback = GradientQualityCallback(forms, eval_freq=2, n_batches=3, verbose=1)
    n = 4 * with_callback.meta_batch_size * sum(with_callback.episodes_per_phase) * 5
    with_callback.learn(n, callback=callback)
    without.learn(n)
    assert_same(state(with_callback), state(without))
    assert with_callback.num_timesteps == without.num_timesteps
    measured = [values for values in logger.values if "quality/SGMRL/snr" in values]
    assert len(logger.values) == 4 and measured == [logger.values[0], logger.values[2]]
    assert {key for key in measured[0] if key.startswith("quality")} == {
        *(f"quality/{name}/{key}" for name in ("SGMRL", "maml", "none") for key in ("snr", "variance", "squared_norm")),
        *(f"quality/{name}/cosine" for name in forms),
    }
    assert measured[0]["quality/none/variance"] > measured[0]["quality/maml/variance"]
    assert measured[0]["quality/maml/variance"] != measured[1]["quality/maml/variance"]
    assert capsys.readouterr().out.count("signal to noise") == 2


# ---------------------------------------------------------------- tables and pictures


def test_tables_and_figures():
    model = tiny(MAML, point_vec(12))
    sample = sample_gradients(make_estimators(model, FORMS), n_batches=4)
    quality = compare_gradients(sample, "sgmrl")
    header, *lines = quality_table(quality).splitlines()
    assert len({len(line) for line in (header, *lines)}) == 1
    assert [line[: len("first order")].strip() for line in lines] == list(FORMS)
    change = directional_change(model, {name: sample.mean(name) for name in FORMS}, n_tasks=4)
    assert len(plot_gradient_quality(quality).axes) == 2
    assert len(plot_gradient_quality(quality, change, "maml").axes) == 3
    figure = plot_quality_sweep(
        {"maml": {5: quality["maml"], 20: quality["emaml"]}, "sgmrl": {5: quality["sgmrl"]}}, "N", "log"
    )
    assert [len(axis.lines) for axis in figure.axes] == [2, 1, 2]

"""Bias, variance and directions of meta-gradients, measured: against enumeration, and while training."""

import random

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import TimeLimit
from quality_tools import covers
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecNormalize
from toys import assert_same, point, point_vec, state, tiny

from sb3_sgmrl import EMAML, MAML, SGMRL, TaskDistEnv
from sb3_sgmrl.gradient.objective import MetaRollout
from sb3_sgmrl.plots import plot_gradient_quality, plot_quality_sweep
from sb3_sgmrl.theory import (
    Estimate,
    GradientQualityCallback,
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
from sb3_sgmrl.theory.tabular_reference import dynamic_programming_return

PLAIN = {"gae_lambda": 1.0, "baseline": "none", "discount_from": "episode", "time_reduction": "sum"}

FORMS = {
    "maml": (MAML, {}),
    "sgmrl": (SGMRL, {"score_coef": 1.0}),
    "emaml": (EMAML, {}),
    "first order": (MAML, {"first_order": True}),
}


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
    with pytest.raises(ValueError, match="`estimators` must share the policy of one model, but 'maml' and 'other' differ"):
        sample_gradients({**estimators, "other": tiny(MAML, point_vec(3), seed=1)})
    with pytest.raises(ValueError, match="`n_batches` must be a positive integer"):
        sample_gradients(estimators, n_batches=0)
    with pytest.raises(ValueError, match="`reference` must be one of maml"):
        sample_gradients(estimators, reference="best")
    with pytest.raises(ValueError, match="`n_reference_batches` must be at least `n_batches` = 40, got 3"):
        sample_gradients(estimators, reference="maml", n_reference_batches=3)
    sample = sample_gradients(estimators, n_batches=2)
    with pytest.raises(ValueError, match="`sample` must hold at least 3 meta-batches, got 2"):
        compare_gradients(sample)
    with pytest.raises(ValueError, match="`reference` must be one of"):
        compare_gradients(sample, "best")
    with pytest.raises(ValueError, match="`directions` must hold at least one"):
        directional_change(model, {})
    with pytest.raises(ValueError, match="`directions` must be non-zero, but 'nowhere' is zero"):
        directional_change(model, {"nowhere": {name: 0 * value for name, value in sample.parameters.items()}})
    with pytest.raises(ValueError, match="`n_batches` must be at least 3"):
        GradientQualityCallback(n_batches=2)
    with pytest.raises(ValueError, match="`settings` must not hold 'MAML'"):
        model.learn(1, callback=GradientQualityCallback({"MAML": (MAML, {})}))
    with pytest.raises(ValueError, match="`n_inner_steps` must be 1 for the reference"):
        make_estimators(model, {"exact": (TabularReference, {})}, n_inner_steps=2)
    with pytest.raises(
        ValueError, match="`n_episodes` must be at least 2 for the reference, which leaves one episode out, got 1"
    ):
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
    with pytest.raises(ValueError, match="`estimators` have no environment"):
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

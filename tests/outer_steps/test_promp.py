"""ProMP: the penalty on inner divergences, its coefficients, and what is left of it in the first epoch."""

import numpy as np
import pytest
from bad_input_tools import refuses, witness
from toys import SAMPLES, assert_same, differ, point_vec, rollout_of, state, tiny

from sb3_sgmrl import MAML, ProMP
from sb3_sgmrl.outer_steps.kl_penalty import InnerKlPenalty
from sb3_sgmrl.outer_steps.local_surrogate import LocalSurrogate

NO_PENALTY = {"inner_kl_coef": 0.0}


def trained(algorithm=ProMP, n=1, **kwargs):
    model = tiny(algorithm, point_vec(3), **kwargs)
    rollout = rollout_of(model)
    for _ in range(n):
        model.train(rollout)
    return model


@pytest.mark.parametrize("n_inner_steps", [1, 2])
def test_the_first_epoch_is_maml_with_low_variance_curvature(n_inner_steps):
    shared = {"n_inner_steps": n_inner_steps, "n_epochs": 1}
    maml = trained(MAML, inner_surrogate="lvc", **shared)
    assert_same(state(maml), state(trained(inner_kl_coef=100.0, **shared)))
    assert differ(state(maml), state(trained(inner_surrogate="pathwise", **shared)))


@pytest.mark.parametrize("n_inner_steps", [1, 2])
def test_without_a_penalty_it_is_clipped_epochs(n_inner_steps):
    shared = {"n_inner_steps": n_inner_steps, "learning_rate": 0.02, "n_epochs": 4, "clip_range": 0.1}
    expected = state(trained(MAML, inner_surrogate="lvc", **shared))
    assert_same(expected, state(trained(**NO_PENALTY, **shared)))
    assert differ(expected, state(trained(inner_kl_coef=10.0, **shared)))


def test_a_penalty_keeps_the_first_policy_nearby():
    kls = []
    for coef in (0.0, 10.0, 1000.0):
        model = trained(inner_kl_coef=coef, learning_rate=0.01, n_epochs=20, max_grad_norm=None)
        kls.append(model.logger.name_to_value["train/inner_approx_kl"])
    assert 0 < kls[2] < kls[1] < kls[0]


def test_coefficients_follow_the_divergence_after_the_epochs(monkeypatch):
    """Each inner step has a coefficient of its own, halved below the target / 1.5 and doubled above 1.5 times the target."""
    seen = []
    value = LocalSurrogate.value
    monkeypatch.setattr(LocalSurrogate, "value", lambda self: seen.append(value(self)) or seen[-1])
    model = trained(n_inner_steps=2, learning_rate=0.01)
    kls = seen[-1].inner_approx_kls
    assert len(seen) == 1 and kls[0] != kls[1] and min(kls) > 0
    for target, factors in ((2 * max(kls), [0.5, 0.5]), (min(kls) / 2, [2, 2]), (kls[0], None), (kls[1], None)):
        model = trained(n_inner_steps=2, learning_rate=0.01, target_inner_kl=target)
        expected = factors or [0.5 if kl < target / 1.5 else 2.0 if kl > 1.5 * target else 1.0 for kl in kls]
        assert model._kl_factors == expected
    fixed = trained(n=3, target_inner_kl=None)
    assert fixed._kl_factors == [] and fixed.logger.name_to_value["train/inner_kl_coef"] == 5e-4


def test_the_penalty_is_a_mean_over_inner_steps():
    penalty = InnerKlPenalty(0.4, 0.01)
    assert penalty.weights(2) == [0.2, 0.2]
    penalty.observe([0.016, 0.006])
    assert penalty.weights(2) == [0.4, 0.1] and penalty.coefficient(0) == 0.8
    penalty.observe([0.0149, 0.0067])
    assert penalty.weights(2) == [0.4, 0.1]
    penalty.observe([float("nan"), 0.0])
    assert penalty.weights(2) == [0.4, 0.05]


def test_a_coefficient_that_was_halved_for_long_comes_back():
    penalty = InnerKlPenalty(1.0, 0.01)
    for kl, n in ((0.0, 5000), (1.0, 20)):
        for _ in range(n):
            penalty.observe([kl])
    assert penalty.coefficient(0) == 1.0
    for _ in range(5000):
        penalty.observe([1.0])
    assert np.isfinite(penalty.coefficient(0))


def test_coefficients_are_saved_in_units_of_the_first(tmp_path):
    model = tiny(ProMP, point_vec(3)).learn(3 * SAMPLES)
    assert model._kl_factors == [0.125]
    model.save(tmp_path / "model")
    loaded = ProMP.load(tmp_path / "model", env=point_vec(3), inner_kl_coef=1e-3)
    assert loaded.outer_step.inner_kl_penalty.coefficient(0) == pytest.approx(1e-3 / 8)
    same = ProMP.load(tmp_path / "model", env=point_vec(3))
    assert_same(*(state(one.learn(2 * SAMPLES, reset_num_timesteps=False)) for one in (model, same)))


@pytest.mark.parametrize("factor", [0.0, float("nan"), "1"])
def test_coefficients_of_a_file_that_are_none_are_refused(tmp_path, factor):
    model = tiny(ProMP, point_vec(3))
    model._kl_factors = [factor]
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="`_kl_factors` must hold positive and finite numbers, got"):
        ProMP.load(tmp_path / "model")


def test_an_iteration_that_is_stopped_leaves_the_coefficients():
    model = tiny(ProMP, point_vec(3)).learn(SAMPLES)
    factors, calls = list(model._kl_factors), []
    model.learn(SAMPLES, callback=lambda *_: calls.append(None) or len(calls) < 3)
    assert calls and model._kl_factors == factors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner_kl_coef": -1.0}, "`inner_kl_coef` must be a finite number that is not negative, got -1.0"),
        ({"inner_kl_coef": float("inf")}, "`inner_kl_coef` must be a finite number"),
        ({"inner_kl_coef": None}, "`inner_kl_coef` must be a finite number .*got None"),
        ({"target_inner_kl": 0}, "`target_inner_kl` must be positive and finite, or None for a fixed coefficient, got 0"),
        ({"n_epochs": 0}, "`n_epochs` must be a positive integer, got 0"),
        ({"inner_surrogate": "dice"}, "`n_epochs` must be 1 with `inner_surrogate='dice'`"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    refuses(message, tiny, ProMP, witness(), **settings)

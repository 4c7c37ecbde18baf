"""TRPO's outer step, as ``train`` runs it."""

from dataclasses import replace

import numpy as np
import pytest
import torch as th
from bad_input_tools import refuses, witness
from toys import SAMPLES, assert_same, differ, point_vec, rollout_of, state, tiny, vector

from sb3_sgmrl import SGMRL, TRPOMAML
from sb3_sgmrl.outer_steps.local_surrogate import LocalSurrogate
from sb3_sgmrl.outer_steps.trust_region import TrustRegion

SCORE = {"score_coef": 1.0, "n_inner_steps": 2}


def trained(**kwargs):
    model = tiny(TRPOMAML, point_vec(3), **kwargs)
    rollout = rollout_of(model)
    # looks at the same episodes from the same parameters, whatever becomes of the model
    before = tiny(TRPOMAML, point_vec(3), **kwargs)
    surrogate = LocalSurrogate(before.outer_problem(replace(rollout, policy=None)))
    model.train(rollout)
    return model, surrogate, before


def follow(surrogate, before, model):
    """The surrogate at the parameters of the trained model."""
    before.policy.load_state_dict(model.policy.state_dict())
    return surrogate.value()


@pytest.mark.parametrize("settings", [{}, SCORE, {"inner_surrogate": "lvc"}, {"first_order": True}, {"adapt_only": "action*"}])
@pytest.mark.parametrize("target_kl", [0.01, 0.1])
def test_a_step_stays_in_the_trust_region_and_raises_the_surrogate(settings, target_kl):
    model, surrogate, before = trained(target_kl=target_kl, **settings)
    at_start = surrogate.value()
    after = follow(surrogate, before, model)
    assert after.value > at_start.value
    assert target_kl / 20 < after.approx_kl <= target_kl
    log = model.logger.name_to_value
    assert log["train/line_search_success"] == 1
    assert log["train/approx_kl"] == after.approx_kl and log["train/policy_objective"] == after.value
    assert differ(state(tiny(TRPOMAML, point_vec(3), **settings)), state(model)) == set(model.functional.adapted_names)


@pytest.mark.parametrize("settings", [{}, SCORE])
def test_the_step_is_the_natural_gradient(settings):
    """With enough steps of the solver, the damped Fisher information brings the step back to the gradient."""
    _, surrogate, _ = trained(**settings)
    step = TrustRegion(0.02, cg_max_steps=200, cg_damping=0.3).full_step(surrogate)
    product = vector(surrogate.fisher_product(step)) + 0.3 * vector(step)
    gradient = vector(surrogate.estimate.gradient)
    th.testing.assert_close(product / product.norm(), gradient / gradient.norm(), rtol=1e-3, atol=1e-4)
    # half the squared length in this metric is the bound of the divergence
    assert float(vector(step) @ product) / 2 == pytest.approx(0.02, rel=1e-3)


def test_the_damped_step_is_one_along_the_gradient():
    _, surrogate, _ = trained()
    step = vector(TrustRegion(cg_damping=1e6).full_step(surrogate))
    gradient = vector(surrogate.estimate.gradient)
    th.testing.assert_close(step / step.norm(), gradient / gradient.norm(), rtol=1e-3, atol=1e-4)


def test_shorter_steps_are_tried_until_one_fits():
    settings = {"cg_damping": 1e-6, "target_kl": 0.5, "line_search_shrinking_factor": 0.5}
    model, surrogate, before = trained(**settings)
    full = vector(before.outer_step.full_step(surrogate))
    start = vector(tiny(TRPOMAML, point_vec(3)).functional.parameters())
    n_halved = -np.log2(float((vector(model.functional.parameters()) - start).norm() / full.norm()))
    assert 0.9 < n_halved < 9.1 and n_halved == pytest.approx(round(n_halved), abs=1e-3)
    stuck, _, _ = trained(**{**settings, "line_search_max_iter": round(n_halved)})
    assert stuck.logger.name_to_value["train/line_search_success"] == 0


def test_a_line_search_that_finds_nothing_changes_nothing(monkeypatch):
    value = LocalSurrogate.value
    monkeypatch.setattr(LocalSurrogate, "value", lambda self: replace(value(self), value=0.0))
    model, _, before = trained()
    assert_same(state(before), state(model))
    log = model.logger.name_to_value
    assert log["train/line_search_success"] == 0 and log["train/approx_kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_divergences_that_are_not_finite_are_rejected(monkeypatch, broken):
    value = LocalSurrogate.value
    monkeypatch.setattr(LocalSurrogate, "value", lambda self: replace(value(self), approx_kl=broken))
    model, _, before = trained()
    assert_same(state(before), state(model))


def test_rewards_that_are_all_equal_say_nothing():
    model = tiny(TRPOMAML, point_vec(3), normalize_advantage=False)
    rollout, before = rollout_of(model), state(model)
    for trace in rollout.traces:
        trace[-1].weighted.weights[:] = 0
    model.train(rollout)
    assert_same(before, state(model))
    assert model.logger.name_to_value["train/line_search_success"] == 0


def test_the_solver_neither_sees_nor_changes_the_random_numbers_of_torch():
    states = []
    for seed in (1, 2):
        model = tiny(TRPOMAML, point_vec(3))
        rollout = rollout_of(model)
        th.manual_seed(seed)
        expected = th.get_rng_state()
        model.train(rollout)
        assert th.equal(expected, th.get_rng_state())
        states.append(state(model))
    assert_same(*states)


def test_threads_make_no_difference():
    assert_same(*(state(trained(n_threads=n, **SCORE)[0]) for n in (1, 3)))


def test_any_algorithm_takes_a_trust_region():
    class Natural(SGMRL):
        outer_step = TrustRegion(target_kl=0.02)

    settings = {"score_coef": 1.0, "max_grad_norm": None}
    one = tiny(Natural, point_vec(3), **settings).learn(2 * SAMPLES)
    assert_same(state(one), state(tiny(TRPOMAML, point_vec(3), score_coef=1.0, target_kl=0.02).learn(2 * SAMPLES)))


def test_a_critic_is_trained_beside_it():
    model = tiny(TRPOMAML, point_vec(3), baseline="critic", learning_rate=0.01)
    before = state(model)
    model.learn(1)
    changed = differ(before, state(model))
    assert any(name.startswith("value_net") for name in changed) and changed >= set(model.functional.adapted_names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_kl": 0}, "`target_kl` must be positive and finite, got 0"),
        ({"target_kl": None}, "`target_kl` must be positive and finite, got None"),
        ({"cg_max_steps": 0}, "`cg_max_steps` must be a positive integer, got 0"),
        ({"cg_damping": -0.1}, "`cg_damping` must be a finite number that is not negative, got -0.1"),
        ({"cg_damping": float("inf")}, "`cg_damping` must be a finite number"),
        ({"line_search_max_iter": 1.5}, "`line_search_max_iter` must be a positive integer, got 1.5"),
        ({"line_search_shrinking_factor": 1}, "`line_search_shrinking_factor` must lie between 0 and 1, got 1"),
        ({"score_coef": "auto"}, r"`score_coef` must lie in \[0, 1\], got 'auto'"),
        ({"inner_surrogate": "dice"}, "`inner_surrogate` must be 'pathwise' or 'lvc' with a trust region, got 'dice'"),
        ({"inner_surrogate": "lvc", "score_coef": 1.0}, "`inner_surrogate='lvc'` already holds the derivative"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    refuses(message, tiny, TRPOMAML, witness(), **settings)


@pytest.mark.parametrize("name", ["n_epochs", "clip_range", "max_grad_norm"])
def test_what_a_trust_region_has_no_use_for_is_no_argument(name, tmp_path):
    with pytest.raises(TypeError, match=name):
        tiny(TRPOMAML, point_vec(1), **{name: 1})
    tiny(TRPOMAML, point_vec(1)).save(tmp_path / "model")
    with pytest.raises(ValueError, match=f"'{name}' is not an argument of TRPOMAML"):
        TRPOMAML.load(tmp_path / "model", **{name: 1})

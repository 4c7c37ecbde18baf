"""Learned step sizes of the inner step: their derivative against the exact one, and what training, saving and adapting do."""

from dataclasses import replace

import numpy as np
import pytest
import torch as th
from exact_tools import MDP, RULES, counterfactuals, objective, subtracting
from toys import ALGORITHMS, assert_same, differ, point, point_vec, rollout_of, state, tiny

from sb3_sgmrl import MAML, SGMRL, evaluate_adaptation
from sb3_sgmrl.gradient.meta_gradient import meta_gradient
from sb3_sgmrl.gradient.step_sizes import StepSizes, matching
from sb3_sgmrl.outer_steps.base import OuterProblem
from sb3_sgmrl.score_terms.control_variates import leave_one_out_return, none
from sb3_sgmrl.theory import (
    TabularReference,
    exact_gradient,
    exact_value,
    expectation,
    expected_gradient,
    relative_error,
    softmax_policy,
)
from sb3_sgmrl.theory.gradient_sample import check_estimators, make_estimators


@pytest.fixture(scope="module")
def policy():
    return softmax_policy(2, 2, seed=0)


def with_step_sizes(policy, rule, owner="tensor"):
    sizes = {name: th.tensor(0.5 + i) for i, name in enumerate(policy.parameters())}
    assert len(sizes) > 1
    if owner == "entry":
        th.manual_seed(0)
        sizes = {name: sizes[name] * th.rand(value.shape) for name, value in policy.parameters().items()}
    return objective(rule, relative_lr=sizes)


def by_step_sizes(policy, goal, n_inner_steps, make_score):
    """The exact derivative of V by the relative step sizes, and the expectation of what training follows."""
    sizes = {name: value.double().requires_grad_() for name, value in goal.relative_lr.items()}
    parameters = {name: value.requires_grad_() for name, value in policy.parameters().items()}
    value = exact_value(policy, parameters, MDP, replace(goal, relative_lr=sizes), 2, n_inner_steps)
    exact = dict(zip(sizes, th.autograd.grad(value, list(sizes.values())), strict=True))

    def estimate(traces):
        score = None if make_score is None else make_score(traces)
        return meta_gradient(policy, goal, score, traces).relative_lr

    expected = expectation(policy, [MDP], goal, [*[2] * n_inner_steps, 1], estimate)
    # expectation adds up in the shape of the parameters
    return exact, {name: value if sizes[name].ndim else value.flatten()[0] for name, value in expected.items()}


@pytest.mark.parametrize("n_inner_steps", [1, 2])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("baseline", [pytest.param(none, marks=pytest.mark.slow), leave_one_out_return])
@pytest.mark.parametrize("owner", ["tensor", "entry"])
def test_the_derivative_by_step_sizes_has_no_bias(policy, rule, baseline, n_inner_steps, owner):
    goal = with_step_sizes(policy, rule, owner)
    exact, expected = by_step_sizes(policy, goal, n_inner_steps, subtracting(baseline))
    assert relative_error(expected, exact) < 1e-10


@pytest.mark.parametrize(("n_inner_steps", "biased"), [(1, False), (2, True)])
def test_without_the_score_term_it_is_exact_for_the_last_step_only(policy, n_inner_steps, biased):
    """The episodes of a second step were shaped by the step sizes of the first."""
    exact, expected = by_step_sizes(policy, with_step_sizes(policy, "paper"), n_inner_steps, None)
    assert (relative_error(expected, exact) > 1e-3) == biased
    assert biased or relative_error(expected, exact) < 1e-10


@pytest.mark.parametrize("n_inner_steps", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", RULES)
def test_the_gradient_has_no_bias_at_step_sizes_that_differ(policy, rule, n_inner_steps):
    goal = with_step_sizes(policy, rule)
    exact = exact_gradient(policy, [MDP], goal, 2, n_inner_steps)
    assert relative_error(exact, exact_gradient(policy, [MDP], objective(rule), 2, n_inner_steps)) > 1e-3
    for score in (subtracting(leave_one_out_return), counterfactuals(policy, goal, min_effective_sample_size=2.0)[0]):
        assert relative_error(expected_gradient(policy, [MDP], goal, 2, n_inner_steps, score), exact) < 1e-10


@pytest.mark.parametrize("control_variate", ["refitted_causal", "refitted", "linearized", "counterfactual"])
def test_step_sizes_of_one_change_nothing(control_variate):
    settings = {"control_variate": control_variate, "score_coef": 1.0, "n_inner_steps": 2}
    fixed, learned = (tiny(SGMRL, point_vec(3), inner_lr_learning_rate=rate, **settings) for rate in (None, 0.1))
    one, other = (model.meta_gradient(rollout_of(model)) for model in (fixed, learned))
    assert_same(*({name: value.numpy() for name, value in found.gradient.items()} for found in (one, other)))
    assert one.relative_lr == {} and other.relative_lr.keys() == one.gradient.keys()


def with_twice_alpha_and_with_twice_r(algorithm, env, **settings):
    """The estimates of two models that do the same."""
    estimates = []
    for inner_lr, relative in ((0.2, 1.0), (0.1, 2.0)):
        model = tiny(algorithm, env, inner_lr=inner_lr, inner_lr_learning_rate=0.1, **settings)
        with th.no_grad():
            model.step_sizes.relative.fill_(relative)
        estimates.append(model.meta_gradient(rollout_of(model)))
    return estimates


@pytest.mark.parametrize("control_variate", ["refitted", "refitted_causal", "linearized", "counterfactual"])
def test_every_form_of_the_score_term_sees_the_step_sizes(control_variate):
    settings = {"control_variate": control_variate, "score_coef": 1.0, "n_inner_steps": 2}
    # a single task does not fall back from the counterfactual
    one, other = with_twice_alpha_and_with_twice_r(SGMRL, point_vec(3), meta_batch_size=1, **settings)
    for name, value in one.gradient.items():
        th.testing.assert_close(other.gradient[name], value, rtol=1e-3, atol=1e-5)
        th.testing.assert_close(other.relative_lr[name] * 2, one.relative_lr[name], rtol=1e-3, atol=1e-5)


def test_the_reference_sees_the_step_sizes():
    one, other = with_twice_alpha_and_with_twice_r(TabularReference, "TabularMDP-v0")
    for name, value in one.gradient.items():
        th.testing.assert_close(other.gradient[name], value, rtol=1e-3, atol=1e-5)


def test_step_sizes_climb_and_stay_positive():
    sizes = StepSizes(["a", "b"], 0.4, th.device("cpu"))
    down_and_up = {"a": th.tensor(-1.0), "b": th.tensor(1.0)}
    assert [sizes.ascend(down_and_up) for _ in range(4)] == [0, 0, 1, 1]
    found = sizes.by_name()
    assert found["a"] == 0 and found["b"] == pytest.approx(2.6, abs=1e-5)
    for _ in range(20):
        sizes.ascend({"a": th.tensor(1.0), "b": th.tensor(0.0)})
    assert sizes.by_name()["a"] > 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training_learns_and_logs_them(algorithm):
    model = tiny(algorithm, point_vec(3), inner_lr_learning_rate=0.3, inner_lr=0.2)
    assert set(model.inner_lr_by_parameter().values()) == {0.2}
    model.learn(1)
    model.train(rollout_of(model))
    values = list(model.inner_lr_by_parameter().values())
    assert len(set(values)) > 1 and min(values) >= 0
    logged = model.logger.name_to_value
    assert logged["train/inner_lr_min"] == pytest.approx(min(values))
    assert logged["train/inner_lr_max"] == pytest.approx(max(values))
    assert logged["train/inner_lr_clamped"] == 0


def test_negative_ones_are_clamped_and_logged():
    model = tiny(MAML, point_vec(3), inner_lr_learning_rate=1.5, seed=2)  # one derivative is negative
    model.train(rollout_of(model))
    n_zero = sum(value == 0 for value in model.inner_lr_by_parameter().values())
    assert n_zero == 1 and model.logger.name_to_value["train/inner_lr_clamped"] == n_zero
    assert model.logger.name_to_value["train/inner_lr_min"] == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_derivative_that_is_not_finite_changes_nothing(value, monkeypatch):
    model = tiny(MAML, point_vec(3), inner_lr_learning_rate=0.3)
    rollout, before = rollout_of(model), state(model)
    estimate = model.meta_gradient(rollout)
    broken = replace(estimate, relative_lr={name: th.tensor(value) for name in estimate.relative_lr})
    monkeypatch.setattr(OuterProblem, "gradient", lambda _: broken)
    with pytest.raises(ValueError, match="The meta-gradient is NaN or infinite"):
        model.train(rollout)
    assert_same(state(model), before)
    assert set(model.inner_lr_by_parameter().values()) == {0.1}


def test_adapting_and_evaluating_use_them():
    model = tiny(SGMRL, point_vec(3), inner_lr_learning_rate=0.3)
    task = np.array([0.5, 0.5])
    names = list(model.functional.adapted_names)
    with th.no_grad():
        model.step_sizes.relative.zero_()
        model.step_sizes.relative[names.index("log_std")] = 3.0
    before, after = (dict(p.named_parameters()) for p in (model.policy, model.adapt(task=task)))
    assert [name for name in names if not th.equal(before[name], after[name])] == ["log_std"]
    with th.no_grad():
        model.step_sizes.relative.zero_()
    unmoved = evaluate_adaptation(model, n_tasks=2, n_steps=1)
    model.step_sizes = None
    moved = evaluate_adaptation(model, n_tasks=2, n_steps=1)
    np.testing.assert_array_equal(unmoved.returns[:, 0], moved.returns[:, 0])
    assert (unmoved.returns[:, 1] != moved.returns[:, 1]).all()


def test_saved_step_sizes_are_in_units_of_inner_lr(tmp_path):
    model = tiny(SGMRL, point_vec(3), inner_lr_learning_rate=0.3).learn(1)
    model.save(tmp_path / "model")
    loaded = SGMRL.load(tmp_path / "model", env=point(), inner_lr=0.05)  # α scales all of them
    by_parameter = loaded.inner_lr_by_parameter()
    assert by_parameter == pytest.approx({name: value / 2 for name, value in model.inner_lr_by_parameter().items()})
    SGMRL.load(tmp_path / "model", env=point(), inner_lr_learning_rate=0.3)  # as RL Zoo does to go on
    for rate in (0.1, None):
        with pytest.raises(ValueError, match=f"`inner_lr_learning_rate` cannot be changed by load: it is 0.3 .*, got {rate}"):
            SGMRL.load(tmp_path / "model", env=point(), inner_lr_learning_rate=rate)
    tiny(SGMRL, point_vec(3)).save(tmp_path / "fixed")
    with pytest.raises(ValueError, match="`inner_lr_learning_rate` cannot be changed by load: it is None"):
        SGMRL.load(tmp_path / "fixed", env=point(), inner_lr_learning_rate=0.1)


@pytest.mark.parametrize(("made_with", "later"), [(None, 0.1), (0.3, None), (0.3, 0.1)])
def test_that_they_are_learned_is_settled_when_a_model_is_made(made_with, later):
    model = tiny(MAML, point_vec(3), inner_lr_learning_rate=made_with)
    model.inner_lr_learning_rate = later
    with pytest.raises(ValueError, match=f"cannot be changed after construction: it was {made_with}, got {later}"):
        model.learn(1)
    assert model.num_timesteps == 0


def test_estimators_have_the_step_sizes_of_the_model():
    model = tiny(SGMRL, point_vec(3), inner_lr_learning_rate=0.3).learn(1)
    estimators = make_estimators(model, {"maml": (MAML, {}), "sgmrl": (SGMRL, {"score_coef": 1.0})})
    for estimator in estimators.values():
        assert estimator.inner_lr_by_parameter() == model.inner_lr_by_parameter()
    estimators["maml"].step_sizes = None
    with pytest.raises(ValueError, match="`estimators` must share the step sizes of one model, but 'maml' and 'sgmrl' differ"):
        check_estimators(estimators)


def test_the_policy_learns_as_before_beside_them():
    """The first meta-gradient is the same; the step sizes are no parameters of the policy."""
    fixed, learned = (tiny(MAML, point_vec(3), inner_lr_learning_rate=rate).learn(1) for rate in (None, 0.3))
    assert_same(state(fixed), state(learned))
    for model in (fixed, learned):
        model.learn(1, reset_num_timesteps=False)
    assert differ(state(fixed), state(learned))


def test_the_step_size_of_a_frozen_parameter_stays():
    """Whatever momentum Adam has for it."""
    sizes = StepSizes(["a", "b"], 0.1, th.device("cpu"))
    for _ in range(3):
        sizes.ascend({"a": th.tensor(1.0), "b": th.tensor(-1.0)})
    before = sizes.by_name()
    sizes.ascend({"a": th.tensor(1.0)})
    after = sizes.by_name()
    assert after["b"] == before["b"] and after["a"] > before["a"]


def test_names_that_match_any_pattern_in_their_order():
    names = ["log_std", "policy_net.0.weight", "policy_net.0.bias", "action_net.weight"]
    assert matching(names, None) == tuple(names)
    assert matching(names, "policy*") == ("policy_net.0.weight", "policy_net.0.bias")
    assert matching(names, ["action*", "*.weight"]) == ("policy_net.0.weight", "action_net.weight")

"""The estimator that training uses, against exact gradients: over every batch, in float64."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from exact_tools import GAMMA, MDP, PAPER, RULES, SPACE, counterfactuals, objective, subtracting
from gymnasium.wrappers import TimeLimit
from toys import rotated, tiny

from sb3_sgmrl import SGMRL, TaskDistEnv
from sb3_sgmrl.gradient.objective import InnerStep, MetaObjective, MetaRollout
from sb3_sgmrl.score_terms import counterfactual
from sb3_sgmrl.score_terms.control_variates import (
    TaskRegression,
    leave_one_out_return,
    leave_one_task_out,
    none,
)
from sb3_sgmrl.score_terms.leave_one_out import leave_one_out_parameters
from sb3_sgmrl.score_terms.names import SCORE_TERMS
from sb3_sgmrl.score_terms.refitted import Refitted
from sb3_sgmrl.theory import (
    TabularMDP,
    exact_gradient,
    exact_value,
    expectation,
    expected_gradient,
    relative_error,
)

RETURN_FORMS = [name for name in SCORE_TERMS if name not in ("refitted_causal", "refitted", "linearized")]


def predicted(task_returns):
    """A task-conditioned regression that was fitted before."""
    regression = TaskRegression()
    regression.observe(np.array([[0.0], [1.0], [2.0]]), np.array([0.3, 0.1, task_returns]))
    values = regression.predict(np.array([[0.5]]))
    return lambda outer, inner: np.broadcast_to(values[:, None], inner.shape)


def exact_difference(policy, goal, n_inner_steps):
    """Formula (C) with the true difference V(ψ) − V(U(θ, D∖τ_j)) of what the remaining steps reach, not its linearisation."""

    def value(parameters, remaining):
        # exact_value differentiates through its steps
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        return exact_value(policy, leaves, MDP, goal, 2, remaining).detach()

    def make(traces):
        def coefficients(step: InnerStep) -> th.Tensor:
            remaining = n_inner_steps - 1 - step.stage
            reached = value(step.adapted, remaining)
            without = leave_one_out_parameters(policy, step.phase, goal, SPACE)
            return step.samples.per_sample(th.stack([reached - value(p, remaining) for p in without]))

        return coefficients

    return make


@pytest.mark.parametrize("n_inner_steps", [1, 2])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("baseline", [none, leave_one_out_return, predicted(0.7)], ids=["none", "loo_return", "regression"])
def test_exact_forms_have_no_bias(policy, rule, baseline, n_inner_steps):
    goal = objective(rule)
    exact = exact_gradient(policy, [MDP], goal, 2, n_inner_steps)
    estimate = expected_gradient(policy, [MDP], goal, 2, n_inner_steps, subtracting(baseline))
    assert relative_error(estimate, exact) < 1e-10


@pytest.mark.parametrize(
    ("baseline", "rule", "n_inner_steps"), rotated([leave_one_task_out, leave_one_out_return], RULES, [1, 2])
)
def test_forms_that_use_other_tasks_have_no_bias(policy, baseline, rule, n_inner_steps):
    horizon = 2 if n_inner_steps == 1 else 1
    mdps = [TabularMDP.random(2, 2, horizon, np.random.default_rng(seed), deterministic=True) for seed in (1, 2)]
    goal = objective(rule)
    exact = exact_gradient(policy, mdps, goal, 2, n_inner_steps)
    estimate = expected_gradient(policy, mdps, goal, 2, n_inner_steps, subtracting(baseline))
    assert relative_error(estimate, exact) < 1e-10


@pytest.mark.parametrize("n_inner_steps", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", RULES)
def test_counterfactuals_of_a_single_task_have_no_bias(policy, rule, n_inner_steps):
    """Also those of earlier inner steps, which are weighted by later inner batches; there is nothing to fall back by."""
    goal = objective(rule)
    make, seen = counterfactuals(policy, goal, min_effective_sample_size=2.0)
    estimate = expected_gradient(policy, [MDP], goal, 2, n_inner_steps, make)
    assert relative_error(estimate, exact_gradient(policy, [MDP], goal, 2, n_inner_steps)) < 1e-10
    assert all(found.used.all() for found in seen)
    sizes = np.stack([found.effective_sample_size for found in seen])
    assert (sizes.min((0, 2)) < 0.75).all() and (sizes <= 1 + 1e-12).all()


# at horizon 1 the practical rule does not move after a single episode, whose advantage is zero: one inner step is enough
@pytest.mark.parametrize(
    ("rule", "n_inner_steps"), [("paper", 1), pytest.param("paper", 2, marks=pytest.mark.slow), ("practical", 1)]
)
@pytest.mark.parametrize(("minimum", "active"), [(0.0, 0.0), (0.9, 0.5), (2.0, 1.0)], ids=["never", "sometimes", "always"])
def test_counterfactuals_that_may_fall_back_have_no_bias(policy, rule, n_inner_steps, minimum, active):
    horizons = (2, 1) if n_inner_steps == 1 else (1, 1)
    rngs = [np.random.default_rng(seed) for seed in (1, 2)]
    mdps = [TabularMDP.random(2, 2, h, rng, deterministic=True) for h, rng in zip(horizons, rngs, strict=True)]
    goal = objective(rule)
    make, seen = counterfactuals(policy, goal, minimum)
    estimate = expected_gradient(policy, mdps, goal, 2, n_inner_steps, make)
    assert relative_error(estimate, exact_gradient(policy, mdps, goal, 2, n_inner_steps)) < 1e-10
    fallen_back = 1 - np.mean([found.used for found in seen])
    assert fallen_back == active or (0 < active < 1 and 0 < fallen_back < 1)


def test_falling_back_by_the_weights_of_the_task_itself_would_be_biased(policy, monkeypatch):
    monkeypatch.setattr(counterfactual, "others_mean", lambda x: x)
    mdps = [MDP, TabularMDP.random(2, 2, 1, np.random.default_rng(1), deterministic=True)]
    goal = objective("paper")
    estimate = expected_gradient(policy, mdps, goal, 2, 1, counterfactuals(policy, goal, 0.9)[0])
    assert relative_error(estimate, exact_gradient(policy, mdps, goal, 2, 1)) > 1e-3


@pytest.mark.parametrize("n_inner_steps", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", RULES)
def test_refitted_form_with_the_true_difference_has_no_bias(policy, rule, n_inner_steps):
    goal = objective(rule)
    exact = exact_gradient(policy, [MDP], goal, 2, n_inner_steps)
    estimate = expected_gradient(policy, [MDP], goal, 2, n_inner_steps, exact_difference(policy, goal, n_inner_steps))
    assert relative_error(estimate, exact) < 1e-10


def tabular_model(**kwargs):
    return tiny(SGMRL, TaskDistEnv(TimeLimit(gym.make("sb3_sgmrl:TabularMDP-v0", n_states=2, n_actions=2), 2)), **kwargs)


@pytest.mark.parametrize("discounts", [(0.9, 0.9), (0.5, 0.9)], ids=str)
@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled"])
@pytest.mark.parametrize("variate", RETURN_FORMS)
def test_the_algorithm_itself_has_no_bias(policy, variate, scaled, discounts):
    """Through the method that ``train`` calls, with its own settings; inner and outer discount factors may differ."""
    inner, outer = discounts
    paper = {"gae_lambda": 1.0, "baseline": "none", "normalize": False, "discount_from": "episode", "time_reduction": "sum"}
    model = tabular_model(
        gamma=inner,
        inner_lr=0.4,
        outer_advantage={"gamma": outer, **paper},
        control_variate=variate,
        score_coef=1.0,
        control_variate_scaling=scaled,
    )
    # from earlier iterations
    model._score_memory.scaling.observe(np.array([0.2, 0.9]), [np.array([[0.1, 0.5], [0.3, 0.8]])])
    assert model._score_memory.scaling.factors() == pytest.approx((0.27, 0.65), abs=0.01)
    model.policy = policy.policy
    tasks = model.env.env_method("sample_tasks", 2, 0, indices=0)[0]
    # only where an episode has two steps does leaving the other one out leave something to learn from
    shapes = [(2 if variate == "counterfactual" else 1, 1), (1, 2)]
    mdps = [TabularMDP.random(2, 2, horizon, np.random.default_rng(seed), deterministic=True) for horizon, seed in shapes]
    estimate = expectation(
        policy, mdps, model.objective, [2, 1], lambda traces: model.meta_gradient(MetaRollout(tasks, traces)).gradient
    )
    assert relative_error(estimate, exact_gradient(policy, mdps, model.objective, 2, 1)) < 1e-10


DEFAULT_OUTER = ("mean", "linear", 1)
OTHER_OUTER = [case for case in itertools.product(("mean", "sum"), ("linear", "none"), (1, 2)) if case != DEFAULT_OUTER]


@pytest.mark.parametrize(
    ("time_reduction", "baseline", "n_outer_episodes"),
    [DEFAULT_OUTER, *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHER_OUTER)],
)
@pytest.mark.parametrize("variate", RETURN_FORMS)
def test_exact_forms_have_no_bias_with_the_default_outer_surrogate(
    policy, variate, time_reduction, baseline, n_outer_episodes
):
    """Normalised, with a baseline fitted on the outer episodes. A discount from the step and λ < 1 are other objectives."""
    model = tabular_model(
        inner_lr=0.4,
        outer_advantage={
            "gamma": GAMMA,
            "gae_lambda": 1.0,
            "baseline": baseline,
            "discount_from": "episode",
            "time_reduction": time_reduction,
        },
        control_variate=variate,
        score_coef=1.0,
    )
    scale = 0.7
    model._score_memory.outer_scale.observe(np.array([scale]))
    model.policy = policy.policy
    estimate = expectation(
        policy,
        [MDP],
        model.objective,
        [2, n_outer_episodes],
        lambda traces: model.meta_gradient(MetaRollout([np.zeros((2, 2, 3))], traces)).gradient,
    )
    exact = exact_gradient(policy, [MDP], model.objective, 2, 1)
    assert relative_error({name: scale * value for name, value in estimate.items()}, exact) < 1e-9


@pytest.mark.slow
def test_the_first_iteration_has_the_scale_of_other_tasks(policy):
    """It has no past. Over tasks that are drawn independently the direction has no bias."""
    plain = {"gae_lambda": 1.0, "baseline": "none", "discount_from": "episode", "time_reduction": "sum"}
    model = tabular_model(inner_lr=0.4, outer_advantage={"gamma": GAMMA, **plain}, control_variate="none", score_coef=1.0)
    model.policy = policy.policy
    mdps = [TabularMDP.random(2, 2, 1, np.random.default_rng(seed), deterministic=True) for seed in (2, 3)]
    total = {name: th.zeros_like(value) for name, value in policy.parameters().items()}
    for drawn in itertools.product(mdps, mdps):
        of_pair = expectation(
            policy,
            drawn,
            model.objective,
            [2, 2],
            lambda traces: model.meta_gradient(MetaRollout([None] * 2, traces)).gradient,
        )
        total = {name: total[name] + value for name, value in of_pair.items()}
    exact = exact_gradient(policy, mdps, model.objective, 2, 1)
    size, size_of_exact = (float(th.cat([v.flatten() for v in g.values()]).norm()) for g in (total, exact))
    assert relative_error({name: value * size_of_exact / size for name, value in total.items()}, exact) < 1e-9


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n_inner_steps", [1, 2])
def test_linearised_refitted_form_is_much_less_biased_than_maml(policy, rule, n_inner_steps):
    goal = objective(rule)
    exact = exact_gradient(policy, [MDP], goal, 2, n_inner_steps)
    maml = relative_error(expected_gradient(policy, [MDP], goal, 2, n_inner_steps, None), exact)
    refitted = expected_gradient(policy, [MDP], goal, 2, n_inner_steps, lambda _: Refitted().coefficients)
    assert maml > 0.02
    assert relative_error(refitted, exact) < maml / 4


def test_linearisation_error_vanishes_with_the_step(policy):
    """The bias of the linearised form is O(α²) where that of MAML is O(α)."""
    errors = []
    for inner_lr in (0.1, 0.01):
        goal = MetaObjective(inner=PAPER, outer=PAPER, inner_lr=inner_lr)
        exact = exact_gradient(policy, [MDP], goal, 2, 1)
        estimate = expected_gradient(policy, [MDP], goal, 2, 1, lambda _: Refitted().coefficients)
        errors.append(relative_error(estimate, exact))
    assert errors[1] < errors[0] / 50


@pytest.mark.parametrize("kind", ["pathwise", "lvc", "dice"])
def test_gradients_without_score_term_are_biased(policy, kind):
    goal = objective("paper", inner_surrogate=kind)
    exact = exact_gradient(policy, [MDP], objective("paper"), 2, 1)
    assert relative_error(expected_gradient(policy, [MDP], goal, 2, 1, None), exact) > 0.01


def test_first_order_with_score_term_is_worse_than_without(policy):
    goal = objective("paper", first_order=True)
    exact = exact_gradient(policy, [MDP], goal, 2, 1)
    without = relative_error(expected_gradient(policy, [MDP], goal, 2, 1, None), exact)
    with_score = expected_gradient(policy, [MDP], goal, 2, 1, subtracting(none))
    assert without > 0.1
    assert relative_error(with_score, exact) > 2 * without


def test_stochastic_transitions_and_more_outer_episodes(policy):
    mdp = TabularMDP.random(2, 2, 2, np.random.default_rng(3))
    goal = objective("practical")
    exact = exact_gradient(policy, [mdp], goal, 2, 1)
    estimate = expected_gradient(policy, [mdp], goal, 2, 1, subtracting(leave_one_out_return), n_outer_episodes=1)
    assert relative_error(estimate, exact) < 1e-10
    small = TabularMDP.random(2, 2, 1, np.random.default_rng(3))
    exact = exact_gradient(policy, [small], goal, 2, 1)
    estimate = expected_gradient(policy, [small], goal, 2, 1, subtracting(leave_one_out_return), n_outer_episodes=2)
    assert relative_error(estimate, exact) < 1e-10

"""Which meta-gradient each algorithm follows, and that its settings reach it."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from toys import (
    HORIZON,
    SAMPLES,
    PointEnv,
    assert_same,
    differ,
    point_vec,
    rollout_of,
    state,
    tiny,
    vector,
)

from sb3_sgmrl import EMAML, MAML, SGMRL, TaskDistEnv
from sb3_sgmrl.gradient.inner import WeightedSamples
from sb3_sgmrl.gradient.objective import InnerStep
from sb3_sgmrl.score_terms.names import SCORE_TERMS


@pytest.mark.parametrize("variate", SCORE_TERMS)
def test_every_form_of_the_score_term_trains(variate):
    model = tiny(SGMRL, point_vec(3, end=0.2), control_variate=variate, score_coef=1.0, n_inner_steps=2)
    before = state(model)
    estimates = []
    for _ in range(2):
        rollout = rollout_of(model)
        estimates.append(model.meta_gradient(rollout))
        model.train(rollout)
    assert all(float(vector(estimate.score_term).norm()) > 0 for estimate in estimates)
    assert differ(before, state(model))


class RareReward(PointEnv):
    """A reward for getting past the goal, which in most tasks no episode does."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float(observation[0] > self.goal[0] + 0.3), *rest


@pytest.mark.parametrize("variate", SCORE_TERMS)
def test_tasks_without_any_reward_say_nothing(variate):
    env = make_vec_env(lambda: TaskDistEnv(gym.wrappers.TimeLimit(RareReward(), HORIZON)), 3)
    model = tiny(SGMRL, env, control_variate=variate, score_coef=1.0, meta_batch_size=20)
    rewarded = set()
    for _ in range(2):
        rollout = rollout_of(model)
        rewarded |= {bool(trace[-1].batch.rewards.any()) for trace in rollout.traces}
        norms = model.meta_gradient(rollout).norms()
        assert norms["score_term_norm"] < 1e4
        model.train(rollout)
    assert rewarded == {False, True}


def test_task_regression_remembers_iterations_after_their_gradient():
    model = tiny(SGMRL, point_vec(3), control_variate="task_regression")
    rollout = rollout_of(model)
    model.meta_gradient(rollout)
    assert model._score_memory.task_regression._targets == []
    model.train(rollout)
    expected = [trace[-1].batch.returns(model.gamma).mean() for trace in rollout.traces]
    np.testing.assert_allclose(model._score_memory.task_regression._targets, expected)
    np.testing.assert_allclose(np.stack(model._score_memory.task_regression._features), np.stack(rollout.tasks))
    # and so predict what the coefficients are the deviation from
    following = rollout_of(model)
    problem = model.outer_problem(following)
    predicted = model._score_memory.task_regression.predict(np.stack(following.tasks))
    for i, trace in enumerate(problem.rollout.traces):
        value = (trace[-1].batch.returns(model.gamma).mean() - predicted[i]) / trace[-1].weighted.scale
        samples = WeightedSamples.make(model.functional, trace[0].batch, trace[0].weighted.weights)
        coefficients = problem.score_term.coefficients(
            InnerStep(
                i, 0, trace[0], trace[1].parameters, samples, model.objective.inner, model.observation_space, samples.weights
            )
        )
        np.testing.assert_allclose(coefficients.numpy(), value, rtol=1e-4)


def test_sgmrl_without_the_score_term_is_maml():
    maml = tiny(MAML, point_vec(3), n_epochs=5, clip_range=0.3).learn(2 * SAMPLES)
    sgmrl = tiny(SGMRL, point_vec(3), score_coef=0.0).learn(2 * SAMPLES)
    assert_same(state(maml), state(sgmrl))
    assert differ(state(maml), state(tiny(SGMRL, point_vec(3), score_coef=1.0).learn(2 * SAMPLES)))


@pytest.mark.parametrize("n_inner_steps", [1, 2])
def test_score_terms_are_weighted_by_their_past(n_inner_steps):
    """Without a past the estimate is MAML's; then each inner step and parameter has the weight of its own."""
    model = tiny(SGMRL, point_vec(3, end=0.2), n_inner_steps=n_inner_steps)
    rollout = rollout_of(model)
    first = model.meta_gradient(rollout)
    assert len(first.unweighted) == n_inner_steps
    assert not any(value.any() for value in first.score_term.values())
    for _ in range(4):
        model.train(rollout)
    weights = model.objective.score_coef
    assert len(weights) == n_inner_steps and set(weights[0]) == set(model.functional.parameters())
    # the same episodes each time leave no noise but that of the parameters' drift
    assert all(0 < weight <= 1 for weight in weights[0].values())
    estimate = model.meta_gradient(rollout)
    for name, value in estimate.score_term.items():
        th.testing.assert_close(value, weights[0][name] * estimate.unweighted[0][name])


def test_score_terms_start_with_a_weight_of_one_half():
    model, without = (tiny(SGMRL, point_vec(3, end=0.2), score_coef_prior=prior) for prior in (50, 0))
    assert tiny(SGMRL, point_vec(3)).score_coef_prior == 50
    for algorithm in (model, without):
        algorithm.train(rollout_of(algorithm))
    assert set(model.objective.score_coef[0].values()) == {25 / 51}
    assert set(without.objective.score_coef[0].values()) == {0.0}
    for _ in range(3):
        model.train(rollout_of(model))
    chosen = model.objective.score_coef[0]
    model.score_coef_prior = 0
    expected = {name: pytest.approx((25 + 4 * weight) / 54) for name, weight in model.objective.score_coef[0].items()}
    assert chosen == expected


@pytest.mark.parametrize("n_epochs", [1, 2])
@pytest.mark.parametrize("n_inner_steps", [1, 2])
def test_score_terms_much_larger_than_their_past_are_cut_off_before_they_are_weighed(n_inner_steps, n_epochs):
    model = tiny(SGMRL, point_vec(3, end=0.2), n_inner_steps=n_inner_steps, n_epochs=n_epochs)
    rollout = rollout_of(model)
    for _ in range(4):
        model.train(rollout)
    usual = model.meta_gradient(rollout)
    assert usual.objective.score_coef == model.objective.score_coef
    for weight in model._signal_weights._weights.values():  # as if all earlier ones had been a hundredth as large
        weight._nonzero_square *= 1e-4
    estimate = model.meta_gradient(rollout)
    weights = estimate.objective.score_coef
    for stage, of_stage in enumerate(model.objective.score_limits):
        assert len(of_stage) == 2
        for names, limit in of_stage.items():
            weighted = vector({name: weights[stage][name] * usual.unweighted[stage][name] for name in names})
            at_most = model.objective.score_coef[stage][names[0]] * limit
            assert float(weighted.norm()) == pytest.approx(at_most, rel=1e-4)
    first = {name: weights[0][name] * estimate.unweighted[0][name] for name in estimate.score_term}
    th.testing.assert_close(estimate.score_term, first)
    maml = tiny(MAML, point_vec(3, end=0.2), n_inner_steps=n_inner_steps).meta_gradient(replace(rollout, policy=None))
    assert (vector(estimate.gradient) - vector(usual.gradient)).norm() > 1e-3 * vector(maml.gradient).norm()
    model.train(rollout)


def test_weights_of_the_score_term_go_on_after_loading(tmp_path):
    model = tiny(SGMRL, point_vec(3)).learn(4 * SAMPLES)
    model.save(tmp_path / "model")
    loaded = SGMRL.load(tmp_path / "model", env=point_vec(3))
    assert loaded.objective.score_coef == model.objective.score_coef and loaded.objective.score_coef[0]
    together = [state(m.learn(SAMPLES, reset_num_timesteps=False)) for m in (model, loaded)]
    assert_same(*together)


@pytest.mark.parametrize("n_inner_steps", [1, 2])
def test_emaml_adds_standardised_rewards_times_the_mean_log_likelihood_of_the_first_batch(n_inner_steps):
    model = tiny(EMAML, point_vec(3, end=0.3), n_inner_steps=n_inner_steps)
    rollout = rollout_of(model)
    batches = [(trace[0].batch, trace[-1].batch) for trace in rollout.traces]
    rewards = [after.rewards[after.mask] for _, after in batches]
    together = np.concatenate(rewards)
    standardised = [float(((r - together.mean()) / together.std()).mean()) for r in rewards]
    parameters = {name: value.detach().requires_grad_() for name, value in model.functional.parameters().items()}
    total = 0.0
    for (before, _), reward in zip(batches, standardised, strict=True):
        observations, actions = map(th.as_tensor, before.samples())
        total = total + reward * model.functional.log_prob(parameters, observations, actions).mean() / len(batches)
    expected = vector(dict(zip(parameters, th.autograd.grad(total, list(parameters.values())), strict=True)))
    estimate = model.meta_gradient(rollout)
    maml = tiny(MAML, point_vec(3, end=0.3), n_inner_steps=n_inner_steps)
    pathwise = vector(maml.meta_gradient(replace(rollout, policy=maml.functional)).gradient)
    score = vector(estimate.score_term)
    assert float((score - expected).norm()) < 1e-5 * float(expected.norm())
    assert float((vector(estimate.gradient) - pathwise - score).norm()) < 1e-5 * float(pathwise.norm())
    assert float(expected.norm()) > 1e-3 * float(pathwise.norm())


@pytest.mark.filterwarnings("ignore:`first_order=True`")
@pytest.mark.parametrize(
    "settings", [{"first_order": True}, {"inner_surrogate": "lvc"}, {"inner_surrogate": "dice"}, {"score_coef": 0.5}]
)
def test_settings_of_the_gradient_reach_it(settings):
    algorithm = SGMRL if "score_coef" in settings else MAML
    usual, other = tiny(algorithm, point_vec(3)), tiny(algorithm, point_vec(3), **settings)
    gradients = [vector(model.meta_gradient(rollout_of(model)).gradient) for model in (usual, other)]
    assert float((gradients[0] - gradients[1]).norm()) > 1e-3 * float(gradients[0].norm())


@pytest.mark.parametrize(
    "settings",
    [
        {"gamma": 0.5},
        {"gae_lambda": 0.5},
        {"baseline": "none"},
        {"baseline": "critic"},
        {"normalize_advantage": False},
        {"discount_from": "episode"},
        {"time_reduction": "sum"},
        {"inner_lr": 0.01},
        {"outer_advantage": {"normalize": False}},
        {"outer_advantage": {"baseline": "none", "gae_lambda": 1.0}},
    ],
    ids=str,
)
def test_settings_of_the_advantages_reach_the_phases(settings):
    usual, other = tiny(MAML, point_vec(3)), tiny(MAML, point_vec(3), **settings)
    one, two = rollout_of(usual).traces[0], rollout_of(other).traces[0]
    inner = not {"inner_lr", "outer_advantage"} & settings.keys()
    assert (not np.allclose(one[0].weighted.weights, two[0].weighted.weights)) == inner
    assert not np.allclose(one[1].weighted.weights, two[1].weighted.weights)
    if "normalize_advantage" not in settings and "outer_advantage" not in settings:
        for phase in two:
            played = phase.weighted.weights[phase.batch.mask]
            assert played.mean() == pytest.approx(0, abs=1e-6)

"""Counterfactual returns against loops over episodes and steps, and what becomes of weights that collapse."""

import numpy as np
import pytest
import torch as th
from toys import assert_same, point_vec, rollout_of, state, tiny

from sb3_sgmrl import SGMRL
from sb3_sgmrl.gradient.baselines import baseline_features
from sb3_sgmrl.gradient.inner import WeightedSamples, adapt
from sb3_sgmrl.score_terms.control_variates import leave_one_out_return
from sb3_sgmrl.score_terms.counterfactual import MIN_EFFECTIVE_SAMPLE_SIZE, counterfactual_baselines, effective_sample_size
from sb3_sgmrl.score_terms.leave_one_out import leave_one_out_parameters
from sb3_sgmrl.score_terms.returns import return_baselines
from sb3_sgmrl.util.threads import single_threaded, thread_pool


def counterfactual_model(**kwargs):
    return tiny(SGMRL, point_vec(3, end=0.2), control_variate="counterfactual", score_coef=1.0, **kwargs)


def found_by(model, rollout, executor=None, minimum=0.0):
    otherwise = return_baselines(rollout.traces, model.gamma, leave_one_out_return)
    space = model.observation_space
    arguments = model.functional, model.objective, space, rollout.traces, otherwise
    return otherwise, counterfactual_baselines(*arguments, min_effective_sample_size=minimum, executor=executor)


def log_prob(model, parameters, batch):
    """Of each step of each episode."""
    episodes = [(batch.observations[m][played], batch.actions[m][played]) for m, played in enumerate(batch.mask)]
    return [model.functional.log_prob(parameters, *map(th.tensor, episode)).double().tolist() for episode in episodes]


def by_loops(model, trace, stage, parameters, c):
    """b_j as it is defined, for the parameters that the step without τ_j leads to."""
    omega = 1.0
    for phase in trace[stage + 1 : -1]:
        one, other = (log_prob(model, p, phase.batch) for p in (parameters, phase.parameters))
        omega *= np.exp(sum(map(sum, one)) - sum(map(sum, other)))
        parameters = adapt(
            model.functional,
            parameters,
            WeightedSamples.make(model.functional, phase.batch, phase.weighted.weights),
            model.inner_lr,
        )
    fitted, outer = trace[-2].batch, trace[-1]
    x, y = [], []
    features = baseline_features(model.observation_space, fitted)
    for m in range(fitted.n_episodes):
        for t in range(int(fitted.mask[m].sum())):
            x.append(features[m, t])
            y.append(sum(model.gamma ** (k - t) * r for k, r in enumerate(fitted.rewards[m]) if k >= t))
    x, y = np.array(x), np.array(y)
    regression = np.linalg.solve(x.T @ x + 1e-5 * np.eye(x.shape[1]), x.T @ y)
    values = baseline_features(model.observation_space, outer.batch) @ regression
    one, other = (log_prob(model, p, outer.batch) for p in (parameters, outer.parameters))
    total = 0.0
    for m in range(outer.batch.n_episodes):
        before = omega
        for t in range(len(one[m])):
            rho = before * np.exp(one[m][t] - other[m][t])
            total += model.gamma**t * (rho * outer.batch.rewards[m, t] + (before - rho) * values[m, t])
            before = rho
    return c * (1 - omega) + total / outer.batch.n_episodes


@pytest.mark.parametrize("settings", [{}, {"n_inner_steps": 2}, {"baseline": "critic", "time_reduction": "sum"}], ids=str)
def test_against_loops_over_episodes_that_end_early(settings):
    model = counterfactual_model(n_outer_episodes=3, **settings)
    rollout = rollout_of(model)
    assert not all(phase.batch.mask.all() for trace in rollout.traces for phase in trace)
    otherwise, found = found_by(model, rollout)
    for i, trace in enumerate(rollout.traces):
        for stage, b in enumerate(found.baselines):
            without = leave_one_out_parameters(model.functional, trace[stage], model.objective, model.observation_space)
            expected = [by_loops(model, trace, stage, p, c) for p, c in zip(without, otherwise[stage][i], strict=True)]
            np.testing.assert_allclose(b[i], expected, rtol=1e-4)
            # this is not what the weights are there to change
            assert not np.allclose(expected, trace[-1].batch.returns(model.gamma).mean(), rtol=1e-3)


def test_without_a_step_it_is_the_return_itself():
    model = counterfactual_model(inner_lr=1e-9)
    rollout = rollout_of(model)
    _, found = found_by(model, rollout)
    returns = [[trace[-1].batch.returns(model.gamma).mean()] * 4 for trace in rollout.traces]
    np.testing.assert_allclose(found.baselines[0], returns, rtol=1e-5)
    np.testing.assert_allclose(found.effective_sample_size, 1)


def test_threads_and_one_after_another_agree_to_the_bit():
    model = counterfactual_model(n_inner_steps=2)
    rollout = rollout_of(model)
    with single_threaded():  # as in training: rounding depends on the number of threads of BLAS
        _, alone = found_by(model, rollout)
    with thread_pool(3) as pool:
        _, together = found_by(model, rollout, pool)
    np.testing.assert_array_equal(np.stack(alone.baselines), np.stack(together.baselines))
    np.testing.assert_array_equal(alone.effective_sample_size, together.effective_sample_size)


def test_effective_sample_size():
    assert effective_sample_size(np.full((2, 3), -5.0)) == 1
    assert effective_sample_size(np.log([3.0, 1.0])) == pytest.approx(16 / 20)
    # as many as are not zero, whatever their size
    assert effective_sample_size(np.array([1000.0, -np.inf, 1000.0, -5000.0])) == 0.5
    assert effective_sample_size(np.array([-1e30, -np.inf, np.nan, -2e30])) == 0.25
    assert effective_sample_size(np.array([-np.inf, np.nan])) == 0


@pytest.mark.parametrize(("n_tasks", "used"), [(3, 0), (1, 1)])
@pytest.mark.parametrize("n_inner_steps", [1, 2])
def test_weights_that_collapse_are_reported_and_never_nan(n_tasks, used, n_inner_steps):
    """Actions that are all but certain, and steps that move them far: no episode is likely without one of the others."""
    settings = {"inner_lr": 0.5, "policy_kwargs": {"log_std_init": -6.0}, "meta_batch_size": n_tasks}
    model = counterfactual_model(n_inner_steps=n_inner_steps, control_variate_scaling=True, **settings)
    rollout = rollout_of(model)
    model.train(rollout)
    logged = model.logger.name_to_value
    assert 0 <= logged["train/effective_sample_size"] < 0.5
    # a single task has no others to be warned by
    assert logged["train/counterfactual_fraction"] == used
    otherwise, found = found_by(model, rollout, minimum=0.5)
    assert np.isfinite(np.stack(found.baselines)).all()
    if not used:
        np.testing.assert_array_equal(np.stack(found.baselines), np.stack(otherwise))
    assert all(np.isfinite(value).all() for value in state(model).values())


def test_parameters_beyond_floating_point_are_not_used(monkeypatch):
    """A standard deviation of zero has no likelihood."""
    model = counterfactual_model()
    rollout = rollout_of(model)

    def without_spread(*arguments):
        found = leave_one_out_parameters(*arguments)
        found[1]["log_std"] = found[1]["log_std"] - 1e4
        return found

    _, before = found_by(model, rollout)
    monkeypatch.setattr("sb3_sgmrl.score_terms.counterfactual.leave_one_out_parameters", without_spread)
    otherwise, found = found_by(model, rollout)
    np.testing.assert_array_equal(found.baselines[0][:, 1], otherwise[0][:, 1])
    np.testing.assert_array_equal(found.baselines[0][:, [0, 2, 3]], before.baselines[0][:, [0, 2, 3]])
    assert (found.effective_sample_size <= 0.75).all()


def test_what_is_logged():
    model = counterfactual_model(control_variate_scaling=True)
    scales = []
    for _ in range(2):
        rollout = rollout_of(model)
        _, found = found_by(model, rollout, minimum=MIN_EFFECTIVE_SAMPLE_SIZE)
        model.train(rollout)
        logged = model.logger.name_to_value
        assert logged["train/effective_sample_size"] == pytest.approx(found.effective_sample_size.mean())
        assert logged["train/counterfactual_fraction"] == found.used.mean()
        scales.append(logged["train/control_variate_scale"])
    assert scales[0] == 1 and scales[1] != 1
    plain = tiny(SGMRL, point_vec(3)).learn(1).logger.name_to_value
    assert not {"effective_sample_size", "counterfactual_fraction", "control_variate_scale"} & {
        name.removeprefix("train/") for name in plain
    }


def test_scaling_changes_the_second_iteration():
    """The first has no earlier ones."""
    models = [counterfactual_model(control_variate_scaling=scaled) for scaled in (False, True)]
    first = [state(model.learn(1)) for model in models]
    assert_same(*first)
    second = [state(model.learn(1, reset_num_timesteps=False)) for model in models]
    assert not all(np.array_equal(second[0][name], second[1][name]) for name in second[0])

"""Reptile: a part of the way to the adapted parameters."""

import pytest
import torch as th
from bad_input_tools import refuses, witness
from toys import SAMPLES, assert_same, differ, point_vec, rollout_of, state, tiny, vector

from sb3_sgmrl import MAML, Reptile
from sb3_sgmrl.gradient.inner import WeightedSamples, policy_gradient


@pytest.mark.parametrize("n_inner_steps", [1, 3])
@pytest.mark.parametrize("fraction", [0.25, 1.0])
def test_the_parameters_move_a_part_of_the_way(n_inner_steps, fraction):
    model = tiny(Reptile, point_vec(3), learning_rate=fraction, n_inner_steps=n_inner_steps)
    rollout, before = rollout_of(model), model.functional.parameters()
    assert all(len(trace) == n_inner_steps + 1 for trace in rollout.traces)
    model.train(rollout)
    after = model.functional.parameters()
    for name, value in before.items():
        mean = th.stack([trace[-1].parameters[name] for trace in rollout.traces]).mean(0)
        th.testing.assert_close(after[name], (1 - fraction) * value + fraction * mean, rtol=1e-5, atol=1e-6)


def test_after_one_step_it_is_the_policy_gradient_of_all_tasks():
    """The closed form: one step with fresh episodes learns what joint training does."""
    model = tiny(Reptile, point_vec(3), n_inner_steps=1)
    rollout = rollout_of(model)
    policy, gradients = model.functional, []
    for first, _ in rollout.traces:
        samples = WeightedSamples.make(policy, first.batch, first.weighted.weights)
        gradients.append(vector(policy_gradient(policy, policy.parameters(), samples)))
    expected = model.inner_lr * th.stack(gradients).mean(0)
    th.testing.assert_close(vector(model.meta_gradient(rollout).gradient), expected, rtol=1e-3, atol=1e-6)


def test_the_episodes_after_adaptation_are_for_the_log_alone():
    one, few = (tiny(Reptile, point_vec(3), n_outer_episodes=n) for n in (None, 1))
    assert_same(*(state(model.learn(1)) for model in (one, few)))
    assert (one.num_timesteps, few.num_timesteps) == (2 * SAMPLES, 2 * SAMPLES * 13 // 16)
    rollout_of(few)
    assert "rollout/ep_rew_mean_post" in few.logger.name_to_value


def test_a_schedule_ends_at_zero():
    model = tiny(Reptile, point_vec(3), learning_rate=lambda remaining: remaining).learn(2 * SAMPLES)
    before = state(model)
    model.learn(1)  # overshoots, with nothing remaining
    assert model.policy.optimizer.param_groups[0]["lr"] == 0
    assert not differ(before, state(model))


def test_it_differs_from_first_order_maml():
    models = [tiny(Reptile, point_vec(3), n_inner_steps=2), tiny(MAML, point_vec(3), n_inner_steps=2, first_order=True)]
    one, other = (vector(model.meta_gradient(rollout_of(model)).gradient) for model in models)
    assert float(th.nn.functional.cosine_similarity(one, other, 0)) < 0.99


def test_displacements_that_are_not_finite_change_nothing():
    model = tiny(Reptile, point_vec(3))
    rollout, before = rollout_of(model), state(model)
    rollout.traces[0][-1].parameters["log_std"][:] = float("nan")
    with pytest.raises(ValueError, match="The meta-gradient is NaN or infinite"):
        model.train(rollout)
    assert_same(before, state(model))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 1.5}, r"`learning_rate` must lie in \[0, 1\], or be a function, got 1.5"),
        ({"learning_rate": "lin_1"}, r"`learning_rate` must lie in \[0, 1\]"),
        ({"baseline": "critic"}, "`baseline` must be 'linear' or 'none', got 'critic'"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    refuses(message, tiny, Reptile, witness(), **settings)


@pytest.mark.parametrize("name", ["inner_lr_learning_rate", "adapt_only", "first_order", "n_epochs", "max_grad_norm"])
def test_what_needs_a_meta_gradient_is_no_argument(name):
    with pytest.raises(TypeError, match=name):
        tiny(Reptile, point_vec(1), **{name: 1})

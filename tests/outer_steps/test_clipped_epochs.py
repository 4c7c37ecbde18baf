"""Several epochs on the episodes of a meta-iteration, as ``train`` runs them."""

import numpy as np
import pytest
import torch as th
from toys import SAMPLES, assert_same, differ, point_vec, rollout_of, state, tiny

from sb3_sgmrl import EMAML, MAML, SGMRL


def trained(algorithm, **kwargs):
    model = tiny(algorithm, point_vec(3), **kwargs)
    rollout = rollout_of(model)
    model.train(rollout)
    return model


@pytest.mark.parametrize("algorithm", [SGMRL, MAML, EMAML])
def test_the_first_epoch_is_the_step_of_one_epoch_to_the_bit(algorithm, monkeypatch):
    settings = {"score_coef": 1.0} if algorithm is SGMRL else {}
    one = trained(algorithm, n_epochs=1, **settings)
    # epochs that end before their second step
    stopped = trained(algorithm, n_epochs=5, target_kl=1e-12, **settings)
    assert stopped.logger.name_to_value["train/n_epochs"] == 1
    assert_same(state(one), state(stopped))
    more = trained(algorithm, n_epochs=5, **settings)
    assert differ(state(one), state(more)) == set(one.functional.adapted_names)
    assert more.logger.name_to_value["train/n_epochs"] == 5


def test_epochs_are_logged_by_the_names_of_sb3():
    log = trained(SGMRL, score_coef=1.0, n_epochs=3, learning_rate=0.05, clip_range=0.1).logger.name_to_value
    assert log["train/n_epochs"] == 3
    assert 0 < log["train/clip_fraction"] <= 1
    assert log["train/approx_kl"] > 0 and log["train/inner_approx_kl"] > 0


def test_threads_make_no_difference():
    states = [state(trained(SGMRL, score_coef=1.0, n_epochs=4, n_threads=n, n_inner_steps=2)) for n in (1, 3)]
    assert_same(*states)


def test_epochs_raise_the_surrogate_further():
    """On the same episodes more small steps lead further along the gradient than one."""
    one, five = (trained(MAML, n_epochs=n, learning_rate=1e-3) for n in (1, 5))
    start = tiny(MAML, point_vec(3))
    gradient = start.meta_gradient(rollout_of(start)).gradient
    products = []
    for model in (one, five):
        new, old = state(model), state(start)
        products.append(sum(float(((new[name] - old[name]) * gradient[name].numpy()).sum()) for name in gradient))
    assert 0 < 3 * products[0] < products[1]


def test_a_clip_range_may_be_a_schedule():
    seen = []

    def schedule(remaining):
        seen.append(remaining)
        return 0.2

    model = tiny(MAML, point_vec(3), n_epochs=2, clip_range=schedule).learn(2 * SAMPLES)
    assert seen and all(0 <= remaining <= 1 for remaining in seen)
    assert np.isfinite(model.logger.name_to_value.get("train/approx_kl", 0.0))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"n_epochs": 0}, "`n_epochs` must be a positive integer, got 0"),
        ({"n_epochs": 2.5}, "`n_epochs` must be a positive integer, got 2.5"),
        ({"clip_range": 0.0}, "`clip_range` must be positive and finite, or a function, got 0.0"),
        ({"clip_range": "wide"}, "`clip_range` must be positive and finite, or a function, got 'wide'"),
        ({"target_kl": -1.0}, "`target_kl` must be positive and finite, or None for no limit, got -1.0"),
        ({"n_epochs": 2, "inner_surrogate": "dice"}, "`n_epochs` must be 1 with `inner_surrogate='dice'`, .* got 2"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny(MAML, point_vec(1), **settings)


def test_gradients_that_are_not_finite_change_nothing(monkeypatch):
    model = tiny(MAML, point_vec(3), n_epochs=3)
    rollout, before = rollout_of(model), state(model)
    phase = rollout.traces[0][-1]
    phase.weighted.weights[:] = float("nan")
    with pytest.raises(ValueError, match="The meta-gradient is NaN or infinite"):
        model.train(rollout)
    assert_same(before, state(model))
    assert th.isfinite(next(model.policy.parameters())).all()

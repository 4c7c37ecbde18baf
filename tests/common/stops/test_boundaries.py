"""A model that is stopped or saved anywhere resumes as if nothing had happened."""

import copy

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize
from toys import HORIZON, SAMPLES, assert_same, point_vec, state, tiny

from sb3_sgmrl import MAML, SGMRL

TOTAL = 4 * SAMPLES
SETTINGS = {
    "sgmrl": (SGMRL, {}),
    "two steps": (SGMRL, {"n_inner_steps": 2, "score_coef": 1.0}),
    "critic": (SGMRL, {"baseline": "critic"}),
    "step sizes": (MAML, {"inner_lr_learning_rate": 0.1}),
    "scaled": (SGMRL, {"control_variate": "task_regression", "control_variate_scaling": True}),
    "schedule": (MAML, {"learning_rate": lambda remaining: 1e-2 * (0.1 + remaining)}),
    "epochs": (SGMRL, {"n_epochs": 3}),
}


class StopAt(BaseCallback):
    """Stops, raises or saves at the n-th step of the workers."""

    def __init__(self, n, how, path=None):
        super().__init__()
        self.n, self.how, self.path = n, how, path

    def _on_step(self):
        if self.n_calls == self.n:
            if self.how == "save":
                self.model.save(self.path)
            elif self.how == "stop":
                return False
            else:
                raise self.how("stop")
        return True


def made(name, normalized=False):
    algorithm, settings = SETTINGS[name]
    env = point_vec(3)
    return tiny(algorithm, VecNormalize(env) if normalized else env, **settings)


def counters(model):
    statistics = {}
    if (normalizer := model.get_vec_normalize_env()) is not None:
        statistics = {"mean": normalizer.obs_rms.mean, "var": normalizer.obs_rms.var, "ret": normalizer.ret_rms.var}
    numbers = {"steps": model.num_timesteps, "iteration": model._iteration, "updates": model._n_updates}
    returns = np.array([info["r"] for info in model.ep_info_buffer])
    return {**statistics, **{name: np.array(value) for name, value in numbers.items()}, "returns": returns}


def finish(model, total=TOTAL):
    return model.learn(total - model.num_timesteps, reset_num_timesteps=False)


@pytest.fixture(scope="module")
def uninterrupted():
    cache = {}

    def of(name, normalized=False):
        if (name, normalized) not in cache:
            model = finish(made(name, normalized))
            cache[name, normalized] = state(model), counters(model)
        return cache[name, normalized]

    return of


@pytest.mark.parametrize("how", ["stop", KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("n", [1, HORIZON * 8 + 3, HORIZON * 20])
def test_a_stop_in_the_middle_is_forgotten(uninterrupted, n, normalized, how):
    model = made("sgmrl", normalized)
    if how == "stop":
        model.learn(TOTAL, StopAt(n, how), reset_num_timesteps=False)
    else:
        with pytest.raises(how, match="stop"):
            model.learn(TOTAL, StopAt(n, how), reset_num_timesteps=False)
    assert model.num_timesteps % SAMPLES == 0 and model._iteration == model.num_timesteps // SAMPLES
    finish(model)
    parameters, counted = uninterrupted("sgmrl", normalized)
    assert_same(state(model), parameters)
    assert_same(counters(model), counted)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "schedule"])
def test_a_model_saved_in_the_middle_resumes_exactly(uninterrupted, name, tmp_path):
    model = made(name)
    n_steps = (model.n_inner_steps + 1) * HORIZON * 4  # of an iteration on three workers
    model.learn(TOTAL, StopAt(n_steps + n_steps // 2, "save", tmp_path / "model"), reset_num_timesteps=False)
    parameters, counted = uninterrupted(name)
    assert_same(state(model), parameters)  # saving changed nothing
    loaded = type(model).load(tmp_path / "model", env=point_vec(3))
    assert loaded._iteration == 1 and loaded.num_timesteps < model.num_timesteps
    finish(loaded)
    assert_same(state(loaded), parameters)
    assert_same(counters(loaded), counted)


@pytest.mark.parametrize("normalized", [False, True])
def test_a_copy_made_in_the_middle_is_a_model_by_itself(uninterrupted, normalized, tmp_path):
    copies = []

    class Copy(BaseCallback):
        def _on_step(self):
            if self.n_calls == HORIZON * 4 * 3:
                copies.append(copy.deepcopy(self.model))
            return True

    model = made("sgmrl", normalized).learn(TOTAL, Copy(), reset_num_timesteps=False)
    assert_same(state(model), uninterrupted("sgmrl", normalized)[0])
    (copied,) = copies
    other = copy.deepcopy(copied)
    with th.no_grad():
        other.policy.log_std.fill_(-1.0)
    other.save(tmp_path / "model")
    assert (SGMRL.load(tmp_path / "model").policy.log_std == -1.0).all()
    assert copied.num_timesteps == SAMPLES
    finish(copied)
    for found, expected in zip((state(copied), counters(copied)), uninterrupted("sgmrl", normalized), strict=True):
        assert_same(found, expected)


FIT = "sb3_sgmrl.common.meta_algorithm.fit_critic"


@pytest.mark.parametrize(
    "name, where",
    [
        ("critic", FIT),
        *((name, where) for name in ("critic", "step sizes", "sgmrl", "epochs") for where in ("observe", "optimizer")),
    ],
)
def test_an_update_that_is_interrupted_is_undone(uninterrupted, name, where, monkeypatch):
    model = made(name)
    finish(model, SAMPLES)
    before, counted = state(model), counters(model)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if where == "optimizer":
            step = model.policy.optimizer.step
            patched.setattr(model.policy.optimizer, "step", lambda *args: (step(*args), interrupt()))
        elif where == "observe":
            patched.setattr(model, "observe", interrupt)
        else:
            patched.setattr(where, interrupt)
        with pytest.raises(KeyboardInterrupt):
            finish(model)
    assert_same(state(model), before)
    assert_same(counters(model), counted)
    finish(model)
    assert_same(state(model), uninterrupted(name)[0])


def test_a_schedule_goes_on_where_it_was_within_one_call(tmp_path):
    """The remaining progress is a part of the state at the boundary."""
    model = made("schedule")
    model.learn(TOTAL, StopAt(HORIZON * 8 + 2, "save", tmp_path / "model"), reset_num_timesteps=False)
    loaded = MAML.load(tmp_path / "model", env=point_vec(3))
    assert loaded._current_progress_remaining == 1 - SAMPLES / TOTAL

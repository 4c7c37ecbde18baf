"""What is saved, copied or played with a model, or set on it, besides its arguments and parameters."""

import copy
import dataclasses
import re

import pytest
import torch as th
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize
from torch import nn
from toys import SAMPLES, assert_same, point, point_vec, state, tiny

from sb3_sgmrl import MAML, SGMRL, evaluate_adaptation
from sb3_sgmrl.common.files.model_file import write_model
from sb3_sgmrl.common.saving import read_file


def frozen_of(model):
    return {name for name, parameter in model.policy.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize("names", [{"log_std"}, {"action_net.weight", "value_net.bias"}])
@pytest.mark.parametrize("settings", [{}, {"inner_lr_learning_rate": 0.1}])
def test_frozen_parameters_are_frozen_after_load(names, settings, tmp_path):
    model = tiny(SGMRL, point(), **settings).learn(SAMPLES)
    for name, parameter in model.policy.named_parameters():
        parameter.requires_grad_(name not in names)
    model.save(tmp_path / "model")
    loaded = SGMRL.load(tmp_path / "model", env=point())
    assert frozen_of(loaded) == names
    for one in (model, loaded):
        one.learn(SAMPLES, reset_num_timesteps=False)
    assert_same(state(loaded), state(model))


def test_parameters_that_a_policy_class_freezes_can_be_trained_after_load(tmp_path):
    model = tiny(MAML, point()).learn(1)
    model.policy.log_std.requires_grad_(False)
    model.save(tmp_path / "model")
    model = MAML.load(tmp_path / "model", env=point())
    model.policy.requires_grad_(True)
    model.save(tmp_path / "model")
    assert frozen_of(MAML.load(tmp_path / "model")) == set()


@pytest.mark.parametrize("change", ["activation", "dropped", "added"])
def test_a_network_that_load_cannot_rebuild_is_refused(change, tmp_path):
    model = tiny(MAML, point())
    layers = model.policy.mlp_extractor.policy_net
    if change == "activation":
        layers[1] = nn.ReLU()
    elif change == "dropped":
        layers[1] = nn.Sequential()
    else:
        layers.append(nn.Softsign())
    model.learn(1)
    model.save(tmp_path / "model")
    match = "`path` .* holds a network that was changed after construction, with .* in `mlp_extractor.policy_net"
    with pytest.raises(ValueError, match=match):
        MAML.load(tmp_path / "model")


@pytest.mark.parametrize("wrong", [3, {}, {"frozen": ["other"], "leaves": None}, {"frozen": 3, "leaves": {}}])
def test_a_damaged_description_is_refused(wrong, tmp_path):
    tiny(MAML, point()).save(tmp_path / "model")
    file = read_file(tmp_path / "model")
    right = file.settings["network"]
    wrong = {**wrong, "leaves": right["leaves"]} if isinstance(wrong, dict) and "frozen" in wrong else wrong
    with open(tmp_path / "wrong.zip", "wb") as opened:
        write_model(opened, dataclasses.replace(file, settings={**file.settings, "network": wrong}))
    with pytest.raises(ValueError, match=r"`path` .* in `network`"):
        MAML.load(tmp_path / "wrong.zip")


def test_files_without_a_description_load(tmp_path):
    model = tiny(MAML, point())
    model.save(tmp_path / "model", exclude=["network"])
    assert "network" not in read_file(tmp_path / "model").settings
    assert_same(state(MAML.load(tmp_path / "model")), state(model))


def test_a_policy_in_another_class_is_refused():
    model = tiny(MAML, point())
    model.policy = th.compile(model.policy, backend="eager")
    with pytest.raises(ValueError, match="`policy` must be an ActorCriticPolicy, got OptimizedModule"):
        model.learn(1)


@pytest.mark.parametrize(
    "name, meant", [("innner_lr", "inner_lr"), ("learning_rates", "learning_rate"), ("n_epoch", "n_epochs")]
)
def test_a_misspelt_attribute_is_refused(name, meant):
    model = tiny(MAML, point())
    with pytest.raises(ValueError, match=f"`{name}` is no attribute of a model: did you mean `{meant}`"):
        setattr(model, name, 0.5)
    model.my_notes = "kept"


def test_statistics_of_an_assigned_environment_are_saved(tmp_path):
    model = tiny(MAML, point_vec(2))
    model.env = VecNormalize(model.env)
    model.learn(1)
    model.save(tmp_path / "model")
    assert read_file(tmp_path / "model").statistics is not None


def test_a_model_of_raw_observations_is_not_played_on_normalised_ones():
    model = tiny(MAML, point_vec(2))
    with pytest.raises(ValueError, match=re.escape("`env` must not be in a VecNormalize with norm_obs=True")):
        evaluate_adaptation(model, VecNormalize(point_vec(2)), n_tasks=2)
    evaluate_adaptation(model, VecNormalize(point_vec(2), norm_obs=False), n_tasks=2, n_steps=1, n_episodes=1)


WRAPPERS = {
    "normalize": VecNormalize,
    "stack": lambda env: VecFrameStack(env, 2),
    "both": lambda env: VecFrameStack(VecNormalize(env), 2),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_copy_of_a_copy_has_wrappers_of_its_own(name):
    model = tiny(MAML, WRAPPERS[name](point_vec(2))).learn(1)
    before, copied = state(model), copy.deepcopy(copy.deepcopy(model))
    assert copied.env is not model.env and type(copied.env) is type(model.env)
    if name != "stack":
        assert copied.get_vec_normalize_env() is not model.get_vec_normalize_env()
    copied.learn(SAMPLES, reset_num_timesteps=False)
    assert_same(state(model), before)
    assert_same(state(model.learn(SAMPLES, reset_num_timesteps=False)), state(copied))


def test_a_copy_of_a_loaded_model_has_its_statistics(tmp_path):
    tiny(MAML, VecNormalize(point_vec(2))).learn(1).save(tmp_path / "model")
    copied = copy.deepcopy(MAML.load(tmp_path / "model"))
    copied.set_env(point_vec(2))
    assert_same(state(copied.learn(1)), state(MAML.load(tmp_path / "model", env=point_vec(2)).learn(1)))

"""The file of a model is data: what goes in comes back to the bit, and nothing in it is run."""

import json
import pathlib
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch as th
from alteration_tools import loaded, members_of, saved
from gymnasium import spaces
from safetensors import torch as safetensors
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from toys import ACTIONS, ALGORITHMS, OBSERVATIONS, LinearExtractor, SmallCnn, assert_same, point_vec, rotated, state, tiny

import sb3_sgmrl
from sb3_sgmrl import MAML, SGMRL, TaskDistEnv, evaluate_adaptation, register
from sb3_sgmrl.common.files.encoding import Decoder, Encoder
from sb3_sgmrl.score_terms.refitted import Linearized

POLICIES = {"image": "CnnPolicy", "dict": "MultiInputPolicy"}


def goes_on(model, content, env):
    """One more iteration of the model and of what is loaded gives the same to the bit, with all that is saved."""
    other = loaded(content, type(model), env=env)
    assert_same(state(model), state(other))
    for one in (model, other):
        one.learn(1, reset_num_timesteps=False)
    assert_same(state(model), state(other))
    mine, others = members_of(saved(model)), members_of(saved(other))
    assert mine.keys() == others.keys()
    for name in mine.keys() - {"manifest.json", "data.json", "data.safetensors"}:
        assert mine[name] == others[name], name
    return other


# --------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize(("action", "observation"), rotated(ACTIONS, OBSERVATIONS))
def test_every_space_and_policy(observation, action):
    extractor = {"features_extractor_class": SmallCnn} if observation == "image" else {}
    policy, spaces_ = POLICIES.get(observation, "MlpPolicy"), {"observation": observation, "action": action}
    arguments = {"policy_kwargs": extractor} if extractor else {}
    if observation == "dict":
        arguments = {"policy_kwargs": {"features_extractor_kwargs": {"cnn_output_dim": 4}}}
    model = tiny(SGMRL, point_vec(2, **spaces_), policy, **arguments).learn(1)
    other = goes_on(model, saved(model), point_vec(2, **spaces_))
    assert other.observation_space == model.observation_space and other.action_space == model.action_space


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_normalised_observations(algorithm):
    model = tiny(algorithm, VecNormalize(point_vec(3), clip_obs=4.0, gamma=0.9)).learn(1)
    other = goes_on(model, saved(model), point_vec(3))
    assert isinstance(other.env, VecNormalize) and (other.env.clip_obs, other.env.gamma) == (4.0, 0.9)
    assert_same(vars(model.env.obs_rms), vars(other.env.obs_rms))
    assert_same(vars(model.env.ret_rms), vars(other.env.ret_rms))


@register
def half(remaining):
    return 0.5 * remaining


@register
class Cosine:
    """A schedule that is an object."""

    def __init__(self, initial):
        self.initial = initial

    def __call__(self, remaining):
        return self.initial * np.sin(remaining * np.pi / 2)


SCHEDULES = {
    "number": 0.1,
    "constant": ConstantSchedule(0.1),
    "linear": LinearSchedule(0.2, 0.1, 0.5),
    "nested": FloatSchedule(LinearSchedule(0.2, 0.1, 0.5)),
    "function": half,
    "object": Cosine(0.3),
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules(kind):
    model = tiny(MAML, point_vec(2), learning_rate=SCHEDULES[kind]).learn(200)
    other = goes_on(model, saved(model), point_vec(2))
    for remaining in (1.0, 0.7, 0.2, 0.0):
        assert model.lr_schedule(remaining) == other.lr_schedule(remaining)


def test_a_schedule_that_only_the_program_knows_plays_and_says_what_training_needs(tmp_path):
    model = tiny(SGMRL, point_vec(2), learning_rate=lambda remaining: 0.3 * remaining).learn(1)
    model.save(tmp_path / "model")
    other = SGMRL.load(tmp_path / "model", env=point_vec(2))
    assert evaluate_adaptation(other, n_tasks=2, n_steps=1).returns.shape == (2, 2)
    with pytest.raises(ValueError, match=r"^`learning_rate` was the function .*<lambda>, .*custom_objects={'learning_rate'"):
        other.learn(1)
    given = SGMRL.load(tmp_path / "model", env=point_vec(2), custom_objects={"learning_rate": lambda r: 0.3 * r})
    for one in (model, given):
        one.learn(1, reset_num_timesteps=False)
    assert_same(state(model), state(given))
    other.save(tmp_path / "again")
    assert "<lambda>" in str(SGMRL.load(tmp_path / "again").learning_rate)


class Unknown(LinearExtractor):
    """An extractor that nobody registered."""


def test_a_class_that_is_not_registered_is_named_and_not_imported(tmp_path):
    model = tiny(SGMRL, point_vec(2), policy_kwargs={"features_extractor_class": Unknown}).learn(1)
    model.save(tmp_path / "model")
    words = r"^`path` .*model needs the class or function test_model_file.Unknown for `policy_kwargs.features_extractor_class`"
    with pytest.raises(ValueError, match=words) as caught:
        SGMRL.load(tmp_path / "model")
    assert "sb3_sgmrl.register(Unknown)" in str(caught.value) and "custom_objects={'policy_kwargs'" in str(caught.value)
    other = SGMRL.load(tmp_path / "model", env=point_vec(2), custom_objects={"policy_kwargs": model.policy_kwargs})
    for one in (model, other):
        one.learn(1, reset_num_timesteps=False)
    assert_same(state(model), state(other))


def test_register():
    assert register(half) is half and register(LinearExtractor) is LinearExtractor

    def inner():
        pass

    with pytest.raises(ValueError, match=r"`name` must be given for .*inner"):
        register(inner)
    assert register(inner, "mine.inner") is inner
    with pytest.raises(ValueError, match="`named` must be a class or a function, got 3"):
        register(3)
    with pytest.raises(ValueError, match=r"`name` must be new, but mine.inner is"):
        register(half, "mine.inner")
    with pytest.raises(ValueError, match=r"`name` must be new, but torch.nn.ReLU is"):
        register(half, "torch.nn.ReLU")


def test_a_score_term_as_an_object():
    model = tiny(SGMRL, point_vec(2), control_variate=Linearized()).learn(1)
    goes_on(model, saved(model), point_vec(2))


def test_get_and_set_parameters_from_files(tmp_path):
    model = tiny(SGMRL, point_vec(2), inner_lr_learning_rate=0.2).learn(1)
    model.save(tmp_path / "model")
    other = tiny(SGMRL, point_vec(2), inner_lr_learning_rate=0.2, seed=4)
    other.set_parameters(tmp_path / "model")
    assert_same(state(model), state(other))
    assert model.inner_lr_by_parameter() == other.inner_lr_by_parameter()
    other = tiny(SGMRL, point_vec(2), inner_lr_learning_rate=0.2, seed=4)
    other.set_parameters(model.get_parameters())
    assert_same(state(model), state(other))
    smaller = tiny(SGMRL, point_vec(2), inner_lr_learning_rate=0.2, policy_kwargs={"net_arch": [3]})
    before = state(smaller)
    with pytest.raises(ValueError, match=r"`path` .*model.zip holds shape \(5, 3\) in `mlp_extractor"):
        smaller.set_parameters(str(tmp_path / "model.zip"))
    assert_same(before, state(smaller))


def test_attributes_of_the_user_go_along():
    model = tiny(SGMRL, point_vec(2))
    given = {"text": "ä\n", "tuple": (1, [2.5, None]), "dict": {3: "x", "@": 1}, "big": 10**40, "inf": float("inf")}
    given |= {"many": [{"a": 1.5}] * 2, "empty": [[], {}, ()]}
    given |= {"path": pathlib.Path("a/b"), "dtype": np.dtype("int16"), "torch": th.float64, "np": np.float32(0.1)}
    model.own = given
    model.arrays = [np.arange(3.0), np.ones(3)]
    model.array, model.tensor = np.arange(6, dtype=np.uint16).reshape(2, 3), th.tensor(2.5)
    other = loaded(saved(model))
    assert other.own == given and type(other.own["tuple"]) is tuple and type(other.own["np"]) is np.float32
    assert_same({"": model.array}, {"": other.array})
    assert_same(dict(enumerate(model.arrays)), dict(enumerate(other.arrays)))
    assert other.array.dtype == np.uint16 and th.equal(other.tensor, model.tensor)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.array([1.0, 2.0], np.float32), (2,), np.float32),
        spaces.Box(0, 255, (2, 2, 3), np.uint8),
        spaces.Discrete(4, start=-2),
        spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [0, 1]]),
        spaces.MultiBinary([2, 3]),
        spaces.Dict(b=spaces.Discrete(2), a=spaces.MultiBinary(3)),
    ],
)
def test_spaces_come_back(space):
    encoder = Encoder()
    said = json.loads(json.dumps(encoder.encode(space, "space")))
    back = Decoder(safetensors.load(safetensors.save({k: v.clone() for k, v in encoder.tensors.items()}))).decode(
        said, "space"
    )
    assert back == space and type(back) is type(space) and back.dtype == space.dtype


def test_equal_models_are_equal_files_without_facts_of_the_machine():
    model = tiny(SGMRL, point_vec(2)).learn(1)
    content = saved(model)
    assert content == saved(model)
    facts = json.loads(members_of(content)["manifest.json"])
    assert facts.keys() == {"format", "format_version", "algorithm", "settings", "left_out", "needs", "versions", "members"}
    assert facts["versions"]["sb3_sgmrl"] == sb3_sgmrl.__version__ and facts["needs"]["vec_normalize"] is False


# --------------------------------------------------------------------------------------------------------- VecNormalize


@pytest.fixture(scope="module")
def normalised():
    model = tiny(SGMRL, VecNormalize(point_vec(2))).learn(1)
    return model, saved(model)


def test_without_an_environment_it_still_normalises(normalised):
    model, content = normalised
    other = loaded(content)
    observation = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(*(m.get_vec_normalize_env().normalize_obs(observation) for m in (model, other)))
    for env in (point_vec(2), VecNormalize(point_vec(2))):
        with pytest.raises(ValueError, match="`env` must be in a VecNormalize"):
            evaluate_adaptation(other, env, n_tasks=2)
    other.set_env(point_vec(2))
    assert_same(vars(model.env.obs_rms), vars(other.env.obs_rms))
    assert saved(other).count(b"vec_normalize.safetensors") == saved(model).count(b"vec_normalize.safetensors")


def test_a_checkpoint_has_its_own_statistics(tmp_path):
    env = VecNormalize(point_vec(2))
    callback = CheckpointCallback(1, str(tmp_path))
    model = tiny(SGMRL, env).learn(300, callback)
    first, *_, last = sorted(tmp_path.glob("*.zip"), key=lambda path: int(path.stem.split("_")[-2]))
    counts = [SGMRL.load(path).get_vec_normalize_env().obs_rms.count for path in (first, last)]
    assert counts[0] < counts[1] < env.obs_rms.count
    model.save(tmp_path / "end")
    assert SGMRL.load(tmp_path / "end").get_vec_normalize_env().obs_rms.count == env.obs_rms.count


def test_workers_that_are_made_from_an_id_are_normalised_as_in_training():
    env = VecNormalize(make_vec_env(lambda: TaskDistEnv("Navigation2D-v0"), 2))
    model = SGMRL("MlpPolicy", env, meta_batch_size=2, n_episodes=2, seed=0, device="cpu").learn(1)
    env.training = False
    expected = evaluate_adaptation(model, n_tasks=2, n_steps=1).returns
    other = loaded(saved(model))
    for _ in range(2):
        np.testing.assert_allclose(evaluate_adaptation(other, "Navigation2D-v0", n_tasks=2, n_steps=1).returns, expected)


def test_a_new_vec_normalize_gets_the_statistics_and_another_is_refused(normalised):
    model, content = normalised
    env = VecNormalize(point_vec(2))
    assert_same(vars(loaded(content, env=env).env.obs_rms), vars(model.env.obs_rms))
    assert_same(vars(loaded(content, env=env).env.obs_rms), vars(model.env.obs_rms))  # those it has now
    before = env.obs_rms.mean.copy()
    env.obs_rms.update(np.ones((5, 3)))
    with pytest.raises(ValueError, match="VecNormalize with other statistics"):
        loaded(content, env=env)
    assert (env.obs_rms.mean != before).any()
    with pytest.raises(ValueError, match=r"VecNormalize with clip_obs=3.0, and the model was trained with 10.0"):
        loaded(content, env=VecNormalize(point_vec(2), clip_obs=3.0))


@pytest.mark.parametrize("has_env", [True, False])
def test_no_environment_is_played_with_other_statistics(normalised, has_env):
    model = loaded(normalised[1], env=VecNormalize(point_vec(2)) if has_env else None)
    env = VecNormalize(point_vec(2))
    with pytest.raises(ValueError, match="statistics of training, but its VecNormalize has seen nothing yet"):
        evaluate_adaptation(model, env, n_tasks=2)
    env.obs_rms.update(np.ones((5, 3)))
    for play in (partial(evaluate_adaptation, model, env, n_tasks=2), partial(model.adapt, env)):
        with pytest.raises(ValueError, match="statistics of training, but its VecNormalize has others"):
            play()
    with pytest.raises(ValueError, match="VecNormalize with other statistics"):
        model.set_env(env)
    env.obs_rms = deepcopy(model.get_vec_normalize_env().obs_rms)
    evaluate_adaptation(model, env, n_tasks=2)
    env.clip_obs = 3.0
    with pytest.raises(ValueError, match="clip_obs and epsilon of training"):
        evaluate_adaptation(model, env, n_tasks=2)
    for given in (point_vec(2), VecNormalize(point_vec(2))):
        statistics = vars(model.get_vec_normalize_env().obs_rms)
        model.set_env(given)
        assert_same(vars(model.env.obs_rms), statistics)


@pytest.mark.parametrize(("name", "value"), [("action_noise", {}), ("action_noise", 0.5), ("use_sde", True)])
def test_attributes_that_no_model_has_are_refused(tmp_path, name, value):
    model = tiny(SGMRL, point_vec(2))
    setattr(model, name, value)
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=f"in `{name}`, which no model of this package has"):
        SGMRL.load(tmp_path / "model")

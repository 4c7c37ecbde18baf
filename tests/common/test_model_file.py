"""The file of a model is data: what goes in comes back to the bit, and nothing in it is run."""

import base64
import io
import json
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
import torch as th
from alteration_tools import members_of, rehashed, with_json, with_tensors, zipped
from gymnasium import spaces
from safetensors import torch as safetensors
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from toys import ACTIONS, ALGORITHMS, OBSERVATIONS, LinearExtractor, SmallCnn, assert_same, point_vec, state, tiny

import sb3_sgmrl
from sb3_sgmrl import MAML, SGMRL, evaluate_adaptation, register
from sb3_sgmrl.common.files.encoding import Decoder, Encoder
from sb3_sgmrl.common.saving import read_file, saved_algorithm
from sb3_sgmrl.score_terms.refitted import Linearized

OLD = pathlib.Path(__file__).parents[1] / "files" / "format_0.zip"
FORMATS = sorted((pathlib.Path(__file__).parents[1] / "files").glob("format_[1-9]*.zip"))
POLICIES = {"image": "CnnPolicy", "dict": "MultiInputPolicy"}


def saved(model):
    file = io.BytesIO()
    model.save(file)
    return file.getvalue()


def loaded(content, algorithm=SGMRL, **kwargs):
    return algorithm.load(io.BytesIO(content), **kwargs)


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


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
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

    with pytest.raises(ValueError, match="`name` must be given for .*inner"):
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
    given |= {"path": pathlib.Path("a/b"), "dtype": np.dtype("int16"), "torch": th.float64, "np": np.float32(0.1)}
    model.own = given
    model.array, model.tensor = np.arange(6, dtype=np.uint16).reshape(2, 3), th.tensor(2.5)
    other = loaded(saved(model))
    assert other.own == given and type(other.own["tuple"]) is tuple and type(other.own["np"]) is np.float32
    assert_same({"": model.array}, {"": other.array})
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
    back = Decoder(safetensors.load(safetensors.save({k: v.clone() for k, v in encoder.tensors.items()}))).decode(said, "space")
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


# ---------------------------------------------------------------------------------------------- one sentence for each


@pytest.fixture(scope="module")
def content():
    arguments = {"control_variate": "counterfactual", "control_variate_scaling": True, "inner_lr_learning_rate": 0.3}
    return saved(tiny(SGMRL, VecNormalize(point_vec(2)), **arguments).learn(1))


def refuses(content, words, algorithm=SGMRL):
    with pytest.raises(ValueError, match=rf"^`path` .*{words}") as caught:
        loaded(content, algorithm)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def with_setting(content, name, value):
    members = members_of(with_json(content, "data", lambda said: said.update({name: value})))
    return rehashed(members, settings=sorted(json.loads(members["data.json"])))


def without_setting(content, name):
    members = members_of(with_json(content, "data", lambda said: said.pop(name) and None))
    return rehashed(members, settings=sorted(json.loads(members["data.json"])))


HUGE = {"@": "discrete", "n": 10**10, "start": 0, "dtype": {"@": "dtype", "name": "int64"}}
WEIGHT = "mlp_extractor.policy_net.0.weight"
ALTERED = {
    "later version": (lambda c: rehashed(members_of(c), format_version=2), "is of format version 2, .* reads up to 1"),
    "no version": (lambda c: rehashed(members_of(c), format_version="1"), "has no format version"),
    "another format": (lambda c: rehashed(members_of(c), format="a picture"), "is not a model of sb3_sgmrl"),
    "other facts": (lambda c: rehashed(members_of(c), more=1), "its manifest does not say what it must"),
    "missing tensor": (lambda c: with_tensors(c, "policy", lambda t: {k: v for k, v in t.items() if k != WEIGHT}), f"lacks the tensor {WEIGHT}"),
    "missing parameter": (
        lambda c: with_tensors(with_json(c, "policy", lambda j: j.pop(WEIGHT) and None), "policy", lambda t: {k: v for k, v in t.items() if k != WEIGHT}),
        f"lacks `{WEIGHT}` of policy",
    ),
    "additional tensor": (lambda c: with_tensors(c, "policy", lambda t: {**t, "x": th.ones(1)}), "holds a tensor x that does not belong"),
    "additional parameter": (lambda c: with_json(c, "policy", lambda j: {**j, "x": j[WEIGHT]}), "holds `x` in policy, which its network has not"),
    "dtype": (lambda c: with_tensors(c, "policy", lambda t: {**t, WEIGHT: t[WEIGHT].double()}), f"holds torch.float64 in `{WEIGHT}` of policy, which must be torch.float32"),
    "shape": (lambda c: with_tensors(c, "policy", lambda t: {**t, WEIGHT: t[WEIGHT].T.contiguous()}), rf"holds shape \(3, 5\) in `{WEIGHT}` of policy, which must be \(5, 3\)"),
    "NaN": (lambda c: with_tensors(c, "policy", lambda t: {**t, WEIGHT: t[WEIGHT] * th.nan}), f"holds NaN or infinite numbers in `{WEIGHT}`"),
    "NaN of Adam": (lambda c: with_tensors(c, "policy.optimizer", lambda t: {**t, "state.0.exp_avg": t["state.0.exp_avg"] * th.inf}), "infinite numbers in `exp_avg` of parameter 0 in policy.optimizer"),
    "state of Adam": (lambda c: with_json(c, "policy.optimizer", lambda j: j["state"]["items"][0][1].pop("step") and None), "holds"),
    "groups": (lambda c: with_json(c, "policy.optimizer", lambda j: j.update(param_groups=[])), "holds 0 groups of parameters"),
    "lr": (lambda c: with_json(c, "policy.optimizer", lambda j: j["param_groups"][0].update(lr="x")), "holds 'x' in `lr` of policy.optimizer"),
    "missing setting": (lambda c: with_json(c, "data", lambda j: j.pop("n_episodes") and None), "lacks `n_episodes`"),
    "additional setting": (lambda c: with_json(c, "data", lambda j: j.update(x=1)), "holds `x`, which its manifest does not list"),
    "no space": (lambda c: without_setting(c, "action_space"), "lacks `action_space`|does not belong"),
    "wrong setting": (lambda c: with_json(c, "data", lambda j: j.update(n_episodes=-3)), "`n_episodes` must be a positive integer, got -3"),
    "method": (lambda c: with_setting(c, "learn", "x"), "holds `learn`, which is not an attribute"),
    "counter": (lambda c: with_json(c, "data", lambda j: j.update(_iteration=-1)), "holds -1 in `_iteration`"),
    "class": (lambda c: with_json(c, "data", lambda j: j.update(policy_class={"@": "class", "name": "os.system"})), "needs the class or function os.system"),
    "large network": (lambda c: with_json(c, "data", lambda j: j.update(policy_kwargs={"net_arch": [10**5, 10**5]})), "much larger than its parameters|make no model"),
    "deep network": (lambda c: with_json(c, "data", lambda j: j.update(policy_kwargs={"net_arch": [1] * 10**5})), "much larger than its parameters|make no model"),
    "large space": (
        lambda c: with_tensors(
            with_json(c, "data", lambda j: j.update(action_space=HUGE)),
            "data",
            lambda t: {k: v for k, v in t.items() if not k.startswith("action_space")},
        ),
        "much larger than its parameters|make no model",
    ),
    "statistics": (lambda c: with_tensors(c, "vec_normalize", lambda t: {**t, "obs_rms.var": -t["obs_rms.var"]}), "wrong statistics of VecNormalize"),
    "step sizes": (lambda c: with_tensors(c, "step_sizes", lambda t: {"relative": t["relative"][1:].clone()}), r"holds shape \(4,\) in `relative` of step_sizes"),
    "no step sizes": (lambda c: rehashed({k: v for k, v in members_of(c).items() if not k.startswith("step_sizes")}), "lacks the parameters of step_sizes"),
    "other part": (lambda c: rehashed({**members_of(c), "x.json": b"{}", "x.safetensors": safetensors.save({})}), "holds parameters of x, which such a model has not"),
    "score weights": (lambda c: with_tensors(c, "data", lambda t: {k: v[..., :1].clone() if "_mean" in k else v for k, v in t.items()}), "holds a `_signal_weights` of another model"),
    "duplicate key": (lambda c: rehashed({**members_of(c), "data.json": b'{"a": 1, "a": 2}'}), "a key stands there twice"),
    "not finite": (lambda c: rehashed({**members_of(c), "data.json": b'{"a": NaN}'}), "NaN is not a number"),
    "deep": (lambda c: rehashed({**members_of(c), "data.json": b"[" * 10**5 + b"]" * 10**5}), "holds no JSON in data.json"),
    "hash": (lambda c: zipped({**members_of(c), "policy.json": b"{}"}), "policy.json is not what its manifest has the hash of"),
    "additional member": (lambda c: zipped({**members_of(c), "more.json": b"{}"}), "holds more.json, which its manifest does not list"),
    "pickled member": (lambda c: zipped({**members_of(c), "policy.pth": b"\x80\x04."}), "holds 'policy.pth', which is neither JSON nor tensors"),
    "missing member": (lambda c: zipped({k: v for k, v in members_of(c).items() if k != "policy.safetensors"}), "lacks policy.safetensors, which its manifest lists"),
    "compressed": (lambda c: zipped(members_of(c), zipfile.ZIP_DEFLATED), "compressed or encrypted, which is never unpacked"),
    "pickle": (lambda c: pickle.dumps({"a": 1}), "is not a saved model"),
    "no manifest": (lambda c: zipped({k: v for k, v in members_of(c).items() if k != "manifest.json"}), "has no manifest.json"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ALTERED)
def test_what_is_wrong_is_said_in_one_sentence(kind, content):
    alter, words = ALTERED[kind]
    refuses(alter(content), words)
    loaded(content)


def test_arguments_that_are_younger_than_the_file_have_their_defaults(content):
    assert loaded(without_setting(content, "n_outer_episodes")).n_outer_episodes is None
    assert loaded(without_setting(content, "gae_lambda")).gae_lambda == 0.997


def test_a_member_that_is_there_twice(content):
    file = io.BytesIO(content)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(file, "a") as archive:
        archive.writestr("policy.json", "{}")
    refuses(file.getvalue(), "holds policy.json twice")


def test_folders_and_other_files(tmp_path, content):
    with pytest.raises(FileNotFoundError, match="There is no model at `path` .*, which is a folder"):
        SGMRL.load(tmp_path)
    PPO("MlpPolicy", point_vec(1), n_steps=2, batch_size=2, device="cpu").save(tmp_path / "ppo")
    with pytest.raises(ValueError, match=r"`path` .*ppo.* is damaged or was not saved by sb3_sgmrl\.$"):
        SGMRL.load(tmp_path / "ppo", trusted=True)
    with pytest.raises(ValueError, match="`path` holds a model of SGMRL, not of MAML"):
        loaded(content, MAML)
    with pytest.raises(IsADirectoryError, match="`path` .* is a folder; a file is needed"):
        (tmp_path / "model.zip").mkdir()
        tiny(SGMRL, point_vec(2)).save(tmp_path / "model")


class Wide(BaseFeaturesExtractor):
    """Registered, and as wide as it is told."""

    def __init__(self, observation_space, width=4):
        super().__init__(observation_space, width)
        self.net = th.nn.Linear(observation_space.shape[0], width)

    def forward(self, observations):
        return self.net(observations)


def test_custom_networks_are_not_made_larger_than_their_parameters_either():
    register(Wide)
    content = saved(tiny(SGMRL, point_vec(2), policy_kwargs={"features_extractor_class": Wide}))

    def wider(said):
        said["policy_kwargs"]["features_extractor_kwargs"] = {"width": 10**9}

    refuses(with_json(content, "data", wider), "much larger than its parameters|make no model")


# --------------------------------------------------------------------------------------------------------- files of before


class Planted:
    """Runs code when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return pathlib.Path.touch, (self.marker,)


def planted_model(path, marker):
    """A file of before 0.1 whose settings run code."""
    members = members_of(OLD.read_bytes())
    data = json.loads(members["data"])
    data["_last_obs"] = {":type:": "x", ":serialized:": base64.b64encode(pickle.dumps(Planted(marker))).decode()}
    path.write_bytes(zipped({**members, "data": json.dumps(data).encode()}))


def test_a_file_of_before_is_a_pickle_and_is_not_run(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "planted.zip"
    planted_model(path, marker)
    words = r"^`path` .*planted.zip is from before 0.1, a pickle that can run code .*sb3_sgmrl.convert .*trusted=True.*train"
    with pytest.raises(ValueError, match=words) as caught:
        SGMRL.load(path)
    assert "\n" not in str(caught.value)
    assert saved_algorithm(path) == "SGMRL"
    tiny(SGMRL, point_vec(2))
    assert not marker.exists()
    with pytest.warns(UserWarning, match=r"^`trusted=True`: unpickling `path` .*planted.zip.*runs whatever code"):
        SGMRL.load(path, trusted=True)
    assert marker.exists()


def test_a_file_of_before_goes_on_when_it_is_trusted():
    with pytest.warns(UserWarning, match="unpickling"):
        model = SGMRL.load(OLD, env="Navigation2D-v0", trusted=True)
    expected = np.array(
        [
            [-0.5908002257347107, 0.18831795454025269, -0.7733777165412903, -0.6911704540252686],
            [-0.5147010087966919, 0.4505418837070465, 0.40037429332733154, -0.5943207144737244],
        ]
    )
    model.learn(1, reset_num_timesteps=False)
    np.testing.assert_allclose(model.policy.action_net.weight.detach().numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("path", FORMATS, ids=lambda path: path.stem)
def test_files_of_every_format_version_are_read(path):
    model = SGMRL.load(path, env="Navigation2D-v0")
    assert model.get_vec_normalize_env() is not None and model.inner_lr_by_parameter()
    assert read_file(path).versions["sb3_sgmrl"] and model._signal_weights._weights
    model.learn(1, reset_num_timesteps=False)


def test_parts_of_a_file_of_before_that_are_gone(tmp_path):
    members = members_of(OLD.read_bytes())
    data = json.loads(members["data"])
    gone = pickle.dumps(half).replace(b"test_model_file", b"test_model_gone")
    data["learning_rate"] = {":type:": "x", ":serialized:": base64.b64encode(gone).decode()}
    (tmp_path / "old.zip").write_bytes(zipped({**members, "data": json.dumps(data).encode()}))
    with (
        pytest.warns(UserWarning, match="unpickling"),
        pytest.raises(ValueError, match=r"`path` .* holds a `learning_rate` that cannot be unpickled .*custom_objects"),
    ):
        SGMRL.load(tmp_path / "old.zip", trusted=True)
    with pytest.warns(UserWarning, match="unpickling"):
        assert SGMRL.load(tmp_path / "old.zip", trusted=True, custom_objects={"learning_rate": 0.1}).learning_rate == 0.1

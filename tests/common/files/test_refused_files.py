"""What is wrong with the file of a model is said in one sentence, before anything is made of it."""

import io
import json
import pickle
import zipfile
from functools import partial

import pytest
import torch as th
from alteration_tools import loaded, members_of, rehashed, saved, with_json, with_tensors, zipped
from safetensors import torch as safetensors
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize
from toys import assert_same, point_vec, state, tiny

from sb3_sgmrl import MAML, SGMRL, register


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


def with_another_end(member):
    return member[:-1] + bytes([member[-1] ^ 1])


HUGE = {"@": "discrete", "n": 10**10, "start": 0, "dtype": {"@": "dtype", "name": "int64"}}
WEIGHT = "mlp_extractor.policy_net.0.weight"
ALTERED = {
    "later version": (lambda c: rehashed(members_of(c), format_version=2), "is of format version 2, .* reads up to 1"),
    "no version": (lambda c: rehashed(members_of(c), format_version="1"), "has no format version"),
    "another format": (lambda c: rehashed(members_of(c), format="a picture"), "is not a model of sb3_sgmrl"),
    "other facts": (lambda c: rehashed(members_of(c), more=1), "its manifest does not say what it must"),
    "missing tensor": (
        lambda c: with_tensors(c, "policy", lambda t: {k: v for k, v in t.items() if k != WEIGHT}),
        f"lacks the tensor {WEIGHT}",
    ),
    "missing parameter": (
        lambda c: with_tensors(
            with_json(c, "policy", lambda j: j.pop(WEIGHT) and None),
            "policy",
            lambda t: {k: v for k, v in t.items() if k != WEIGHT},
        ),
        f"lacks `{WEIGHT}` of policy",
    ),
    "additional tensor": (
        lambda c: with_tensors(c, "policy", lambda t: {**t, "x": th.ones(1)}),
        "holds a tensor x that does not belong",
    ),
    "additional parameter": (
        lambda c: with_json(c, "policy", lambda j: {**j, "x": j[WEIGHT]}),
        "holds `x` in policy, which its network has not",
    ),
    "dtype": (
        lambda c: with_tensors(c, "policy", lambda t: {**t, WEIGHT: t[WEIGHT].double()}),
        f"holds torch.float64 in `{WEIGHT}` of policy, which must be torch.float32",
    ),
    "shape": (
        lambda c: with_tensors(c, "policy", lambda t: {**t, WEIGHT: t[WEIGHT].T.contiguous()}),
        rf"holds shape \(3, 5\) in `{WEIGHT}` of policy, which must be \(5, 3\)",
    ),
    "NaN": (
        lambda c: with_tensors(c, "policy", lambda t: {**t, WEIGHT: t[WEIGHT] * th.nan}),
        f"holds NaN or infinite numbers in `{WEIGHT}`",
    ),
    "NaN of Adam": (
        lambda c: with_tensors(c, "policy.optimizer", lambda t: {**t, "state.0.exp_avg": t["state.0.exp_avg"] * th.inf}),
        "infinite numbers in `exp_avg` of parameter 0 in policy.optimizer",
    ),
    "state of Adam": (
        lambda c: with_json(c, "policy.optimizer", lambda j: j["state"]["items"][0][1].pop("step") and None),
        "holds",
    ),
    "groups": (
        lambda c: with_json(c, "policy.optimizer", lambda j: j.update(param_groups=[])),
        "holds 0 groups of parameters",
    ),
    "no lr": (
        lambda c: with_json(c, "policy.optimizer", lambda j: j["param_groups"][0].pop("lr") and None),
        "holds other settings in policy.optimizer than its optimiser has",
    ),
    "a setting of other versions": (
        lambda c: with_json(c, "policy.optimizer", lambda j: j["param_groups"][0].update(newer=False)),
        "holds other settings in policy.optimizer than its optimiser has",
    ),
    "lr": (
        lambda c: with_json(c, "policy.optimizer", lambda j: j["param_groups"][0].update(lr="x")),
        "holds 'x' in `lr` of policy.optimizer",
    ),
    "missing setting": (lambda c: with_json(c, "data", lambda j: j.pop("n_episodes") and None), "lacks `n_episodes`"),
    "additional setting": (
        lambda c: with_json(c, "data", lambda j: j.update(x=1)),
        "holds `x`, which its manifest does not list",
    ),
    "no space": (lambda c: without_setting(c, "action_space"), "lacks `action_space`|does not belong"),
    "wrong setting": (
        lambda c: with_json(c, "data", lambda j: j.update(n_episodes=-3)),
        "`n_episodes` must be a positive integer, got -3",
    ),
    "method": (lambda c: with_setting(c, "learn", "x"), "holds `learn`, which is not an attribute"),
    "counter": (lambda c: with_json(c, "data", lambda j: j.update(_iteration=-1)), "holds -1 in `_iteration`"),
    "class": (
        lambda c: with_json(c, "data", lambda j: j.update(policy_class={"@": "class", "name": "os.system"})),
        "needs the class or function os.system",
    ),
    "large network": (
        lambda c: with_json(c, "data", lambda j: j.update(policy_kwargs={"net_arch": [10**5, 10**5]})),
        "much larger than its parameters|make no model",
    ),
    "deep network": (
        lambda c: with_json(c, "data", lambda j: j.update(policy_kwargs={"net_arch": [1] * 10**5})),
        "much larger than its parameters|make no model",
    ),
    "large space": (
        lambda c: with_tensors(
            with_json(c, "data", lambda j: j.update(action_space=HUGE)),
            "data",
            lambda t: {k: v for k, v in t.items() if not k.startswith("action_space")},
        ),
        "much larger than its parameters|make no model",
    ),
    "statistics": (
        lambda c: with_tensors(c, "vec_normalize", lambda t: {**t, "obs_rms.var": -t["obs_rms.var"]}),
        "wrong statistics of VecNormalize",
    ),
    "step sizes": (
        lambda c: with_tensors(c, "step_sizes", lambda t: {"relative": t["relative"][1:].clone()}),
        r"holds shape \(4,\) in `relative` of step_sizes",
    ),
    "no step sizes": (
        lambda c: rehashed({k: v for k, v in members_of(c).items() if not k.startswith("step_sizes")}),
        "lacks the parameters of step_sizes",
    ),
    "other part": (
        lambda c: rehashed({**members_of(c), "x.json": b"{}", "x.safetensors": safetensors.save({})}),
        "holds parameters of x, which such a model has not",
    ),
    "score weights": (
        lambda c: with_tensors(c, "data", lambda t: {k: v[..., :1].clone() if "_mean" in k else v for k, v in t.items()}),
        "holds a `_signal_weights` of another model",
    ),
    "duplicate key": (lambda c: rehashed({**members_of(c), "data.json": b'{"a": 1, "a": 2}'}), "a key stands there twice"),
    "not finite": (lambda c: rehashed({**members_of(c), "data.json": b'{"a": NaN}'}), "NaN is not a number"),
    "deep": (lambda c: rehashed({**members_of(c), "data.json": b"[" * 10**5 + b"]" * 10**5}), "holds no JSON in data.json"),
    "hash": (
        lambda c: zipped({**members_of(c), "policy.safetensors": with_another_end(members_of(c)["policy.safetensors"])}),
        "policy.safetensors is not what its manifest has the hash of",
    ),
    "size": (
        lambda c: zipped({**members_of(c), "policy.json": b"{}"}),
        "policy.json is not what its manifest has the hash of",
    ),
    "additional member": (
        lambda c: zipped({**members_of(c), "more.json": b"{}"}),
        "holds more.json, which its manifest does not list",
    ),
    "pickled member": (
        lambda c: zipped({**members_of(c), "policy.pth": b"\x80\x04."}),
        "holds 'policy.pth', which is neither JSON nor tensors",
    ),
    "missing member": (
        lambda c: zipped({k: v for k, v in members_of(c).items() if k != "policy.safetensors"}),
        "lacks policy.safetensors, which its manifest lists",
    ),
    "compressed": (lambda c: zipped(members_of(c), zipfile.ZIP_DEFLATED), "compressed or encrypted, which is never unpacked"),
    "pickle": (lambda c: pickle.dumps({"a": 1}), "is not a saved model"),
    "no manifest": (
        lambda c: zipped({k: v for k, v in members_of(c).items() if k != "manifest.json"}),
        "has no manifest.json",
    ),
}


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
    with pytest.raises(FileNotFoundError, match=r"There is no model at `path` .*, which is a folder"):
        SGMRL.load(tmp_path)
    PPO("MlpPolicy", point_vec(1), n_steps=2, batch_size=2, device="cpu").save(tmp_path / "ppo")
    with pytest.raises(ValueError, match=r"`path` .*ppo.* is damaged or was not saved by sb3_sgmrl\.$"):
        SGMRL.load(tmp_path / "ppo", trusted=True)
    with pytest.raises(ValueError, match="`path` holds a model of SGMRL, not of MAML"):
        loaded(content, MAML)
    with pytest.raises(IsADirectoryError, match=r"`path` .* is a folder; a file is needed"):
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


def test_a_setting_of_adam_that_some_versions_of_torch_do_not_name(content):
    """Without it Adam is what it is with False."""

    def changed(value, said):
        group = said["param_groups"][0]
        if value or group.pop("decoupled_weight_decay", None) is None:
            group["decoupled_weight_decay"] = value

    one, other = loaded(content), loaded(with_json(content, "policy.optimizer", partial(changed, False)))
    for model in (one, other):
        model.set_env(VecNormalize(point_vec(2)))
        model.learn(1, reset_num_timesteps=False)
    assert_same(state(one), state(other))
    if "decoupled_weight_decay" not in one.policy.optimizer.defaults:
        refuses(with_json(content, "policy.optimizer", partial(changed, True)), "holds other settings in policy.optimizer")

"""Policies in ONNX and TorchScript act as ``predict``, with everything that belongs to them."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize
from toys import SmallCnn, point_vec, tiny

from sb3_sgmrl import MAML, SGMRL
from sb3_sgmrl.common.export import to_sb3
from sb3_sgmrl.deployment import export_onnx, export_torchscript
from sb3_sgmrl.deployment.network import random_inputs

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

GOAL = np.array([0.8, -0.3])
SMALL = {"features_extractor_class": SmallCnn, "net_arch": [3]}
KINDS = {
    "box": ("MlpPolicy", {}, {}),
    "discrete": ("MlpPolicy", {"action": "discrete"}, {}),
    "multi_discrete": ("MlpPolicy", {"action": "multi_discrete", "observation": "discrete"}, {}),
    "multi_binary": ("MlpPolicy", {"action": "multi_binary"}, {}),
    "image": ("CnnPolicy", {"observation": "image", "action": "discrete"}, {"policy_kwargs": SMALL}),
    "dict": ("MultiInputPolicy", {"observation": "dict"}, {}),
}


def run_onnx(path, inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == list(inputs)
    return session.run(["action"], inputs)[0]


def run_torchscript(path, inputs):
    return th.jit.load(str(path))(*map(th.as_tensor, inputs.values())).numpy()


EXPORTS = {".onnx": (export_onnx, run_onnx), ".pt": (export_torchscript, run_torchscript)}


def far(policy):
    """Actions that are often clipped, and an argmax that depends on the observation."""
    with th.no_grad():
        policy.action_net.weight.mul_(40)
    return policy


@pytest.mark.parametrize("suffix", EXPORTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalized", [False, True])
def test_exports_act_as_predict(suffix, kind, normalized, tmp_path):
    policy_class, family, settings = KINDS[kind]
    env = point_vec(2, **family)
    if normalized:
        if kind not in ("box", "dict"):
            return
        env = VecNormalize(env, norm_obs_keys=["vector"] if kind == "dict" else None, clip_obs=2.0)
    model = tiny(MAML, env, policy_class, **settings)
    if normalized:
        model.learn(1)
        statistics = env.obs_rms["vector"] if kind == "dict" else env.obs_rms
        statistics.mean += [3.0, -5.0, 0.5]
    policy = far(model.adapt(task=GOAL))
    export, run = EXPORTS[suffix]
    export(model, tmp_path / f"policy{suffix}", policy)
    for n in (1, 3, 200):
        inputs = random_inputs(policy, env if normalized else None, n, seed=100 + n)
        seen = inputs["observation"] if kind != "dict" else inputs
        wanted = policy.predict(env.normalize_obs(seen) if normalized else seen, deterministic=True)[0]
        found = run(tmp_path / f"policy{suffix}", inputs)
        assert found.shape == wanted.shape
        if kind in ("box", "dict"):
            np.testing.assert_allclose(found, wanted, atol=1e-4)
        else:
            assert (found == wanted).mean() > 0.99
    assert np.unique(wanted).size > 1
    if kind == "box":
        assert (np.abs(wanted) == 1).any() and (np.abs(wanted) < 1).any()  # clipped, and not
    if normalized:
        without = policy.predict(seen, deterministic=True)[0]
        assert np.abs(without - wanted).max() > 0.1


def test_the_models_own_policy_and_models_of_sb3(tmp_path):
    model = tiny(SGMRL, point_vec(2))
    inputs = random_inputs(model.policy, None, 9, seed=3)
    ppo = to_sb3(model.policy, point_vec(1), PPO, n_steps=4, batch_size=4)
    for each in (model, ppo):
        export_onnx(each, tmp_path / "policy.onnx")
        found = run_onnx(tmp_path / "policy.onnx", inputs)
        np.testing.assert_allclose(found, each.predict(inputs["observation"], deterministic=True)[0], atol=1e-5)


def test_a_squashed_policy_is_scaled_to_the_space(tmp_path):
    class Squashed(ActorCriticPolicy):
        """Actions in [-1, 1], which ``predict`` scales to the space."""

        def _predict(self, observation, deterministic=False):
            return th.tanh(super()._predict(observation, deterministic))

        @property
        def squash_output(self):
            return True

    env = point_vec(1)
    env.action_space = spaces.Box(-3.0, 7.0, (2,), np.float32)
    model = PPO(Squashed, env, n_steps=4, batch_size=4, device="cpu")
    far(model.policy)
    inputs = random_inputs(model.policy, None, 50, seed=3)
    wanted = model.predict(inputs["observation"], deterministic=True)[0]
    for suffix, (export, run) in EXPORTS.items():
        export(model, tmp_path / f"policy{suffix}")
        np.testing.assert_allclose(run(tmp_path / f"policy{suffix}", inputs), wanted, atol=1e-4)
    assert wanted.max() > 3 and wanted.min() < 1  # beyond what clipping to [-1, 1] gives


class Branching(BaseFeaturesExtractor):
    """Takes another way for some observations."""

    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=3)

    def forward(self, observations):
        return observations if bool((observations[:, 0] > 0).all()) else -observations


class Numpy(BaseFeaturesExtractor):
    """Leaves torch."""

    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=3)

    def forward(self, observations):
        return th.as_tensor(np.tanh(observations.detach().numpy()))


class OfTwo(BaseFeaturesExtractor):
    """Knows the number of observations in a batch."""

    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=3)

    def forward(self, observations):
        scale = [1.0, 0.5][min(len(observations.detach().numpy()), 2) - 1]
        return observations * scale


@pytest.mark.parametrize("suffix", EXPORTS)
@pytest.mark.parametrize("extractor", [Branching, Numpy, OfTwo])
def test_policies_that_cannot_be_traced_are_refused(extractor, suffix, tmp_path):
    model = PPO(
        *("MlpPolicy", point_vec(1)),
        n_steps=4,
        batch_size=4,
        device="cpu",
        seed=0,
        policy_kwargs={"features_extractor_class": extractor, "net_arch": [4]},
    )
    far(model.policy)
    with pytest.raises(ValueError, match=r"`policy` (cannot be traced for an export|disagrees with predict on)") as error:
        EXPORTS[suffix][0](model, tmp_path / f"policy{suffix}")
    assert "\n" not in str(error.value) and "exception set" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_bad_arguments(tmp_path):
    model = tiny(SGMRL, point_vec(1))
    for arguments, complaint in (
        ((model, tmp_path / "policy.pt"), r"`path` must end in \.onnx"),
        ((model.policy, tmp_path / "policy.onnx"), "`model` must be a model of this package or of SB3"),
        ((model, tmp_path / "policy.onnx", model), "`policy` must be an ActorCriticPolicy"),
        (
            (model, tmp_path / "policy.onnx", tiny(SGMRL, point_vec(1, action="discrete")).policy),
            "the action_space of `model`",
        ),
    ):
        with pytest.raises(ValueError, match=complaint):
            export_onnx(*arguments)
    stacked = PPO("MlpPolicy", VecFrameStack(VecNormalize(point_vec(1)), 2), n_steps=4, batch_size=4, device="cpu")
    with pytest.raises(ValueError, match="such as VecFrameStack, cannot be exported"):
        export_onnx(stacked, tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())

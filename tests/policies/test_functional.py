"""Policies as functions of their parameters, and acting with many parameter sets at once."""

import copy
import io

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from torch import nn
from toys import (
    ACTIONS,
    OBSERVATIONS,
    FrozenExtractor,
    LinearExtractor,
    SmallCnn,
    assert_same,
    differ,
    point_vec,
    state,
    tiny,
)

from sb3_sgmrl import SGMRL
from sb3_sgmrl.policies.actions import draw_noise, env_actions, sample_actions
from sb3_sgmrl.policies.functional import FunctionalPolicy
from sb3_sgmrl.policies.inference import ParallelPolicies
from sb3_sgmrl.policies.mlp import PlainMlp

SMALL_IMAGES = {"features_extractor_class": SmallCnn}
KINDS = {
    "mlp": ("vector", "MlpPolicy", {}),
    "two extractors": (
        "vector",
        "MlpPolicy",
        {"features_extractor_class": LinearExtractor, "share_features_extractor": False},
    ),
    "custom": ("vector", "MlpPolicy", {"features_extractor_class": LinearExtractor}),
    "cnn": ("image", "CnnPolicy", SMALL_IMAGES),
    "nature cnn": ("image", "CnnPolicy", {"features_extractor_kwargs": {"features_dim": 4}}),
    "multi-input": ("dict", "MultiInputPolicy", {"features_extractor_kwargs": {"cnn_output_dim": 4}}),
}
CLASSES = {"MlpPolicy": ActorCriticPolicy, "CnnPolicy": ActorCriticCnnPolicy, "MultiInputPolicy": MultiInputActorCriticPolicy}


def channels_first(space):
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: channels_first(part) for key, part in space.spaces.items()})
    return space if len(space.shape) < 3 else spaces.Box(0, 255, (1, 36, 36), np.uint8)


def make(kind="mlp", action="box", seed=0, **kwargs):
    observation, policy, policy_kwargs = KINDS[kind]
    th.manual_seed(seed)
    space = channels_first(OBSERVATIONS[observation])
    return CLASSES[policy](space, ACTIONS[action], lambda _: 1e-3, **{"net_arch": [5], **policy_kwargs, **kwargs})


def perturbed(functional, seed=0, size=0.3):
    generator = th.Generator().manual_seed(seed)
    return {k: v + size * th.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in functional.parameters().items()}


def draw(space, n, seed=0):
    space = copy.deepcopy(space)
    space.seed(seed)
    samples = [space.sample() for _ in range(n)]
    return (
        {k: np.stack([s[k] for s in samples]) for k in space.spaces} if isinstance(space, spaces.Dict) else np.stack(samples)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action", ACTIONS)
def test_log_prob_is_that_of_a_policy_with_the_parameters(kind, action):
    policy = make(kind, action)
    functional = FunctionalPolicy(policy)
    parameters = perturbed(functional)
    observations = functional.to_tensor(draw(policy.observation_space, 6))
    actions = th.as_tensor(draw(policy.action_space, 6))
    other = functional.policy_with(parameters)
    with th.no_grad():
        expected = other.evaluate_actions(observations, actions.float())[1]
        original = policy.evaluate_actions(observations, actions.float())[1]
    assert not th.allclose(expected, original)
    th.testing.assert_close(functional.log_prob(parameters, observations, actions), expected)
    # the parameters of one call do not stay behind for the next
    th.testing.assert_close(functional.log_prob(functional.parameters(), observations, actions), original)


@pytest.mark.parametrize("kind", KINDS)
def test_calls_leave_the_policy_as_it_was(kind):
    policy = make(kind)
    before = copy.deepcopy(policy.state_dict())
    functional = FunctionalPolicy(policy)
    parameters = {name: value.requires_grad_() for name, value in perturbed(functional).items()}
    observations = functional.to_tensor(draw(policy.observation_space, 4))
    actions = th.as_tensor(draw(policy.action_space, 4))
    loss = functional.log_prob(parameters, observations, actions).sum()
    th.autograd.grad(loss, list(parameters.values()), create_graph=True)
    ParallelPolicies(functional, [perturbed(functional, 1)] * 2, 2, 2).distributions(
        np.arange(4), draw(policy.observation_space, 4)
    )
    functional.values(observations).sum().backward()
    for name, value in policy.state_dict().items():
        assert th.equal(value, before[name]), name
    clone = copy.deepcopy(policy)
    assert all(type(p) is nn.Parameter and p.is_leaf for p in policy.parameters())
    file = io.BytesIO()
    th.save(policy.state_dict(), file)
    policy.save(io.BytesIO())
    # and what it does is what it did
    with th.no_grad():
        th.testing.assert_close(clone.get_distribution(observations).mode(), policy.get_distribution(observations).mode())


@pytest.mark.parametrize("kind", ["cnn", "multi-input", "custom"])
def test_deepcopy_and_save_after_learning(kind, tmp_path):
    observation, policy, policy_kwargs = KINDS[kind]
    model = tiny(SGMRL, point_vec(2, observation=observation), policy, policy_kwargs=policy_kwargs, meta_batch_size=2)
    model.learn(1)
    observations = draw(model.observation_space, 3)
    expected = copy.deepcopy(model.policy).predict(observations, deterministic=True)[0]
    np.testing.assert_array_equal(expected, model.predict(observations, deterministic=True)[0])
    model.policy.save(tmp_path / "policy")
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(
        expected, type(model.policy).load(tmp_path / "policy").predict(observations, deterministic=True)[0]
    )
    assert_same(state(SGMRL.load(tmp_path / "model")), state(model))


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_shapes_the_actions_is_adapted(kind):
    policy = make(kind)
    names = FunctionalPolicy(policy).adapted_names
    assert "log_std" in names and "action_net.weight" in names
    assert not any("value" in name or "vf_features" in name for name in names)
    rest = {name for name, _ in policy.named_parameters()} - set(names)
    assert {"value_net.weight", "value_net.bias"} <= rest
    assert all("value" in name or "vf_features" in name for name in rest)


@pytest.mark.parametrize("baseline", ["linear", "critic"])
def test_what_is_frozen_is_neither_adapted_nor_trained(baseline):
    policy_kwargs = {"features_extractor_class": FrozenExtractor, "share_features_extractor": baseline != "critic"}
    kwargs = {"policy_kwargs": policy_kwargs, "baseline": baseline}
    model = tiny(SGMRL, point_vec(2), **kwargs)
    before = state(model)
    assert "action_net.weight" in model.functional.adapted_names
    assert "features_extractor.norm.weight" in model.functional.adapted_names
    changed = differ(before, state(model.learn(1)))
    assert changed and not any(name.endswith(("linear.weight", "linear.bias", "scale", "running_mean")) for name in changed)


@pytest.mark.parametrize("extractor", [LinearExtractor, FrozenExtractor])
def test_a_features_extractor_that_the_critic_shares_is_announced(extractor, recwarn):
    """The values would change with θ where the meta-gradient holds them fixed."""
    kwargs = {"features_extractor_class": extractor}
    with pytest.warns(UserWarning, match="pass `policy_kwargs={'share_features_extractor': False}`"):
        model = tiny(SGMRL, point_vec(2), policy_kwargs=kwargs, baseline="critic")
    assert all(name.startswith("features_extractor.") for name in model.functional.shared_with_critic)
    recwarn.clear()
    # without the critic, without sharing, and where there is nothing to share
    for own, baseline in ((kwargs, "linear"), ({**kwargs, "share_features_extractor": False}, "critic"), ({}, "critic")):
        tiny(SGMRL, point_vec(2), policy_kwargs=own, baseline=baseline)
    assert not recwarn.list


def test_a_fixed_standard_deviation():
    policy = make()
    policy.log_std.requires_grad_(False)
    functional = FunctionalPolicy(policy)
    assert "log_std" not in functional.adapted_names
    observations = draw(policy.observation_space, 4)
    with th.no_grad():
        policy.log_std.fill_(-2.0)
    mean, std = ParallelPolicies(functional, [functional.parameters()], 2, 2).distributions(np.arange(4), observations)
    np.testing.assert_allclose(std, np.exp(-2.0), rtol=1e-6)
    np.testing.assert_allclose(mean, parameters_of(policy, functional.to_tensor(observations))[0], rtol=1e-4, atol=1e-6)


def test_what_is_loaded_later_counts():
    """Also what is no parameter, or none that is adapted."""
    model, other = (
        tiny(SGMRL, point_vec(2), policy_kwargs={"features_extractor_class": FrozenExtractor}, seed=s) for s in (0, 1)
    )
    with th.no_grad():
        model.policy.features_extractor.norm.running_mean.fill_(0.3)
    for m in (model, other):
        m.learn(1)
    other.set_parameters(copy.deepcopy(model.get_parameters()))
    assert_same(state(model), state(other))
    other._entropy, other._iteration = model._entropy, model._iteration
    other._signal_weights = copy.deepcopy(model._signal_weights)
    assert_same(state(model.learn(1)), state(other.learn(1)))


def test_threads_do_not_disturb_each_other():
    from concurrent.futures import ThreadPoolExecutor

    functional = FunctionalPolicy(make("custom"))
    observations = functional.to_tensor(draw(functional.policy.observation_space, 50))
    actions = th.as_tensor(draw(functional.policy.action_space, 50))
    sets = [perturbed(functional, seed) for seed in range(30)]

    def work(parameters):
        leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
        return th.autograd.grad(functional.log_prob(leaves, observations, actions).sum(), list(leaves.values()))

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, sets))
    for parameters, gradients in zip(sets, together, strict=True):
        assert all(map(th.equal, work(parameters), gradients))


# ------------------------------------------------------------------------------------------------ many parameter sets

ACTIVATIONS = [nn.Tanh, nn.ReLU, nn.ELU, nn.SiLU]
ARCHITECTURES = [[], [5], [64, 64], [33, 7, 13]]


def parallel(functional, sets, n_tasks, n_rows, fast, monkeypatch):
    if not fast:
        functional.mlp = None
    else:
        assert functional.mlp is not None
    return ParallelPolicies(functional, sets, n_tasks, n_rows)


def parameters_of(policy, observations):
    """The parameters of SB3's own distribution."""
    with th.no_grad():
        inner = policy.get_distribution(observations).distribution
    if isinstance(inner, list):
        return tuple(part.logits.numpy() for part in inner)
    if isinstance(inner, th.distributions.Normal):
        return inner.mean.numpy(), inner.stddev.numpy()
    return (inner.logits.numpy(),)


def normalised(parts, action):
    """Logits of categories are defined up to a constant."""
    if "discrete" not in action:
        return parts
    return tuple(th.log_softmax(th.as_tensor(part), -1).numpy() for part in parts)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("action", ["box", "discrete"])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_mlp_acts_as_sb3_has_it(activation, architecture, action, fast, monkeypatch):
    check_distributions(make(action=action, net_arch=architecture, activation_fn=activation), action, fast, monkeypatch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action", ACTIONS)
def test_any_policy_acts_as_sb3_has_it(kind, action, monkeypatch):
    policy = make(kind, action)
    fast = PlainMlp.find(policy) is not None
    assert fast == (kind == "mlp" and action in ("box", "discrete"))
    check_distributions(policy, action, fast, monkeypatch)


@pytest.mark.parametrize("observation", [spaces.Discrete(5), spaces.Box(-1, 1, (2, 3)), spaces.Box(-1, 1, (3,), np.float64)])
@pytest.mark.parametrize("fast", [True, False])
def test_other_observations(observation, fast, monkeypatch):
    policy = ActorCriticPolicy(observation, ACTIONS["box"], lambda _: 1e-3, net_arch=[5])
    check_distributions(policy, "box", fast, monkeypatch)


def test_networks_the_fast_path_would_get_wrong_do_not_take_it():
    class Squared(ActorCriticPolicy):
        def _get_action_dist_from_latent(self, latent_pi):
            return super()._get_action_dist_from_latent(latent_pi**2)

    policy = Squared(OBSERVATIONS["vector"], ACTIONS["box"], lambda _: 1e-3, net_arch=[5])
    assert PlainMlp.find(policy) is None
    assert PlainMlp.find(make(activation_fn=nn.PReLU)) is None
    assert PlainMlp.find(make()) is not None


def check_distributions(policy, action, fast, monkeypatch):
    functional = FunctionalPolicy(policy)
    n_tasks, n_rows = 3, 4
    observations = draw(policy.observation_space, n_tasks * n_rows)
    for sets in ([perturbed(functional, i) for i in range(n_tasks)], [perturbed(functional)]):
        output = parallel(functional, sets, n_tasks, n_rows, fast, monkeypatch).distributions(np.arange(12), observations)
        for task in range(n_tasks):
            rows = slice(task * n_rows, (task + 1) * n_rows)
            part = {k: v[rows] for k, v in observations.items()} if isinstance(observations, dict) else observations[rows]
            expected = parameters_of(functional.policy_with(sets[task % len(sets)]), functional.to_tensor(part))
            got = normalised(tuple(x[rows] for x in output), action)
            assert len(got) == len(expected)
            for ours, theirs in zip(got, normalised(expected, action), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("action", ["box", "discrete"])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_row_does_not_depend_on_which_others_are_asked_for(activation, architecture, action, fast, monkeypatch):
    check_rows(make(action=action, net_arch=architecture, activation_fn=activation), fast, monkeypatch)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("mlp", "nature cnn")])
@pytest.mark.parametrize("action", ["multi_discrete", "multi_binary", "box"])
def test_a_row_of_any_policy_does_not_depend_on_the_others(kind, action, monkeypatch):
    check_rows(make(kind, action), False, monkeypatch, shapes=((3, 2), (9, 3)))


def check_rows(policy, fast, monkeypatch, shapes=((2, 3), (9, 5), (1, 7), (5, 1), (20, 20))):
    functional = FunctionalPolicy(policy)
    rng = np.random.default_rng(0)
    for n_tasks, n_rows in shapes:
        total = n_tasks * n_rows
        observations = draw(policy.observation_space, total)
        for sets in ([perturbed(functional, i) for i in range(n_tasks)], [perturbed(functional)]):
            policies = parallel(functional, sets, n_tasks, n_rows, fast, monkeypatch)
            everything = policies.distributions(np.arange(total), observations)
            for n in {1, 2, min(7, total), total // 2 + 1}:
                rows = rng.permutation(total)[:n]
                some = {k: v[rows] for k, v in observations.items()} if isinstance(observations, dict) else observations[rows]
                for one, other in zip(policies.distributions(rows, some), everything, strict=True):
                    np.testing.assert_array_equal(one, other[rows])


# ------------------------------------------------------------------------------------------------------------- actions


def test_gaussian_actions():
    space, rng = spaces.Box(-1.0, 1.0, (2, 2), np.float32), np.random.default_rng(0)
    noise = draw_noise(space, 20_000, rng)
    mean, std = np.full((20_000, 4), [0.0, 1.0, 2.0, 3.0]), np.full((20_000, 4), [1.0, 0.5, 0.1, 2.0])
    actions = sample_actions(space, (mean, std), noise)
    assert actions.shape == (20_000, 2, 2)
    np.testing.assert_allclose(actions.mean(0).ravel(), [0, 1, 2, 3], atol=0.06)
    np.testing.assert_allclose(actions.std(0).ravel(), [1, 0.5, 0.1, 2], rtol=0.03)
    clipped = env_actions(space, actions)
    assert clipped.min() == -1 and clipped.max() == 1 and actions.max() > 1


@pytest.mark.parametrize("action", ["discrete", "multi_discrete"])
def test_categories_are_drawn_as_often_as_they_are_likely(action):
    space, rng = ACTIONS[action], np.random.default_rng(0)
    sizes = [space.n] if action == "discrete" else list(space.nvec)
    # also far from zero, where a careless exponential overflows
    logits = tuple(np.tile(rng.standard_normal(n).astype(np.float32) + 500, (40_000, 1)) for n in sizes)
    actions = sample_actions(space, logits, draw_noise(space, 40_000, rng))
    assert actions.shape == (40_000, *space.shape) and actions.dtype == space.dtype
    for i, (n, logit) in enumerate(zip(sizes, logits, strict=True)):
        chosen = actions if action == "discrete" else actions[:, i]
        frequencies = np.bincount(chosen, minlength=n) / 40_000
        np.testing.assert_allclose(frequencies, th.softmax(th.as_tensor(logit[0]), -1).numpy(), atol=0.01)
    np.testing.assert_array_equal(env_actions(space, actions), actions)


def test_binary_actions_are_drawn_as_often_as_they_are_likely():
    space, rng = ACTIONS["multi_binary"], np.random.default_rng(0)
    logits = np.tile([-1.0, 2.0], (40_000, 1))
    actions = sample_actions(space, (logits,), draw_noise(space, 40_000, rng))
    assert actions.shape == (40_000, 2) and actions.dtype == space.dtype
    np.testing.assert_allclose(actions.mean(0), 1 / (1 + np.exp([1.0, -2.0])), atol=0.01)


def test_the_uniform_draw_may_be_zero_or_almost_one():
    space = spaces.Discrete(3)
    almost = np.nextafter(np.float32(1), np.float32(0))
    logits = np.array([[-200.0, 0.0, -200.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
    actions = sample_actions(space, (logits,), np.array([[0.0], [0.0], [almost]], np.float32))
    assert actions.tolist() == [1, 0, 2]

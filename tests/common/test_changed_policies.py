"""Policies that are changed after a model was made: what predicts is what plays and is trained, or it is said why not."""

import copy
import types

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from torch import nn
from toys import ALGORITHMS, LinearExtractor, assert_same, differ, point, point_vec, rotated, state, tiny

from sb3_sgmrl import SGMRL, evaluate_adaptation
from sb3_sgmrl.common.export import to_sb3
from sb3_sgmrl.policies.functional import stack_parameters

GOAL = np.array([0.5, -0.2])


def model_of(algorithm=SGMRL, n_envs=2, **kwargs):
    return tiny(algorithm, point_vec(n_envs), policy_kwargs={"net_arch": [5, 4], **kwargs.pop("policy_kwargs", {})}, **kwargs)


def assert_plays_what_it_predicts(model):
    observations = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    functional = model.functional
    stacked = stack_parameters([functional.parameters()])
    played = functional.distributions(stacked, functional.to_tensor(observations[None]))[0][0]
    predicted = model.predict(observations, deterministic=True)[0]
    np.testing.assert_allclose(np.clip(played, -1, 1), predicted, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- frozen

FROZEN = {
    "a layer": lambda policy: [*policy.mlp_extractor.policy_net[0].parameters()],
    "log_std": lambda policy: [policy.log_std],
    "a bias": lambda policy: [policy.action_net.bias],
    "all but the last layer": lambda policy: [*policy.mlp_extractor.policy_net.parameters(), policy.log_std],
}


def freeze(model, which):
    parameters = FROZEN[which](model.policy)
    for parameter in parameters:
        parameter.requires_grad = False
    return [name for name, p in model.policy.named_parameters() if any(p is frozen for frozen in parameters)]


FROZEN_WITH = [{}, {"baseline": "critic"}, {"inner_lr_learning_rate": 0.1, "n_inner_steps": 2}, {"n_epochs": 3}]


@pytest.mark.parametrize(("algorithm", "which", "kwargs"), rotated(ALGORITHMS, FROZEN, FROZEN_WITH), ids=str)
def test_frozen_parameters_stay(algorithm, which, kwargs):
    model = model_of(algorithm, **kwargs)
    model.learn(1)  # the optimiser has a momentum for all of them
    frozen = freeze(model, which)
    before = state(model)
    model.learn(1)
    changed = differ(before, state(model))
    assert changed and changed.isdisjoint(frozen)
    adapted = {name: value.detach().numpy() for name, value in model.adapt(task=GOAL).state_dict().items()}
    changed = differ(state(model), adapted)
    assert changed and changed.isdisjoint(frozen)
    evaluate_adaptation(model, n_tasks=2)
    # and move again
    model.policy.requires_grad_(True)
    before = state(model)
    assert differ(before, state(model.learn(1))) >= set(frozen)


def test_frozen_inside_the_policy_or_after_construction_is_the_same():
    class Frozen(SGMRL.policy_aliases["MlpPolicy"]):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.log_std.requires_grad_(False)

    inside = tiny(SGMRL, point_vec(2), Frozen).learn(1)
    after = tiny(SGMRL, point_vec(2))
    after.policy.log_std.requires_grad_(False)
    assert_same(state(inside), state(after.learn(1)))


@pytest.mark.parametrize("moment", ["_on_rollout_start", "_on_step", "_on_rollout_end"])
@pytest.mark.parametrize("thaw", [False, True])
def test_frozen_and_unfrozen_by_a_callback(moment, thaw):
    model = model_of()
    names = freeze(model, "a layer") if thaw else []

    class Change(BaseCallback):
        def _on_step(self):
            return True

    def change(self):
        if thaw:
            self.model.policy.requires_grad_(True)
        else:
            names[:] = freeze(self.model, "a layer")
        return True

    setattr(Change, moment, change)
    before = state(model)
    model.learn(1, callback=Change())
    changed = differ(before, state(model))
    if thaw:  # at the latest from the next iteration on
        changed = differ(before, state(model.learn(1)))
        assert changed >= set(names)
    else:
        assert changed and changed.isdisjoint(names)


def test_nothing_left_to_train():
    model = model_of()
    model.policy.requires_grad_(False)
    for ask in (lambda: model.learn(1), lambda: model.adapt(task=GOAL), lambda: evaluate_adaptation(model, n_tasks=1)):
        with pytest.raises(ValueError, match="`policy` has no trainable parameter that shapes its actions"):
            ask()
    # a critic alone may be frozen
    model = model_of(baseline="critic")
    model.policy.value_net.requires_grad_(False)
    model.policy.mlp_extractor.value_net.requires_grad_(False)
    before = state(model)
    changed = differ(before, state(model.learn(1)))
    assert changed and not any("value" in name for name in changed)


# ------------------------------------------------------------------------------------------------------ another network


def set_layer(policy, i, module):
    policy.mlp_extractor.policy_net[i] = module


def patched(policy):
    layer = policy.action_net
    layer.forward = types.MethodType(lambda self, x: 2 * nn.Linear.forward(self, x), layer)


def wrapped_extractor(policy):
    extractor = LinearExtractor(policy.observation_space, policy.features_dim)
    extractor.requires_grad_(False)
    policy.features_extractor = policy.pi_features_extractor = policy.vf_features_extractor = extractor


CHANGES = {
    "activations": lambda policy: [set_layer(policy, i, nn.ReLU()) for i in (1, 3)],
    "one activation": lambda policy: set_layer(policy, 3, nn.LeakyReLU(0.3)),
    "tanh at the output": lambda policy: setattr(policy, "action_net", nn.Sequential(policy.action_net, nn.Tanh())),
    "a hook": lambda policy: policy.action_net.register_forward_hook(lambda module, x, y: y / 2) and None,
    "a patched forward": patched,
    "spectral norm": lambda policy: nn.utils.parametrizations.spectral_norm(policy.mlp_extractor.policy_net[0]) and None,
    "an extractor with constants": wrapped_extractor,
    "a compiled layer": lambda policy: setattr(policy, "action_net", th.compile(policy.action_net, backend="eager")),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of torch's compiler
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("learnt_before", [False, True])
def test_the_new_network_plays_and_is_trained(change, learnt_before):
    models = [model_of(n_envs=n) for n in (2, 3)]
    for model in models:
        if learnt_before:
            model.learn(1)
        old = model.functional
        th.manual_seed(0)
        CHANGES[change](model.policy)
        assert model.functional is not old and model.functional is model.functional
        assert_plays_what_it_predicts(model)
        if change in ("spectral norm", "a compiled layer"):
            model.policy.optimizer = th.optim.Adam(model.policy.parameters(), lr=1e-3)
        before = state(model)
        changed = differ(before, state(model.learn(1)))
        assert any("action_net" in name for name in changed)
        assert_plays_what_it_predicts(model)
        adapted = model.adapt(task=GOAL)
        assert type(adapted.action_net) is type(model.policy.action_net)
    assert_same(*map(state, models))


def test_a_change_equals_the_policy_that_was_made_so():
    changed, made = model_of(), model_of(policy_kwargs={"activation_fn": nn.ReLU})
    for i in (1, 3):
        set_layer(changed.policy, i, nn.ReLU())
    made.set_parameters(changed.get_parameters())
    made.learn(1)
    changed.learn(1)
    assert_same(state(made), state(changed))


def test_plain_attributes_of_modules_count():
    class Scaled(LinearExtractor):
        scale = 1.0

        def forward(self, x):
            return super().forward(x) * th.as_tensor(self.scale)

    model = model_of(policy_kwargs={"features_extractor_class": Scaled})
    assert_plays_what_it_predicts(model)
    for value in (3.0, th.tensor(2.0), np.array(0.5, np.float32)):
        model.policy.features_extractor.scale = value
        assert_plays_what_it_predicts(model)
    model.policy.features_extractor.scale = tensor = th.tensor(2.0)
    assert_plays_what_it_predicts(model)
    tensor.mul_(3)
    assert_plays_what_it_predicts(model)


def test_asking_the_policy_changes_nothing():
    model = model_of()
    functional = model.functional
    model.predict(np.zeros(3, np.float32))
    model.policy.get_distribution(th.zeros(1, 3)).log_prob(th.zeros(1, 2)).sum().backward()
    model.policy(th.zeros(4, 3))
    model.policy.set_training_mode(True)
    assert model.functional is functional
    assert not model.policy.training


def test_a_new_distribution_is_followed():
    model = model_of()
    model.policy.action_dist = SquashedDiagGaussianDistribution(2)
    assert model.functional.kind.transform is np.tanh
    before = state(model)
    assert differ(before, state(model.learn(1)))


def refuses(match, model):
    before, numbers = state(model), (model.num_timesteps, model._iteration)
    with pytest.raises(ValueError, match=match):
        model.learn(1)
    assert_same(before, state(model))
    assert numbers == (model.num_timesteps, model._iteration)


def test_an_optimizer_that_does_not_hold_the_parameters():
    model = model_of()
    model.policy.action_net = nn.Linear(4, 2)
    refuses("`policy.optimizer` does not hold action_net.weight, which would not be trained", model)
    model.adapt(task=GOAL)  # nothing is optimised
    model.policy.optimizer = th.optim.Adam(model.policy.parameters(), lr=1e-3)
    before = state(model)
    assert "action_net.weight" in differ(before, state(model.learn(1)))
    # freezing by the choice of parameters would not hold for adaptation
    model = model_of()
    model.policy.optimizer = th.optim.Adam([model.policy.log_std], lr=1e-3)
    refuses("does not hold mlp_extractor.policy_net.0.weight.*requires_grad=False", model)
    # a value net that is not asked for need not be held; with a critic it must be
    for baseline in ("linear", "critic"):
        model = model_of(baseline=baseline)
        actor = [p for name, p in model.policy.named_parameters() if "value" not in name]
        model.policy.optimizer = th.optim.Adam(actor, lr=1e-3)
        if baseline == "critic":
            refuses("does not hold mlp_extractor.value_net.0.weight", model)
        else:
            model.learn(1)


def test_an_extractor_that_the_policy_does_not_use():
    model = model_of(policy_kwargs={"features_extractor_class": LinearExtractor})
    model.policy.features_extractor = LinearExtractor(model.observation_space)
    refuses("`policy.features_extractor` was replaced, but not `policy.pi_features_extractor`", model)


@pytest.mark.parametrize("kind", ["closure", "script"])
def test_a_function_of_a_module_that_no_copy_has(kind):
    model = model_of()
    if kind == "script":
        model.policy.action_net = th.jit.script(model.policy.action_net)
    else:
        forward = model.policy.action_net.forward
        model.policy.action_net.forward = lambda x: 2 * forward(x)
    refuses("cannot be evaluated at other parameters than its own", model)


def test_step_sizes_are_those_of_the_parameters_at_construction():
    model = model_of(inner_lr_learning_rate=0.1)
    model.policy.action_net = nn.Sequential(model.policy.action_net, nn.Tanh())
    refuses("`inner_lr_learning_rate` has no step size for action_net.0.weight", model)


@pytest.mark.parametrize("moment", ["_on_step", "_on_rollout_end"])
def test_a_network_that_changes_while_it_plays(moment):
    class Change(BaseCallback):
        def _on_step(self):
            return True

    def change(self):
        set_layer(self.model.policy, 1, nn.ReLU())
        return True

    setattr(Change, moment, change)
    model = model_of()
    before = state(model)
    with pytest.raises(ValueError, match="`policy` was changed while a meta-iteration was played"):
        model.learn(1, callback=Change())
    assert_same(before, state(model))


@pytest.mark.parametrize("moment", ["_on_rollout_start", "_on_step"])
def test_another_network_in_an_iteration_that_is_stopped_and_saved(moment, tmp_path):
    class Change(BaseCallback):
        steps = 0

        def _on_step(self):
            if moment == "_on_step" and self.steps == 0:
                self.change()
            self.steps += 1
            self.model.save(tmp_path / "model")
            return self.steps < 3

        def _on_rollout_start(self):
            if moment == "_on_rollout_start":
                self.change()

        def change(self):
            self.model.policy.action_net = nn.Sequential(self.model.policy.action_net, nn.Tanh())

    model = model_of()
    model.learn(1, callback=Change())
    assert (model.num_timesteps, model._iteration) == (0, 0)
    assert "action_net.0.weight" in state(model)
    model.learn(1)


# --------------------------------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("learnt", [False, True])
def test_copies_of_models(algorithm, learnt):
    model = model_of(algorithm, inner_lr_learning_rate=0.1)
    if learnt:
        model.learn(1)
    model.policy.get_distribution(th.zeros(2, 3))
    clone = copy.deepcopy(model)
    assert clone.policy is not model.policy and clone.functional.policy is clone.policy
    assert_same(state(model), state(clone))
    before = state(model)
    clone.learn(1)
    assert_same(before, state(model))
    model.learn(1)
    assert_same(state(model), state(clone))


def test_copies_of_models_that_log(tmp_path, capsys):
    model = model_of(verbose=1, tensorboard_log=str(tmp_path)).learn(1)
    clone = copy.deepcopy(model)
    assert_same(state(model.learn(1)), state(clone.learn(1)))


def test_adapting_after_a_question():
    """Also where modules keep what they have computed."""

    class Keeps(LinearExtractor):
        def forward(self, x):
            self.last = {"features": [super().forward(x)]}
            return self.last["features"][0]

    model = model_of(policy_kwargs={"features_extractor_class": Keeps})
    expected = model.adapt(task=GOAL).state_dict()
    model.policy.get_distribution(th.zeros(1, 3)).log_prob(th.zeros(1, 2))
    adapted = model.adapt(task=GOAL)
    for name, value in adapted.state_dict().items():
        assert th.equal(value, expected[name]), name
    copy.deepcopy(model)
    model.learn(1)


def test_changed_policies_in_algorithms_of_sb3():
    model = model_of()
    model.policy.log_std.requires_grad_(False)
    exported = to_sb3(model.policy, point(), PPO, n_steps=8, batch_size=8, device="cpu")
    assert not exported.policy.log_std.requires_grad
    set_layer(model.policy, 1, nn.ReLU())
    with pytest.raises(ValueError, match="`policy` was changed after it was made"):
        to_sb3(model.policy, point(), PPO, n_steps=8, batch_size=8, device="cpu")

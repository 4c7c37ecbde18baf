"""Which parameters an inner step changes, and by how much: restricted adaptation and a step size of each entry."""

import numpy as np
import pytest
import torch as th
from bad_input_tools import refuses, witness
from chain_tools import INNER, LEARNING_RATE, OUTER, assert_close, gradient, leaves, phase, surrogate
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from toys import ALGORITHMS, HORIZON, assert_same, differ, point_vec, rollout_of, state, tiny

from sb3_sgmrl import MAML, SGMRL, evaluate_adaptation
from sb3_sgmrl.gradient.advantages import episode_weights
from sb3_sgmrl.gradient.inner import WeightedSamples, adapt
from sb3_sgmrl.gradient.meta_gradient import meta_gradient
from sb3_sgmrl.gradient.objective import MetaObjective, TaskPhase
from sb3_sgmrl.gradient.step_sizes import StepSizes, matching
from sb3_sgmrl.theory.gradient_sample import make_estimators

HEAD = "action_net*"


def sizes_of(policy, owner):
    th.manual_seed(1)
    parameters = policy.parameters()
    if owner == "head":
        head = matching(list(parameters), HEAD)
        return {name: th.tensor(1.0 if name in head else 0.0).double() for name in parameters}
    return {name: th.rand_like(value) for name, value in parameters.items()}


@pytest.mark.parametrize("owner", ["head", "entry"])
@pytest.mark.parametrize("kind", ["pathwise", "lvc", "dice"])
@pytest.mark.parametrize("n_inner_steps", [1, 2])
def test_the_gradient_against_autodiff_through_the_chain(policy, n_inner_steps, kind, owner):
    sizes = sizes_of(policy, owner)
    objective = MetaObjective(INNER, OUTER, LEARNING_RATE, relative_lr=sizes, inner_surrogate=kind)
    theta = leaves(policy.parameters())
    parameters, trace = theta, []
    for stage in range(n_inner_steps + 1):
        batch = phase(20 + stage, n_episodes=4, n_steps=6)
        settings = OUTER if stage == n_inner_steps else INNER
        weighted = episode_weights(batch, settings, policy.policy.observation_space)[0]
        trace.append(TaskPhase({name: value.detach() for name, value in parameters.items()}, batch.task(0), weighted))
        samples = WeightedSamples.make(policy, batch.task(0), weighted.weights)
        log_prob = policy.log_prob(parameters, samples.observations, samples.actions)
        total = surrogate(kind if stage < n_inner_steps else "pathwise", log_prob, samples, samples.weights)
        step = gradient(total, parameters, create_graph=True) if stage < n_inner_steps else {}
        parameters = {name: parameters[name] + LEARNING_RATE * sizes[name] * step[name] for name in step}
    found = meta_gradient(policy, objective, None, [trace])
    assert_close(found.gradient, gradient(total, theta), 1e-9)
    assert all(bool(value.any()) for value in found.gradient.values())


def test_the_derivative_by_step_sizes_has_their_shape(policy):
    by_entry = sizes_of(policy, "entry")
    for sizes in (by_entry, {name: value.mean() for name, value in by_entry.items()}):
        objective = MetaObjective(INNER, OUTER, LEARNING_RATE, relative_lr=sizes)
        batch = phase(1)
        weighted = episode_weights(batch, INNER, policy.policy.observation_space)[0]
        one = TaskPhase(policy.parameters(), batch.task(0), weighted)
        samples = WeightedSamples.make(policy, one.batch, weighted.weights)
        adapted = adapt(policy, one.parameters, samples, LEARNING_RATE, sizes)
        found = meta_gradient(policy, objective, None, [[one, TaskPhase(adapted, one.batch, weighted)]]).relative_lr
        assert {name: value.shape for name, value in found.items()} == {name: value.shape for name, value in sizes.items()}


def test_step_sizes_of_entries_climb_one_by_one():
    shapes = {"a": th.Size([2]), "b": th.Size([1, 2])}
    sizes = StepSizes(["a", "b"], 0.4, th.device("cpu"), shapes)
    assert sizes.ascend({"a": th.tensor([1.0, -1.0]), "b": th.tensor([[0.0, 1.0]])}) == 0
    found = sizes.by_name()
    th.testing.assert_close(found["a"], th.tensor([1.4, 0.6]))
    th.testing.assert_close(found["b"], th.tensor([[1.0, 1.4]]))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_head_adapts_and_all_is_trained(algorithm):
    model = tiny(algorithm, point_vec(3), adapt_only=HEAD)
    head = {"action_net.weight", "action_net.bias"}
    before, adapted = (dict(policy.named_parameters()) for policy in (model.policy, model.adapt(task=np.array([0.5, 0.5]))))
    assert {name for name in before if not th.equal(before[name], adapted[name])} == head
    for trace in rollout_of(model).traces:
        assert {name for name, value in trace[1].parameters.items() if not th.equal(value, before[name])} == head
    start = state(model)
    model.learn(1)
    assert differ(start, state(model)) == set(model.functional.adapted_names)
    assert {name for name, value in model.inner_lr_by_parameter().items() if value > 0} == head


@pytest.mark.parametrize("settings", [{"score_coef": 1.0}, {"score_coef": 1.0, "control_variate": "counterfactual"}])
def test_the_score_term_sees_that_only_the_head_adapts(settings):
    models = [tiny(SGMRL, point_vec(3), adapt_only=names, **settings) for names in (HEAD, None)]
    # the same step sizes, as learned ones that have come to zero
    learned = tiny(SGMRL, point_vec(3), inner_lr_learning_rate=0.1, **settings)
    with th.no_grad():
        for i, name in enumerate(learned.functional.adapted_names):
            learned.step_sizes.relative[i] = float(name.startswith("action_net"))
    head, _, zeroed = (model.meta_gradient(rollout_of(model)) for model in (*models, learned))
    assert_same(*({name: value.numpy() for name, value in one.gradient.items()} for one in (head, zeroed)))


def test_all_names_are_no_restriction():
    assert_same(*(state(tiny(MAML, point_vec(3), adapt_only=names).learn(1)) for names in (None, "*")))


def test_step_sizes_are_learned_of_what_adapts(tmp_path):
    settings = {"adapt_only": [HEAD, "log_std"], "inner_lr_learning_rate": 0.3, "inner_lr_per": "entry"}
    model = tiny(SGMRL, point_vec(3), **settings).learn(1)
    assert model.step_sizes.names == ("log_std", "action_net.weight", "action_net.bias")
    relative = model.step_sizes.by_name()
    assert relative["action_net.weight"].shape == (2, 5) and relative["action_net.weight"].unique().numel() > 2
    model.train(rollout_of(model))
    logged = model.logger.name_to_value
    entries = np.concatenate([value.numpy().ravel() for value in model.step_sizes.by_name().values()])
    assert logged["train/inner_lr_min"] == pytest.approx(0.1 * entries.min())
    assert logged["train/inner_lr_max"] == pytest.approx(0.1 * entries.max())
    model.save(tmp_path / "model")
    loaded = SGMRL.load(tmp_path / "model", env=point_vec(3))
    together = [evaluate_adaptation(one, n_tasks=2, n_steps=1).returns for one in (model, loaded)]
    np.testing.assert_array_equal(*together)
    refuses("`inner_lr_per` cannot be changed by load", SGMRL.load, tmp_path / "model", inner_lr_per="tensor")
    refuses("`adapt_only` cannot be changed by load", SGMRL.load, tmp_path / "model", adapt_only="log_std")
    model.adapt_only = None
    refuses("`inner_lr_learning_rate` has no step size for mlp_extractor", model.learn, 1)
    model.adapt_only = HEAD
    before = model.step_sizes.by_name()
    model.train(rollout_of(model))
    after = model.step_sizes.by_name()
    assert {name for name in before if not th.equal(before[name], after[name])} == {"action_net.weight", "action_net.bias"}
    tiny(SGMRL, point_vec(3), adapt_only=HEAD).save(tmp_path / "fixed")
    assert SGMRL.load(tmp_path / "fixed", adapt_only="log_std").names_to_adapt == ("log_std",)


def test_estimators_of_the_gradient_adapt_the_same_parameters():
    model = tiny(MAML, point_vec(3), adapt_only=HEAD)
    estimators = make_estimators(model, {"maml": (MAML, {}), "sgmrl": (SGMRL, {})})
    assert all(one.inner_lr_by_parameter() == model.inner_lr_by_parameter() for one in estimators.values())


class Context(BaseFeaturesExtractor):
    """Appends a learned vector to the observation, as in CAVIA (Zintgraf et al. 2019)."""

    def __init__(self, observation_space, n_context=2):
        super().__init__(observation_space, observation_space.shape[0] + n_context)
        self.context = th.nn.Parameter(th.zeros(n_context))

    def forward(self, observations):
        return th.cat([observations, self.context.expand(len(observations), -1)], dim=1)


def test_a_context_vector_adapts_alone():
    policy_kwargs = {"features_extractor_class": Context}
    model = tiny(MAML, point_vec(3), adapt_only="*context", policy_kwargs=policy_kwargs)
    trace = rollout_of(model).traces[0]
    moved = [name for name, value in trace[1].parameters.items() if not th.equal(value, trace[0].parameters[name])]
    assert len(moved) == 1 and moved[0].endswith("context")
    assert trace[0].batch.observations.shape[1:] == (HORIZON, 3)
    before = state(model)
    model.learn(1)
    assert set(model.functional.adapted_names) <= differ(before, state(model))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapt_only": "action_nett*"}, r"`adapt_only` must match a parameter of the policy \(log_std.*got 'action_nett\*'"),
        ({"adapt_only": [HEAD, "value_net*"]}, r"`adapt_only` must match .*got 'value_net\*'"),
        ({"adapt_only": []}, "`adapt_only` must be a pattern of parameter names, a list of them, or None for all, got "),
        ({"adapt_only": 3}, "`adapt_only` must be a pattern .*got 3"),
        ({"inner_lr_per": "layer"}, "`inner_lr_per` must be one of tensor, entry, got 'layer'"),
        ({"inner_lr_per": "entry"}, "`inner_lr_per` must be 'tensor' without `inner_lr_learning_rate`, got 'entry'"),
    ],
)
def test_settings_that_fit_nothing_are_named(settings, message):
    refuses(message, tiny, MAML, witness(), **settings)


def test_names_set_afterwards_are_checked():
    model = tiny(MAML, witness())
    model.adapt_only = "head*"
    refuses("`adapt_only` must match a parameter", model.learn, 1)

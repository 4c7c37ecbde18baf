"""Features extractors of every kind: those that torch.func cannot run in one call, and those that no gradient is right for."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from network_tools import OF_THE_BATCH, ONCE_DIFFERENTIABLE, WITHOUT_VMAP, Branches, Lstm, Random, Remembers
from stable_baselines3.common.policies import ActorCriticPolicy
from toys import ALGORITHMS, assert_same, differ, point, point_vec, state, tiny

from sb3_sgmrl import EMAML, MAML, SGMRL
from sb3_sgmrl.policies.functional import FunctionalPolicy
from sb3_sgmrl.policies.inference import ParallelPolicies
from sb3_sgmrl.policies.likelihood import AutogradLikelihood, log_likelihood

SPACES = spaces.Box(-9.0, 9.0, (3,)), spaces.Box(-1.0, 1.0, (2,))


def make(extractor, **kwargs):
    th.manual_seed(0)
    return ActorCriticPolicy(*SPACES, lambda _: 1e-3, net_arch=[5], features_extractor_class=extractor, **kwargs)


def using(extractor):
    return {"policy_kwargs": {"features_extractor_class": extractor}}


def moved(functional, seed):
    th.manual_seed(seed)
    return {name: value + 0.3 * th.randn_like(value) for name, value in functional.parameters().items()}


@pytest.mark.parametrize("extractor", WITHOUT_VMAP)
def test_one_parameter_set_after_another(extractor):
    functional = FunctionalPolicy(make(extractor))
    assert not functional.vectorized
    sets = [moved(functional, seed) for seed in range(3)]
    observations = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    policies = ParallelPolicies(functional, sets, 3, 4)
    means, stds = policies.distributions(np.arange(12), observations)
    for i, parameters in enumerate(sets):
        rows = slice(4 * i, 4 * i + 4)
        with th.no_grad():
            expected = functional.policy_with(parameters).get_distribution(th.tensor(observations[rows])).distribution
        np.testing.assert_allclose(means[rows], expected.mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(stds[rows], expected.stddev, rtol=1e-5)
    # a row depends on no other
    for row in (0, 5, 11):
        for one, all_of_them in zip(policies.distributions(np.array([row]), observations[[row]]), (means, stds), strict=True):
            np.testing.assert_array_equal(one[0], all_of_them[row])


@pytest.mark.parametrize("extractor", WITHOUT_VMAP)
def test_training_does_not_depend_on_workers(extractor):
    models = [tiny(SGMRL, point_vec(n), **using(extractor)).learn(1) for n in (1, 5)]
    assert_same(*map(state, models))
    assert differ(state(models[0]), state(tiny(SGMRL, point_vec(1), **using(extractor))))
    models[0].adapt(task=np.array([0.5, 0.1]))


@pytest.mark.parametrize("extractor", WITHOUT_VMAP)
def test_derivatives_by_finite_differences(extractor):
    functional = FunctionalPolicy(make(extractor))
    parameters = moved(functional, 1)
    observations, actions = th.randn(9, 3), th.randn(9, 2)
    likelihood = log_likelihood(functional, parameters, observations, actions)
    assert isinstance(likelihood, AutogradLikelihood)
    th.manual_seed(3)
    v = {name: th.randn_like(value) for name, value in parameters.items()}
    weights, step = th.randn(9), 1e-2

    def at(factor):
        shifted = {name: value + factor * step * v[name] for name, value in parameters.items()}
        there = log_likelihood(functional, shifted, observations, actions)
        return functional.log_prob(shifted, observations, actions).detach(), there.gradient(weights)

    (low, low_gradient), (high, high_gradient) = at(-1), at(1)
    second, x = likelihood.hessian_product(weights, v)
    th.testing.assert_close(x, (high - low) / (2 * step), rtol=2e-2, atol=2e-2)
    th.testing.assert_close(likelihood.directional(v), x)
    slope = {name: (high_gradient[name] - low_gradient[name]) / (2 * step) for name in v}
    size = sum(float((value**2).sum()) for value in second.values()) ** 0.5
    error = sum(float(((second[name] - slope[name]) ** 2).sum()) for name in v) ** 0.5
    assert error < 0.02 * size, (error, size)


def test_all_branches_are_trained():
    """Also one that no observation of the probe goes through."""

    class Rare(Branches):
        def forward(self, x):
            x = x - 50
            return super().forward(x)

    functional = FunctionalPolicy(make(Rare))
    assert {"features_extractor.linear.weight", "features_extractor.other.weight"} <= set(functional.adapted_names)
    samples = th.randn(6, 3) + 60 * (th.arange(6) % 2)[:, None], th.randn(6, 2)
    gradient = log_likelihood(functional, functional.parameters(), *samples).gradient(th.ones(6))
    assert gradient["features_extractor.linear.weight"].abs().max() > 0
    # where no sample goes through it, its derivatives are zero
    likelihood = log_likelihood(functional, functional.parameters(), th.randn(6, 3), th.randn(6, 2))
    name = "features_extractor.linear.weight"
    assert likelihood.gradient(th.ones(6))[name].eq(0).all()
    second, _ = likelihood.hessian_product(th.ones(6), moved(functional, 0))
    assert second[name].eq(0).all() and second["features_extractor.other.weight"].abs().max() > 0


@pytest.mark.parametrize("extractor", ONCE_DIFFERENTIABLE)
def test_what_has_no_second_derivatives_is_refused_unless_none_are_needed(extractor):
    for algorithm, kwargs in ((SGMRL, {}), (MAML, {}), (EMAML, {})):
        with pytest.raises(ValueError, match=r"`policy` has no second derivatives \(.*not implemented|once_differentiable"):
            tiny(algorithm, point_vec(1), **using(extractor), **kwargs)
    with pytest.warns(UserWarning, match="most biased"), pytest.raises(ValueError, match="`policy` has no second derivatives"):
        tiny(SGMRL, point_vec(1), first_order=True, **using(extractor))
    for algorithm, kwargs in ((MAML, {}), (SGMRL, {"score_coef": 0})):
        model = tiny(algorithm, point_vec(2), first_order=True, **using(extractor), **kwargs)
        before = state(model)
        assert differ(before, state(model.learn(1)))
        model.adapt(task=np.array([0.5, 0.1]))
        model.first_order = False
        with pytest.raises(ValueError, match="`policy` has no second derivatives"):
            model.learn(1)


@pytest.mark.parametrize("extractor", OF_THE_BATCH)
@pytest.mark.parametrize("ortho_init", [True, False])
def test_what_depends_on_other_observations_is_refused(extractor, ortho_init):
    with pytest.raises(ValueError, match=f"`policy` must treat each observation by itself, but with {extractor.__name__} its"):
        FunctionalPolicy(make(extractor, ortho_init=ortho_init))


@pytest.mark.parametrize("extractor", [Remembers, Random])
def test_what_changes_from_call_to_call_is_refused(extractor):
    with pytest.raises(ValueError, match=f"alike in every call, but with {extractor.__name__} it does not"):
        tiny(SGMRL, point(), **using(extractor))


def test_what_fails_on_observations_is_refused():
    class Wrong(Lstm):
        def forward(self, x):
            return self.rnn(x)[0]

    with pytest.raises(ValueError, match="`policy` fails on an observation of its space"):
        tiny(SGMRL, point(), **using(Wrong))


@pytest.mark.filterwarnings("ignore:.*share a features extractor")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_lstm_learns_with_every_algorithm_and_a_critic(algorithm):
    model = tiny(algorithm, point_vec(2), baseline="critic", **using(Lstm))
    before = state(model)
    changed = differ(before, state(model.learn(1)))
    assert {"features_extractor.rnn.weight_hh_l0", "value_net.weight"} <= changed


def test_making_a_function_draws_nothing_from_torch():
    for policy in (make(Lstm), make(Branches)):
        th.manual_seed(7)
        FunctionalPolicy(policy)
        drawn = th.rand(3)
        th.manual_seed(7)
        assert th.equal(drawn, th.rand(3))

"""Distributions of every kind: what is played is what is differentiated, and what SB3 itself would play."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from network_tools import WITHOUT_KIND, BetaDistribution, InnerDistribution, Squashed, with_distribution, with_gaussian
from scipy import stats
from stable_baselines3.common.distributions import DiagGaussianDistribution, SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from toys import assert_same, differ, point_vec, state, tiny

from sb3_sgmrl import MAML, SGMRL
from sb3_sgmrl.common.sampling import collect_phase
from sb3_sgmrl.policies.functional import FunctionalPolicy
from sb3_sgmrl.policies.inference import ParallelPolicies
from sb3_sgmrl.policies.likelihood import AutogradLikelihood, MlpLikelihood, log_likelihood

SPACES = spaces.Box(-9.0, 9.0, (3,)), spaces.Box(-1.0, 1.0, (2,))
GOALS = [np.array([0.5, 0.2]), np.array([-0.3, 0.4])]
ALL = [Squashed, *WITHOUT_KIND]


def make(policy):
    th.manual_seed(0)
    return policy(*SPACES, lambda _: 1e-3, net_arch=[5])


def unchecked(*arrays):
    pass


@pytest.mark.parametrize("policy", ALL)
def test_actions_are_drawn_from_the_distribution_of_the_policy(policy):
    """By Kolmogorov and Smirnov, against SB3's own draws."""
    policy = make(policy)
    functional = FunctionalPolicy(policy)
    observation = np.array([0.4, -1.0, 0.3], np.float32)
    n = 2000
    policies = ParallelPolicies(functional, [functional.parameters()], 1, n)
    noise = functional.draw_noise(n, np.random.default_rng(0))
    ours = policies.actions(np.arange(n), np.tile(observation, (n, 1)), noise, unchecked)
    with th.no_grad():
        th.manual_seed(1)
        theirs = policy.get_distribution(th.tensor(observation).expand(n, 3)).sample().numpy()
    assert ours.shape == theirs.shape and ours.dtype == np.float32
    for dimension in range(2):
        assert stats.ks_2samp(ours[:, dimension], theirs[:, dimension]).pvalue > 1e-3


@pytest.mark.parametrize("policy", ALL)
def test_log_prob_is_that_of_sb3(policy):
    policy = make(policy)
    functional = FunctionalPolicy(policy)
    parameters = {name: value + 0.1 for name, value in functional.parameters().items()}
    observations = th.randn(20, 3)
    other = functional.policy_with(parameters)
    actions = other.get_distribution(observations).sample().detach()
    expected = other.evaluate_actions(observations, actions)[1] if policy.action_dist.entropy else None
    th.testing.assert_close(functional.log_prob(parameters, observations, actions), expected)
    likelihood = log_likelihood(functional, parameters, observations, actions)
    assert isinstance(likelihood, AutogradLikelihood)
    # the score has mean zero over the actions of its own distribution
    many = th.zeros(20_000, 3)
    actions = other.get_distribution(many).sample().detach()
    score = log_likelihood(functional, parameters, many, actions).gradient(th.full((20_000,), 1 / 20_000))
    assert max(float(value.abs().max()) for value in score.values()) < 0.1


@pytest.mark.parametrize("policy", ALL)
def test_episodes_depend_on_task_and_trajectory_alone(policy):
    phases = []
    for n_workers, order in ((1, GOALS), (3, GOALS), (4, GOALS)):
        env = point_vec(n_workers)
        functional = FunctionalPolicy(make(policy))
        th.manual_seed(n_workers)  # nobody else's random numbers count
        before = th.random.get_rng_state()
        phases.append(collect_phase(env, functional, [functional.parameters()], order, 3, [7]))
        assert th.equal(before, th.random.get_rng_state())
    for phase in phases[1:]:
        np.testing.assert_array_equal(phase.actions, phases[0].actions)
        np.testing.assert_array_equal(phase.rewards, phases[0].rewards)
    assert len(np.unique(phases[0].actions)) == phases[0].actions.size
    assert differ(
        {"a": phases[0].actions}, {"a": collect_phase(env, functional, [functional.parameters()], GOALS, 3, [8]).actions}
    )


@pytest.mark.parametrize("policy", ALL)
def test_learning_and_adapting(policy):
    models = [tiny(SGMRL, point_vec(n), policy, n_inner_steps=2).learn(1) for n in (2, 3)]
    assert_same(*map(state, models))
    assert differ(state(models[0]), state(tiny(SGMRL, point_vec(1), policy)))
    adapted = models[0].adapt(task=GOALS[0])
    assert differ(state(models[0]), {name: value.numpy() for name, value in adapted.state_dict().items()})
    action, _ = adapted.predict(np.zeros(3, np.float32), deterministic=False)
    assert np.isfinite(action).all()


def test_squashed_actions_are_never_at_the_limits():
    model = tiny(MAML, point_vec(2), Squashed, policy_kwargs={"log_std_init": 1.0})
    phase = collect_phase(model.env, model.functional, [model.functional.parameters()], GOALS, 20, [0])
    assert 0.9 < np.abs(phase.actions).max() < 1
    parameters = model.functional.parameters()
    for task in range(2):
        observations, actions = (th.tensor(x) for x in phase.task(task).samples())
        assert th.isfinite(model.functional.log_prob(parameters, observations, actions)).all()


def test_beta_actions_stay_in_the_unit_interval():
    model = tiny(MAML, point_vec(2), with_distribution(BetaDistribution))
    phase = collect_phase(model.env, model.functional, [model.functional.parameters()], GOALS, 5, [0])
    assert 0 < phase.actions.min() and phase.actions.max() < 1


def test_the_kind_is_found_by_what_is_drawn_and_not_by_the_class():
    class Renamed(DiagGaussianDistribution):
        def mode(self):
            return super().mode()

    for policy, known in (
        (ActorCriticPolicy, True),
        (with_gaussian(Renamed), True),
        (Squashed, True),
        (WITHOUT_KIND[-1], False),
    ):
        assert (FunctionalPolicy(make(policy)).kind is not None) == known
    policy = make(ActorCriticPolicy)
    policy.action_dist.sample = lambda: th.zeros(4, 2)
    assert FunctionalPolicy(policy).kind is None


def test_a_distribution_put_in_after_construction_is_followed():
    policy = make(ActorCriticPolicy)
    functional = FunctionalPolicy(policy)
    assert functional.mlp is not None
    policy.action_dist = SquashedDiagGaussianDistribution(2)
    followed = functional.followed(policy)
    assert followed.mlp is None and followed.kind.transform is np.tanh
    samples = th.zeros(3, 3), th.full((3, 2), 0.5)
    assert isinstance(log_likelihood(functional, functional.parameters(), *samples), MlpLikelihood)
    assert isinstance(log_likelihood(followed, followed.parameters(), *samples), AutogradLikelihood)


class _OwnGenerator(InnerDistribution):
    def inner(self, a, b):
        return th.distributions.Normal(a, b.exp())

    def sample(self):
        return self.distribution.mean + th.tensor(np.random.default_rng().normal(size=self.distribution.mean.shape)).float()


class _PerDimension(_OwnGenerator):
    sample = InnerDistribution.sample

    def log_prob(self, actions):
        return self.distribution.log_prob(actions)


class _OneNumber(InnerDistribution):
    def inner(self, a, b):
        return th.distributions.Independent(th.distributions.Normal(a.mean(1, keepdim=True), 1.0), 1)

    def log_prob(self, actions):
        return self.distribution.log_prob(actions)


class _Improper(InnerDistribution):
    def inner(self, a, b):
        return th.distributions.Beta(a, -b.exp())


@pytest.mark.parametrize(
    ("distribution", "match"),
    [
        (_OwnGenerator, r"with torch's generator, but _OwnGenerator.sample\(\) uses another"),
        (_PerDimension, r"log_prob is one number for an action, but that of _PerDimension has shape \(4, 2\)"),
        (_OneNumber, r"must draw actions of shape \(2,\), but _OneNumber draws \(1,\)"),
        (_Improper, "fails on an observation of its space"),
    ],
)
def test_distributions_that_are_refused(distribution, match):
    with pytest.raises(ValueError, match=match):
        tiny(SGMRL, point_vec(1), with_distribution(distribution))

"""Policies, phases and surrogates to differentiate through."""

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from toys import Float64

from sb3_sgmrl.data.batch import PhaseBatch
from sb3_sgmrl.gradient.advantages import AdvantageSettings
from sb3_sgmrl.policies.functional import FunctionalPolicy

SPACE = spaces.Box(-5, 5, (3,), np.float64)

LEARNING_RATE = 0.3

GAMMA = 0.9

INNER = AdvantageSettings(gamma=GAMMA, gae_lambda=0.95, baseline="linear", normalize=True)

OUTER = AdvantageSettings(gamma=GAMMA, gae_lambda=1.0, baseline="none", normalize=False, time_reduction="sum")


def gaussian_mlp(seed=0):
    th.manual_seed(seed)
    policy = ActorCriticPolicy(
        SPACE, spaces.Box(-1, 1, (2,)), lambda _: 0.0, net_arch=[4], activation_fn=nn.Tanh, features_extractor_class=Float64
    ).double()
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * th.randn_like(parameter))
    return FunctionalPolicy(policy)


def phase(seed, n_tasks=1, n_episodes=3, n_steps=4):
    """Episodes of varying length. Observations are whole numbers, which float32 holds exactly."""
    rng = np.random.default_rng(seed)
    mask = np.arange(n_steps) < rng.integers(1, n_steps + 1, (n_tasks, n_episodes, 1))
    mask[:, 0] = True
    observations = rng.integers(-3, 4, (*mask.shape, 3)).astype(np.float64) * mask[..., None]
    actions = rng.standard_normal((*mask.shape, 2)) * mask[..., None]
    rewards = rng.standard_normal(mask.shape) * mask
    return PhaseBatch(observations, actions, rewards, mask, rewards.sum(-1))


def flat(parameters):
    return th.cat([value.flatten() for value in parameters.values()])


def leaves(parameters):
    return {name: value.detach().requires_grad_() for name, value in parameters.items()}


def gradient(value, parameters, **kwargs):
    return dict(zip(parameters, th.autograd.grad(value, list(parameters.values()), **kwargs), strict=True))


def assert_close(one, other, tolerance=1e-10):
    assert one.keys() == other.keys()
    error = (flat(one) - flat({name: other[name] for name in one})).norm() / flat(other).norm()
    assert error < tolerance


def surrogate(kind, log_prob, samples, weights):
    """
    A function whose gradient is Σ w ∇ log π; the kinds differ in their second derivative only: Σ w log π, the likelihood ratio
    of single steps (Rothfuss et al. 2019), that of the episode so far, credited by difference (Farquhar et al. 2019).
    """
    if kind == "pathwise":
        return (weights * log_prob).sum()
    if kind == "lvc":
        return (weights * th.exp(log_prob - log_prob.detach())).sum()
    cumulative = log_prob.cumsum(0)
    lengths = th.bincount(samples.episode_index, minlength=samples.n_episodes)
    ends = lengths.cumsum(0)
    before_episode = th.cat([cumulative.new_zeros(1), cumulative])[ends - lengths]
    upto = cumulative - samples.per_sample(before_episode)
    before = upto - log_prob
    return (weights * (th.exp(upto - upto.detach()) - th.exp(before - before.detach()))).sum()

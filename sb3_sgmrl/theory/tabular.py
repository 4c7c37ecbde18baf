"""Small tabular MDPs and softmax policies on them, in float64."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_sgmrl.data.batch import TaskBatch
from sb3_sgmrl.policies.functional import FunctionalPolicy


@dataclass(frozen=True)
class TabularMDP:
    """
    A finite MDP with a fixed horizon.

    :param transitions: ``P(s'|s, a)``, shape (n_states, n_actions, n_states)
    :param rewards: r(s, a), shape (n_states, n_actions)
    :param initial: μ(s), shape (n_states,)
    :param horizon: number of steps of an episode
    """

    transitions: np.ndarray
    rewards: np.ndarray
    initial: np.ndarray
    horizon: int

    @classmethod
    def random(
        cls, n_states: int, n_actions: int, horizon: int, rng: np.random.Generator, deterministic: bool = False
    ) -> TabularMDP:
        """
        :param n_states: number of states
        :param n_actions: number of actions
        :param horizon: number of steps of an episode
        :param rng: source of randomness
        :param deterministic: one successor per state and action and one initial state, which keeps the number of trajectories
            low
        :return: Dirichlet(1) transitions and standard normal rewards
        """
        transitions = rng.dirichlet(np.ones(n_states), size=(n_states, n_actions))
        initial = rng.dirichlet(np.ones(n_states))
        if deterministic:
            transitions = np.eye(n_states)[transitions.argmax(-1)]
            initial = np.eye(n_states)[0]
        return cls(transitions, rng.standard_normal((n_states, n_actions)), initial, horizon)

    @classmethod
    def of_task(cls, task: np.ndarray, horizon: int) -> TabularMDP:
        """
        :param task: of the family :class:`~sb3_sgmrl.envs.tabular_mdp.TabularMDP`, shape (n_states, n_actions, n_states + 1)
        :param horizon: number of steps of an episode
        :return: the same MDP; rewards are the mean ones
        """
        return cls(task[..., :-1], task[..., -1], np.eye(len(task))[0], horizon)

    def trajectories(self) -> tuple[TaskBatch, np.ndarray]:
        """
        Every trajectory that can occur.

        :return: the trajectories as one batch, and the probability that the environment contributes to each, μ(s_0) Π P, shape
            (n_trajectories,)
        """
        n_states, n_actions = self.rewards.shape
        states = np.array(list(itertools.product(range(n_states), repeat=self.horizon)))
        actions = np.array(list(itertools.product(range(n_actions), repeat=self.horizon)))
        s = np.repeat(states, len(actions), axis=0)
        a = np.tile(actions, (len(states), 1))
        probability = self.initial[s[:, 0]] * self.transitions[s[:, :-1], a[:, :-1], s[:, 1:]].prod(1)
        s, a, probability = s[probability > 0], a[probability > 0], probability[probability > 0]
        return TaskBatch(s, a, self.rewards[s, a], np.ones(s.shape, dtype=bool)), probability


class _Float64OneHot(BaseFeaturesExtractor):
    """SB3's preprocessing ends in float32; exact comparisons need more."""

    def __init__(self, observation_space: spaces.Discrete) -> None:
        super().__init__(observation_space, features_dim=int(observation_space.n))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return observations.flatten(1).double()


def softmax_policy(n_states: int, n_actions: int, seed: int, scale: float = 0.5) -> FunctionalPolicy:
    """
    An SB3 policy with one logit per state and action (and a bias per action), in float64.

    :param n_states: number of states
    :param n_actions: number of actions
    :param seed: seed of its parameters
    :param scale: their standard deviation
    :return: the policy as a function
    """
    policy = ActorCriticPolicy(
        spaces.Discrete(n_states),
        spaces.Discrete(n_actions),
        lambda _: 0.0,
        net_arch=[],
        features_extractor_class=_Float64OneHot,
    ).double()
    generator = th.Generator().manual_seed(seed)
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(scale * th.randn(parameter.shape, generator=generator, dtype=th.float64))
    return FunctionalPolicy(policy)

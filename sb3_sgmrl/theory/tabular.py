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

    :param transitions: The transition probabilities ``P(s'|s, a)``, shape (n_states, n_actions, n_states)
    :param rewards: The rewards r(s, a), shape (n_states, n_actions)
    :param initial: The initial distribution μ(s), shape (n_states,)
    :param horizon: The number of steps of an episode
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
        Draw a random MDP with Dirichlet(1) transitions and standard normal rewards.

        :param n_states: The number of states
        :param n_actions: The number of actions
        :param horizon: The number of steps of an episode
        :param rng: The random number generator
        :param deterministic: Whether each state and action has one successor, and the initial state is fixed. This keeps the
            number of trajectories low
        :return: The MDP
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
        Make the MDP of a task of the family :class:`~sb3_sgmrl.envs.tabular_mdp.TabularMDP`.

        :param task: The task, shape (n_states, n_actions, n_states + 1)
        :param horizon: The number of steps of an episode
        :return: The same MDP with mean rewards
        """
        return cls(task[..., :-1], task[..., -1], np.eye(len(task))[0], horizon)

    def trajectories(self) -> tuple[TaskBatch, np.ndarray]:
        """
        Enumerate every trajectory with positive probability.

        :return: The trajectories as one batch, and the factor μ(s_0) Π P that the environment contributes to the probability
            of each, shape (n_trajectories,)
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
    """One-hot features in float64: SB3's preprocessing returns float32, which is too coarse for exact comparisons."""

    def __init__(self, observation_space: spaces.Discrete) -> None:
        super().__init__(observation_space, features_dim=int(observation_space.n))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        Cast one-hot observations to float64.

        :param observations: The one-hot observations, shape (n, 1, n_states) or (n, n_states)
        :return: The features, shape (n, n_states)
        """
        return observations.flatten(1).double()


def softmax_policy(n_states: int, n_actions: int, seed: int, scale: float = 0.5) -> FunctionalPolicy:
    """
    Make an SB3 policy with one logit per state and action (and a bias per action), in float64.

    :param n_states: The number of states
    :param n_actions: The number of actions
    :param seed: The seed of the parameters
    :param scale: The standard deviation of the parameters
    :return: The policy as a function
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

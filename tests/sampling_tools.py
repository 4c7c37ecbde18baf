"""Phases to play."""

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from toys import ACTIONS, OBSERVATIONS

from sb3_sgmrl.common.sampling import collect_phase
from sb3_sgmrl.policies.functional import FunctionalPolicy
from sb3_sgmrl.vec_env.borrowing import tasks_released_afterwards

TASKS = [np.array([0.5, 0.5]), np.array([-0.5, 0.2]), np.array([0.1, -0.9])]

ENTROPY = [3, 1, 4]


def functional(observation_space=OBSERVATIONS["vector"], action_space=ACTIONS["box"]):
    th.manual_seed(0)
    return FunctionalPolicy(ActorCriticPolicy(observation_space, action_space, lambda _: 1e-3, net_arch=[7]))


def sets_of(policy, n=3):
    generator = th.Generator().manual_seed(1)
    return [{k: v + 0.5 * th.randn(v.shape, generator=generator) for k, v in policy.parameters().items()} for _ in range(n)]


def collect(env, policy=None, tasks=TASKS, n_episodes=4, **kwargs):
    policy = policy or functional(env.observation_space, env.action_space)
    with tasks_released_afterwards(env):
        return collect_phase(env, policy, sets_of(policy, len(tasks)), tasks, n_episodes, ENTROPY, **kwargs)


def assert_same_phase(one, other):
    for name in ("observations", "actions", "rewards", "mask", "episode_returns"):
        x, y = getattr(one, name), getattr(other, name)
        if isinstance(x, dict):
            assert x.keys() == y.keys()
            for key in x:
                np.testing.assert_array_equal(x[key], y[key], err_msg=key)
        else:
            np.testing.assert_array_equal(x, y, err_msg=name)

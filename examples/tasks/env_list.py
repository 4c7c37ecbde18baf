"""Tasks as a list of environments: balance a pole on a cart whose motor may be reversed. Takes about a minute."""

import sys

import gymnasium as gym
from gymnasium.wrappers import TransformAction

from sb3_sgmrl import SGMRL, TaskDistEnv, evaluate_adaptation

TIMESTEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 600_000  # the tests of the package pass 1


def reversed_motor():
    env = gym.make("InvertedPendulum-v5", max_episode_steps=100)
    return TransformAction(env, lambda action: -action, env.action_space)


# Pass environments, ids or functions that make one. Their spaces must be equal, everything else may differ. The task is the
# index in the list.
env = TaskDistEnv([gym.make("InvertedPendulum-v5", max_episode_steps=100), reversed_motor])

model = SGMRL("MlpPolicy", env, meta_batch_size=10, n_episodes=20, inner_lr=0.3, learning_rate=3e-3, seed=0)
model.learn(TIMESTEPS)
print(evaluate_adaptation(model, tasks=[0, 1] * 10, n_steps=1))

"""Discrete actions: CartPole, where 'push to the left' may push to the right. Takes about a minute."""

import sys

from sb3_sgmrl import SGMRL, TaskDistEnv, evaluate_adaptation

TIMESTEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 600_000  # the tests of the package pass 1

# Discrete actions need no special code. The tasks are a list of values for an attribute.
env = TaskDistEnv("CartPole-v1", tasks=[-12.0, -10.0, -8.0, 8.0, 10.0, 12.0], set_task="force_mag", max_episode_steps=100)

model = SGMRL("MlpPolicy", env, meta_batch_size=10, n_episodes=20, inner_lr=0.3, learning_rate=3e-3, seed=0)
model.learn(TIMESTEPS)
print(evaluate_adaptation(model, tasks=[-11.0, -9.0, 9.0, 11.0] * 5, n_steps=1))

"""CARL contexts: balance poles of different lengths with motors of different strengths. Takes about a minute.

One policy learns to balance all of them, including the longer test poles, so adaptation has nothing to gain here.

CARL requires a Gymnasium below 1.0. Its classic control environments also run with later versions. Install it with
``pip install --no-deps carl-bench ConfigSpace omegaconf more_itertools``.
"""

import sys

import gymnasium as gym
from carl.envs import CARLCartPole

from sb3_sgmrl import SGMRL, evaluate_adaptation
from sb3_sgmrl.adapters import carl_contexts

TIMESTEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 600_000  # the tests of the package pass 1
N_TASKS = 4 if TIMESTEPS == 1 else 40

# Ranges of the context features that differ between tasks. Other features keep CARL's defaults. The context is not observed.
env = carl_contexts(
    CARLCartPole(env=gym.make("CartPole-v1", max_episode_steps=100)),
    {"length": (0.3, 0.8), "force_mag": (5.0, 12.0)},
    test_contexts={"length": (0.8, 1.0), "force_mag": (5.0, 12.0)},
)

model = SGMRL("MlpPolicy", env, meta_batch_size=10, n_episodes=20, inner_lr=0.3, learning_rate=3e-3, seed=0)
model.learn(TIMESTEPS)
print(evaluate_adaptation(model, n_tasks=N_TASKS, n_steps=1))

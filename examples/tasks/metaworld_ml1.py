"""Meta-World's ML1: reach for a hidden goal with a robot arm. Takes about two minutes.

This example needs its own Python environment, because Meta-World pins an old version of MuJoCo. See docs/guide/adapters.md.
"""

import sys

from sb3_sgmrl import SGMRL, evaluate_adaptation
from sb3_sgmrl.adapters import evaluate_success, metaworld_benchmark

TIMESTEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 60_000  # the tests of the package pass 1
N_TASKS, HORIZON = (2, 5) if TIMESTEPS == 1 else (10, 100)

# The benchmark has 50 training goals and 50 test goals. For ML10 or ML45 use metaworld_benchmark("ML10").
# Meta-World's own time limit is 500 steps.
env = metaworld_benchmark("reach-v3", seed=0, max_episode_steps=HORIZON)

model = SGMRL(
    "MlpPolicy",
    env,
    meta_batch_size=10,
    n_episodes=10,
    learning_rate=3e-3,
    gamma=0.95,
    policy_kwargs={"log_std_init": -0.5},
    n_envs=10,
    seed=0,
)
model.learn(TIMESTEPS)
print(evaluate_adaptation(model, n_tasks=N_TASKS, n_steps=1))
print("\nMeta-World's protocol, 10 episodes for adaptation and 3 for the score, on test goals:")
print(evaluate_success(model, n_tasks=N_TASKS, n_steps=1))

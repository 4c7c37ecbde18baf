"""An attribute of the environment is the task: Pendulum under another gravity. Takes about a minute.

One policy learns to be good under all of them, so that adaptation has little to gain here. Where it has much, see discrete.py.
"""

import sys

from gymnasium import spaces

from sb3_sgmrl import SGMRL, TaskDistEnv, evaluate_adaptation

TIMESTEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 1_200_000  # the tests of the package pass 1

# The name of the attribute is enough: before every reset, env.unwrapped.g becomes the task. With a gravity below zero the
# pendulum stands up by itself. Stronger gravities than any of training are among those for testing.
env = TaskDistEnv(
    "Pendulum-v1",
    task_space=spaces.Box(-8.0, 8.0, (1,)),
    set_task="g",
    test_tasks=spaces.Box(-10.0, 10.0, (1,)),
    max_episode_steps=100,
)
observation, info = env.reset(seed=0)
print(f"The gravity of this episode is {info['task']}, and that of a test task {env.sample_tasks(1, rng=0, split='test')[0]}.")

model = SGMRL("MlpPolicy", env, meta_batch_size=10, n_episodes=10, learning_rate=3e-3, gamma=0.95, seed=0)
model.learn(TIMESTEPS)
print(evaluate_adaptation(model, n_tasks=40, n_steps=1))

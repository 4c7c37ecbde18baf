"""Tasks as an attribute of the environment: Pendulum with different gravities. Takes about a minute.

One policy can be good at all of these tasks, so adaptation gains little here. For a larger gain see discrete.py.
"""

import sys

from gymnasium import spaces

from sb3_sgmrl import SGMRL, TaskDistEnv, evaluate_adaptation

TIMESTEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 1_200_000  # the tests of the package pass 1

# Pass the name of the attribute: before every reset, env.unwrapped.g becomes the task. With a gravity below zero the
# pendulum stands up by itself. The test tasks include stronger gravities than the training tasks.
env = TaskDistEnv(
    "Pendulum-v1",
    task_space=spaces.Box(-8.0, 8.0, (1,)),
    set_task="g",
    test_tasks=spaces.Box(-10.0, 10.0, (1,)),
    max_episode_steps=100,
)
observation, info = env.reset(seed=0)
print(f"The gravity of this episode is {info['task']}. A test task: {env.sample_tasks(1, rng=0, split='test')[0]}.")

model = SGMRL("MlpPolicy", env, meta_batch_size=10, n_episodes=10, learning_rate=3e-3, gamma=0.95, seed=0)
model.learn(TIMESTEPS)
print(evaluate_adaptation(model, n_tasks=40, n_steps=1))

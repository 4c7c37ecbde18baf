"""Gymnasium-Robotics goals: roll a ball through an open maze to a hidden goal. Takes about a minute.

One minute is too short to learn this task; the script shows the setup.
Needs ``pip install ".[robotics]"``.
"""

import sys

from sb3_sgmrl import SGMRL, evaluate_adaptation
from sb3_sgmrl.adapters import evaluate_success, robotics_goals

TIMESTEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 300_000  # the tests of the package pass 1
N_TASKS = 4 if TIMESTEPS == 1 else 40

# Pass any goal environment. Its desired_goal is the task and is not observed. The environment itself draws the goals.
env = robotics_goals("PointMaze_OpenDense-v3", max_episode_steps=50)

model = SGMRL("MlpPolicy", env, meta_batch_size=20, n_episodes=10, learning_rate=3e-3, gamma=0.95, seed=0)
model.learn(TIMESTEPS)
print(evaluate_adaptation(model, n_tasks=N_TASKS, n_steps=1))
print("\nEpisodes in which the ball came within 45 cm of the goal, with the most likely actions:")
print(evaluate_success(model, n_tasks=N_TASKS, n_steps=1))

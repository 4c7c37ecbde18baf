"""Train a policy that adapts to a hidden goal from the rewards of 20 episodes. Takes about half a minute."""

import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_sgmrl import SGMRL, TaskDistEnv, evaluate_adaptation

# Navigation2D-v0 draws a goal in a square at every reset. The goal is not observed.
env = TaskDistEnv("Navigation2D-v0")

# A meta-iteration has 20 goals, each with 20 episodes for adaptation and 20 to measure the gain: up to 80,000 steps.
model = SGMRL("MlpPolicy", env, meta_batch_size=20, n_episodes=20, learning_rate=3e-3, seed=0, verbose=0)
print("Untrained, on 40 goals drawn for evaluation:")
print(evaluate_adaptation(model, n_tasks=40, n_steps=2))

model.learn(800_000)
print("\nAfter 800,000 steps, on the same goals:")
print(evaluate_adaptation(model, n_tasks=40, n_steps=2))

model.save("quickstart")
model = SGMRL.load("quickstart", env=env)

# Adaptation returns an ordinary Stable-Baselines3 policy and does not change the model.
goal = np.array([0.4, -0.3])
adapted = model.adapt(env, task=goal, n_steps=2)
env.set_task(goal)
for name, policy in (("meta-policy", model.policy), ("adapted policy", adapted)):
    mean, std = evaluate_policy(policy, env, n_eval_episodes=20, deterministic=False, warn=False)
    print(f"{name} on the goal {goal}: {mean:.1f} ± {std:.1f}")

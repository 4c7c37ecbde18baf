"""Tasks as a reward function: turn a pendulum at a hidden target speed. Takes about a minute."""

import sys

import gymnasium as gym
import numpy as np

from sb3_sgmrl import SGMRL, TaskDistEnv, evaluate_adaptation

TIMESTEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 800_000  # the tests of the package pass 1


class TurnAt(gym.Wrapper):
    """Reward speeds close to a target speed, which is not observed."""

    def __init__(self, env):
        super().__init__(env)
        self.wanted = 0.0

    def set_task(self, task):
        self.wanted = float(task)

    def step(self, action):
        observation, _, terminated, truncated, info = self.env.step(action)
        return observation, -abs(observation[2] - self.wanted), terminated, truncated, info


# A wrapper with a method set_task needs no further argument. The split holds out a fifth of the speeds for testing. Without
# gravity the motor is strong enough for all speeds.
base = gym.make("Pendulum-v1", g=0.0, max_episode_steps=50)
env = TaskDistEnv(TurnAt(base), tasks=np.linspace(-4.0, 4.0, 41), split=0.2)

model = SGMRL("MlpPolicy", env, meta_batch_size=20, n_episodes=10, learning_rate=3e-3, gamma=0.9, seed=0)
model.learn(TIMESTEPS)
print(evaluate_adaptation(model, n_tasks=8, n_steps=1))

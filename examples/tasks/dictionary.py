"""Dictionary observations: follow or flee a light, depending on a hidden task. Takes about a minute."""

import sys

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_sgmrl import SGMRL, TaskDistEnv, evaluate_adaptation

TIMESTEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 400_000  # the tests of the package pass 1


class Light(gym.Env):
    """Move on a line; the light shines from the right or from the left."""

    observation_space = spaces.Dict(place=spaces.Box(-np.inf, np.inf, (1,), np.float32), light_from_right=spaces.Discrete(2))
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    attraction = 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.light = 0.0, int(self.np_random.integers(2))
        return self.observe(), {}

    def step(self, action):
        move = float(action[0])
        self.place += 0.1 * move
        reward = self.attraction * (move if self.light else -move)
        if self.np_random.random() < 0.1:
            self.light = 1 - self.light
        return self.observe(), reward, False, False, {}

    def observe(self):
        return {"place": np.array([self.place], np.float32), "light_from_right": self.light}


env = TaskDistEnv(
    gym.wrappers.TimeLimit(Light(), max_episode_steps=20), task_space=spaces.Box(-1.0, 1.0, ()), set_task="attraction"
)

# MultiInputPolicy takes dictionaries and one-hot encodes Discrete spaces.
model = SGMRL("MultiInputPolicy", env, meta_batch_size=20, n_episodes=10, learning_rate=3e-3, gamma=0.9, seed=0)
model.learn(TIMESTEPS)
print(evaluate_adaptation(model, n_tasks=40, n_steps=1))

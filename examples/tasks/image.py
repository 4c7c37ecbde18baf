"""Image observations: move a dot to a hidden side of the picture. Takes about a minute."""

import sys

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_sgmrl import SGMRL, TaskDistEnv, evaluate_adaptation

TIMESTEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 60_000  # the tests of the package pass 1
SIDES = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}


class Dot(gym.Env):
    """Move a dot; a step towards the target side earns 1, and a step away from it costs 1."""

    observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    action_space = spaces.Discrete(4)
    side = "left"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.integers(4, 8, size=2)
        return self.picture(), {}

    def step(self, action):
        before = self.place
        self.place = np.clip(before + list(SIDES.values())[action], 0, 11)
        reward = (self.place - before) @ SIDES[self.side]
        return self.picture(), float(reward), False, False, {}

    def picture(self):
        picture = np.zeros((36, 36, 1), np.uint8)
        row, column = 3 * self.place
        picture[row : row + 3, column : column + 3] = 255
        return picture


# A task may be any object that pickle supports.
env = TaskDistEnv(gym.wrappers.TimeLimit(Dot(), max_episode_steps=10), tasks=list(SIDES), set_task="side")

# SB3's CnnPolicy moves the channels to the front and divides by 255. Images need memory and time, so batches are small.
model = SGMRL(
    "CnnPolicy",
    env,
    meta_batch_size=8,
    n_episodes=10,
    inner_lr=0.3,
    policy_kwargs={"net_arch": []},
    seed=0,
)
model.learn(TIMESTEPS)
print(evaluate_adaptation(model, tasks=list(SIDES) * 5, n_steps=1))

"""Tasks as reset options: the environment receives its goal from ``reset(options=...)``. Takes about a minute."""

import sys

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_sgmrl import SGMRL, TaskDistEnv, evaluate_adaptation

TIMESTEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 600_000  # the tests of the package pass 1


class Reach(gym.Env):
    """Move to a goal that is not observed."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal = np.asarray((options or {}).get("goal", [0.0, 0.0]))
        self.place = np.zeros(2)
        return self.place.astype(np.float32), {}

    def step(self, action):
        self.place = self.place + 0.1 * action
        return self.place.astype(np.float32), -float(np.linalg.norm(self.place - self.goal)), False, False, {}


# If set_task returns a dict, reset receives it as options.
def choose_goal(base_env, task):
    return {"goal": task}


env = TaskDistEnv(
    gym.wrappers.TimeLimit(Reach(), max_episode_steps=30), task_space=spaces.Box(-1.0, 1.0, (2,)), set_task=choose_goal
)

model = SGMRL("MlpPolicy", env, meta_batch_size=20, n_episodes=10, learning_rate=3e-3, seed=0)
model.learn(TIMESTEPS)
print(evaluate_adaptation(model, n_tasks=40, n_steps=1))

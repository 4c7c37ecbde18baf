"""Three ways to make a task family from any Gymnasium environment. Runs for half a minute; to learn takes longer."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_sgmrl import SGMRL, TaskDistEnv, evaluate_adaptation

# 1. Another gravity in every task: the name of an attribute of the base environment is enough. What is learned on gravities
#    up to 12 is tested on stronger ones.
gravity = TaskDistEnv(
    "Pendulum-v1",
    task_space=spaces.Box(5.0, 12.0, (1,)),
    set_task="g",
    test_tasks=spaces.Box(12.0, 15.0, (1,)),
)


# 2. Another reward in every task: turn at a given speed. A wrapper computes it, and its attribute is the task.
class TurnAt(gym.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        self.speed = 0.0

    def set_task(self, task):
        self.speed = float(task)

    def step(self, action):
        observation, _, terminated, truncated, info = self.env.step(action)
        return observation, -abs(observation[2] - self.speed), terminated, truncated, info


turning = TaskDistEnv(TurnAt(gym.make("Pendulum-v1")), tasks=np.linspace(-4.0, 4.0, 20), split=0.2)

# 3. A list of environments, one per task, however they differ.
lengths = TaskDistEnv([gym.make("Pendulum-v1", g=10.0), gym.make("Pendulum-v1", g=5.0), gym.make("Pendulum-v1", g=-10.0)])

for name, env in (("gravity", gravity), ("turning", turning), ("list of environments", lengths)):
    _, info = env.reset(seed=0)
    print(f"\n{name}: an episode's task is {info['task']}, a test task {env.sample_tasks(1, rng=0, split='test')[0]}")
    model = SGMRL("MlpPolicy", env, meta_batch_size=4, n_episodes=4, gamma=0.95, seed=0)
    model.learn(20_000)
    print(evaluate_adaptation(model, n_tasks=3, n_steps=1))

"""MiniGrid layouts: fetch one of two objects in a grid, depending on a hidden task. Takes about two minutes.

Two minutes are too short to learn this task; the script shows the setup.
Needs ``pip install ".[minigrid]"``.
"""

import sys

from sb3_sgmrl import SGMRL, evaluate_adaptation
from sb3_sgmrl.adapters import minigrid_layouts

TIMESTEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 80_000  # the tests of the package pass 1
N_TASKS, N_EPISODES = (2, 2) if TIMESTEPS == 1 else (40, 10)

# The seed of the layout is the task. It fixes the positions and the object to fetch in every episode. The agent does not
# observe the mission text. Fetching the wrong object ends the episode without a reward.
env = minigrid_layouts("MiniGrid-Fetch-5x5-N2-v0", layouts=range(1000), test_layouts=range(1000, 1100), max_steps=20)

# Actions are discrete. An observation is a dictionary with an image of symbols and a direction.
model = SGMRL("MultiInputPolicy", env, meta_batch_size=20, n_episodes=N_EPISODES, inner_lr=0.3, learning_rate=3e-3, seed=0)
model.learn(TIMESTEPS)
print(evaluate_adaptation(model, n_tasks=N_TASKS, n_steps=1))

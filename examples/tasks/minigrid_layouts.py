"""MiniGrid: fetch one of two things in a grid; nobody tells which. Takes about two minutes.

That is too short to learn it; the script shows how it is done.
Needs ``pip install ".[minigrid]"``.
"""

import sys

from sb3_sgmrl import SGMRL, evaluate_adaptation
from sb3_sgmrl.adapters import minigrid_layouts

TIMESTEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 80_000  # the tests of the package pass 1
N_TASKS, N_EPISODES = (2, 2) if TIMESTEPS == 1 else (40, 10)

# The seed of the layout is the task: it says where everything is and what to fetch, in every episode. The mission, a text, is
# not observed. To fetch the wrong thing ends the episode without a reward.
env = minigrid_layouts("MiniGrid-Fetch-5x5-N2-v0", layouts=range(1000), test_layouts=range(1000, 1100), max_steps=20)

# Actions are discrete and observations dictionaries of an image of symbols and a direction.
model = SGMRL("MultiInputPolicy", env, meta_batch_size=20, n_episodes=N_EPISODES, inner_lr=0.3, learning_rate=3e-3, seed=0)
model.learn(TIMESTEPS)
print(evaluate_adaptation(model, n_tasks=N_TASKS, n_steps=1))

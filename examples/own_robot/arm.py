"""An arm of one's own, from a file: reach a place that is not observed, with a payload that is not known. A few minutes."""

import sys
from pathlib import Path

import numpy as np
from gymnasium import spaces

from sb3_sgmrl import SGMRL, MujocoFamily, TaskDistEnv, check_family, evaluate_adaptation


class Arm(MujocoFamily):
    """Bring the tip to a place; the first two numbers of a task are the place."""

    def reward(self, state, controls, tasks):
        return -np.linalg.norm(state.site("tip")[:, :2] - tasks[:, :2], axis=1)


family = Arm(
    Path(__file__).parent / "arm.xml",
    frame_skip=5,
    task_space=spaces.Box(-0.5, 0.5, (2,)),
    factors={"body_mass": {"payload": (0.5, 3.0)}},
    sensors=["tip"],
    reset_noise=0.1,
)
family.register("Arm-v0", max_episode_steps=50)

if __name__ == "__main__":
    check_family(family)
    print(f"A task is {', '.join(family.task_labels)}.")
    model = SGMRL(
        "MlpPolicy", TaskDistEnv("Arm-v0"), meta_batch_size=20, n_episodes=10, learning_rate=3e-3, gamma=0.95, seed=0
    )
    model.learn(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000)  # the tests of the package pass 1
    print(evaluate_adaptation(model, n_tasks=40, n_steps=1))

"""Gymnasium's ant.xml with tasks of one's own: a direction, a load, weak motors, little friction. Takes minutes."""

import sys
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces

from sb3_sgmrl import SGMRL, MujocoFamily, TaskDistEnv, check_family, evaluate_adaptation


class Legged(MujocoFamily):
    """Run in a direction of the plane, a vector of length 1, without falling."""

    default_camera_config = {"distance": 4.0}  # noqa: RUF012

    def observe(self, state):
        return np.concatenate([state.qpos[:, 2:], np.clip(state.qvel, -10, 10)], axis=1)

    def remember(self, state):
        return state.qpos[:, :2]

    def reward(self, state, controls, tasks):
        velocity = (state.qpos[:, :2] - state.before) / self.dt
        return (tasks[:, :2] * velocity).sum(axis=1) + 1.0 - 0.1 * np.square(controls).sum(axis=1)

    def terminated(self, state, tasks):
        return (state.qpos[:, 2] < 0.2) | (state.qpos[:, 2] > 1.0)

    def sample_tasks(self, n, rng):
        tasks = np.array(super().sample_tasks(n, rng))
        angles = rng.uniform(0, 2 * np.pi, n)
        tasks[:, :2] = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return list(tasks)


family = Legged(
    Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "ant.xml",
    frame_skip=5,
    task_space=spaces.Box(-1.0, 1.0, (2,)),
    factors={
        "body_mass": {"torso": (0.5, 2.0)},
        "actuator_gainprm": (0.7, 1.3),
        "geom_friction": (0.3, 1.0),  # of all geoms: a contact has the greater friction of its two
    },
    default_task=[1.0, 0.0, 1.0, 1.0, 1.0],
    reset_noise=0.1,
)
family.register("Legged-v0", max_episode_steps=200)

if __name__ == "__main__":
    check_family(family)
    print(f"A task is {', '.join(family.task_labels)}.")
    model = SGMRL("MlpPolicy", TaskDistEnv("Legged-v0"), meta_batch_size=20, n_episodes=10, gamma=0.97, seed=0)
    model.learn(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)  # the tests of the package pass 1
    print(evaluate_adaptation(model, n_tasks=20, n_steps=1))

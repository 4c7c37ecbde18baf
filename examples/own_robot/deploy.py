"""From an XML to a network for the robot: train over load and friction, record, adapt, judge, export. Takes minutes."""

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np

from sb3_sgmrl import SGMRL, EpisodeRecorder, MujocoFamily, TaskDistEnv, export_onnx, guarded_adapt


class Reach(MujocoFamily):
    """Bring the tip to a place; the load and the friction of the joints differ from task to task."""

    def reward(self, state, controls, tasks):
        return -np.linalg.norm(state.site("tip")[:, :2] - np.array([0.3, 0.4]), axis=1)


family = Reach(
    Path(__file__).parent / "arm.xml",
    frame_skip=5,
    factors={"body_mass": {"payload": (0.5, 10.0)}, "dof_damping": (0.5, 10.0)},
    sensors=["tip"],
    reset_noise=0.1,
)
family.register("Reach-v0", max_episode_steps=50)

if __name__ == "__main__":
    model = SGMRL("MlpPolicy", TaskDistEnv("Reach-v0"), meta_batch_size=20, n_episodes=10, learning_rate=3e-3, seed=0)
    model.learn(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)  # the tests of the package pass 1
    # In place of the robot: one environment of which the policy knows neither load nor friction.
    robot = gym.make("Reach-v0")
    robot.unwrapped.set_task([9.0, 8.0])
    recorder = EpisodeRecorder(robot)
    episodes = recorder.play(model, n_episodes=10)
    recorder.save("log.npz")  # for `python -m sb3_sgmrl.adapt --episodes log.npz`
    guarded = guarded_adapt(model, episodes, held_out=recorder.play(model, n_episodes=10, seed=1))
    print(guarded)
    export_onnx(model, "policy.onnx", guarded.policy)
    returns = [recorder.play(model, 20, policy, seed=2).episode_returns.mean() for policy in (model.policy, guarded.policy)]
    print(f"Mean return {returns[0]:.2f} before, {returns[1]:.2f} after.")

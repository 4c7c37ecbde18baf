"""From an XML to a network for the robot: train over the motors' gains, record, adapt, judge, export. About half a minute."""

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np

from sb3_sgmrl import SGMRL, EpisodeRecorder, MujocoFamily, TaskDistEnv, export_onnx, guarded_adapt


class Reach(MujocoFamily):
    """Bring the tip to a place; each motor may be weak, strong, or wired the other way round."""

    def reward(self, state, controls, tasks):
        return -np.linalg.norm(state.site("tip")[:, :2] - np.array([0.3, 0.4]), axis=1)


gains = {"shoulder": (-1.5, 1.5), "elbow": (-1.5, 1.5)}
xml = Path(__file__).parent / "arm.xml"
family = Reach(xml, frame_skip=10, factors={"actuator_gainprm": gains}, sensors=["tip"], reset_noise=0.1)
family.register("Reach-v0", max_episode_steps=15)

if __name__ == "__main__":
    env = TaskDistEnv("Reach-v0")
    # a short inner step keeps the policies so similar that the guard can judge it
    model = SGMRL("MlpPolicy", env, n_episodes=40, inner_lr=0.02, learning_rate=3e-3, gamma=0.95, seed=0)
    model.learn(int(sys.argv[1]) if len(sys.argv) > 1 else 300_000)  # the tests of the package pass 1
    # In place of the robot: one environment whose gains the policy does not know.
    robot = gym.make("Reach-v0")
    robot.unwrapped.set_task([-1.2, 0.9])
    recorder = EpisodeRecorder(robot)
    episodes = recorder.play(model, n_episodes=40)
    recorder.save("log.npz")  # for `python -m sb3_sgmrl.adapt --episodes log.npz`
    guarded = guarded_adapt(model, episodes, held_out=recorder.play(model, n_episodes=40, seed=1))
    print(guarded)
    export_onnx(model, "policy.onnx", guarded.policy)
    before, after = (recorder.play(model, 100, policy, 2).episode_returns[0] for policy in (model.policy, guarded.policy))
    half = 1.98 * np.std(after - before, ddof=1) / np.sqrt(100)  # Student's t of 100 episodes with the same seeds
    print(f"Mean return {before.mean():.2f} before, {after.mean():.2f} after: {(after - before).mean():+.2f} ± {half:.2f}")

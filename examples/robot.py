"""
Write the moving picture of the landing page: a cheetah before and after one inner step, towards each of its two directions.

    python examples/robot.py --model logs/table2/HalfCheetahDirPaper-v0-1-sgmrl-0/best.zip

The model comes from ``examples/table2.py``, or from any other training on ``HalfCheetahDirPaper-v0``.
"""

import argparse
import pathlib

import gymnasium as gym
import numpy as np
from PIL import Image

from sb3_sgmrl import SGMRL
from sb3_sgmrl.cli.video import choose_gl_backend, side_by_side
from sb3_sgmrl.util.files import replace_when_complete

FAMILY = "HalfCheetahDirPaper-v0"
DIRECTIONS = {"backward": -1.0, "forward": 1.0}


def play(policy, direction, arguments):
    """Play an episode, and return its pictures and its return."""
    size = {"width": arguments.width, "height": arguments.width * 5 // 8}
    env = gym.make(FAMILY, render_mode="rgb_array", **size)
    env.unwrapped.set_task(direction)
    observation, _ = env.reset(seed=arguments.seed)
    pictures, total = [], 0.0
    for _ in range(arguments.steps):
        action, _ = policy.predict(observation, deterministic=True)
        observation, reward, _, _, _ = env.step(action)
        total += reward
        pictures.append(env.render())
    env.close()
    return pictures[:: arguments.every], total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model trained on HalfCheetahDirPaper-v0")
    parser.add_argument("--output", default="docs/images/robot.gif", help="picture to write (docs/images/robot.gif)")
    parser.add_argument("--steps", type=int, default=60, help="steps of each episode (60)")
    parser.add_argument("--every", type=int, default=2, help="steps between two frames (2)")
    parser.add_argument("--width", type=int, default=320, help="width of each panel in pixels (320)")
    parser.add_argument("--colours", type=int, default=16, help="number of colours (16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the episodes (0)")
    arguments = parser.parse_args()
    choose_gl_backend()
    model = SGMRL.load(arguments.model)
    clips, captions = [], []
    for name, direction in DIRECTIONS.items():
        adapted = model.adapt(FAMILY, task=direction, seed=arguments.seed)
        for when, policy in (("before adaptation", model.policy), ("after one step", adapted)):
            pictures, total = play(policy, direction, arguments)
            print(f"{name}, {when}: {total:.0f}")
            clips.append(pictures)
            captions.append(f"{name}, {when}: {total:.0f}")
    frames = [Image.fromarray(frame) for frame in side_by_side(clips, captions, n_columns=2)]
    # the method that keeps rare colours, such as the robot's
    palette = frames[len(frames) // 2].quantize(arguments.colours, Image.Quantize.MAXCOVERAGE)
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    pathlib.Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    with replace_when_complete(arguments.output) as file:
        duration = int(np.ceil(50 * arguments.every))  # milliseconds: a step takes 0.05 s
        first.save(file, "GIF", save_all=True, append_images=others, duration=duration, loop=0, optimize=True)


if __name__ == "__main__":
    main()

"""
Steps per second of the single environment, of clones of it and of the batched form, for the robots of this folder.

    python examples/own_robot/speed.py

The three take turns, so that they share what else the machine does; ratios are medians over the turns.
"""

import argparse
import time

import arm
import legged
import numpy as np

from sb3_sgmrl import TaskDistEnv
from sb3_sgmrl.vec_env.engines import as_task_vec_env

ROBOTS = {"Arm-v0": arm.family, "Legged-v0": legged.family}
FORMS = ("single", "clones", "batched")


def make(env_id):
    """A VecEnv per form: one environment, as many clones as an algorithm makes, and the columns of a meta-batch."""
    single = as_task_vec_env(TaskDistEnv(env_id), n_envs=1, engine="in_process")
    clones = as_task_vec_env(TaskDistEnv(env_id), engine="in_process")
    return dict(zip(FORMS, (single, clones, as_task_vec_env(TaskDistEnv(env_id), engine="batched")), strict=True))


def play(env, n_steps):
    """Steps per second, and per second of the processors, over all threads."""
    rng = np.random.default_rng(0)
    space = env.action_space
    n_calls = max(1, n_steps // env.num_envs)
    actions = rng.uniform(space.low, space.high, (n_calls, env.num_envs, *space.shape)).astype(np.float32)
    wall, processor = time.perf_counter(), time.process_time()
    for action in actions:
        env.step(action)
    played = n_calls * env.num_envs
    return played / (time.perf_counter() - wall), played / (time.process_time() - processor)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="turns after one warm-up")
    parser.add_argument("--steps", type=int, default=8000, help="steps of each form in a turn")
    arguments = parser.parse_args()
    if arguments.repeats < 1 or arguments.steps < 1:
        parser.error("--repeats and --steps must be at least 1")
    print("| robot | form | environments | steps per second | per processor second | ÷ clones, per processor second |")
    print("|---|---|---|---|---|---|")
    for env_id in ROBOTS:
        envs = make(env_id)
        for env in envs.values():
            env.seed(0)
            env.reset()
        turns = np.array([[play(env, arguments.steps) for env in envs.values()] for _ in range(arguments.repeats + 1)])[1:]
        ratios = turns[:, :, 1] / turns[:, 1:2, 1]
        for i, (form, env) in enumerate(envs.items()):
            wall, processor = np.median(turns[:, i], axis=0)
            ratio = f"{np.median(ratios[:, i]):.2f} ({ratios[:, i].min():.2f} to {ratios[:, i].max():.2f})"
            print(f"| `{env_id}` | {form} | {env.num_envs} | {wall:.0f} | {processor:.0f} | {ratio} |")
            env.close()


if __name__ == "__main__":
    main()

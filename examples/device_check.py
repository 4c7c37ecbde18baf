"""
Compare the meta-gradients on a GPU with those on the processor, and measure both.

    python examples/device_check.py
    python examples/device_check.py --quick

For each algorithm, the processor plays one meta-batch. Then both devices compute the inner steps and the meta-gradient of its
episodes. The relative difference must stay below 1e-3, because rounding in single precision adds up over thousands of samples.
Without a GPU, the script says so and runs the processor twice.
"""

import argparse
import sys
import time

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

from sb3_sgmrl import EMAML, MAML, SGMRL, TRPOMAML, ProMP, Reptile, TaskDistEnv
from sb3_sgmrl.common.phases import adapt_tasks, play_and_adapt, task_phases
from sb3_sgmrl.gradient.objective import MetaRollout
from sb3_sgmrl.vec_env.borrowing import borrowed_workers
from sb3_sgmrl.vec_env.task_workers import ask

ALGORITHMS = (MAML, SGMRL, EMAML, ProMP, TRPOMAML, Reptile)
TOLERANCE = 1e-3


class Dot(gym.Env):
    """Move a dot in a picture; the reward is the step's component along the hidden direction of the task."""

    observation_space = spaces.Box(0, 255, (64, 64, 1), np.uint8)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    task_space = spaces.Box(-1.0, 1.0, (2,), np.float64)
    direction = np.ones(2)

    def set_task(self, task):
        self.direction = task

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(20, 40, 2)
        return self.picture(), {}

    def step(self, action):
        self.place = np.clip(self.place + 3 * action, 0, 56)
        return self.picture(), float(action @ self.direction), False, False, {}

    def picture(self):
        picture = np.zeros((64, 64, 1), np.uint8)
        row, column = self.place.astype(int)
        picture[row : row + 8, column : column + 8] = 255
        return picture


def problems(quick):
    """Policies and environments by name."""
    size = {"meta_batch_size": 4, "n_episodes": 4} if quick else {"meta_batch_size": 20, "n_episodes": 20}
    steps = 5 if quick else 50
    images = TaskDistEnv(gym.wrappers.TimeLimit(Dot(), steps))
    vectors = TaskDistEnv("Navigation2D-v0", max_episode_steps=steps)
    smaller = {"meta_batch_size": 4, "n_episodes": 4}
    return {
        "MLP": (vectors, {"policy": "MlpPolicy", "policy_kwargs": {"net_arch": [100, 100]}, **size}),
        "CNN": (images, {"policy": "CnnPolicy", "policy_kwargs": {"net_arch": []}, **smaller}),
    }


def played(model):
    """Play one meta-batch on the processor."""
    phases = []
    tasks = ask(model.env, "sample_tasks", model.meta_batch_size, [0, 0], indices=0)[0]
    with borrowed_workers(model.env):
        episodes, keep = model.episodes_per_phase, lambda _, phase: phases.append(phase)
        play_and_adapt(model.env, model.functional, model.objective, tasks, episodes, [0, 1], on_phase=keep)
    return tasks, phases


def gradient_of(model, tasks, phases):
    """Adapt to the episodes and differentiate them on the model's device; the direction and the seconds."""
    started = time.perf_counter()
    policy, objective = model.functional, model.objective
    sets, traces = [policy.parameters()], [[] for _ in tasks]
    for index, phase in enumerate(phases):
        last = index == len(phases) - 1
        of_tasks = task_phases(policy, objective.outer if last else objective.inner, phase, sets)
        for trace, one in zip(traces, of_tasks, strict=True):
            trace.append(one)
        if not last:
            sets = adapt_tasks(policy, objective, of_tasks, tasks, model.n_threads)
    gradient = model.meta_gradient(MetaRollout(tasks, traces)).gradient
    flat = th.cat([value.flatten() for value in gradient.values()]).double().cpu()  # waits for the device
    return flat, time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small batches, for a test of the script")
    parser.add_argument("--repeats", type=int, default=3, help="number of measurements after one warm-up")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1")
    device = "cuda" if th.cuda.is_available() else "cpu"
    print(
        f"Comparing with {th.cuda.get_device_name()}." if device == "cuda" else "No device was found: comparing cpu with cpu."
    )
    print(f"{'policy':<8}{'algorithm':<10}{'difference':>12}{'cpu':>10}{device:>10}")
    ok = True
    for name, (env, settings) in problems(arguments.quick).items():
        for algorithm in ALGORITHMS:
            extra = {"score_coef": 1.0} if algorithm in (SGMRL, TRPOMAML) else {}
            models = {}
            for where in ("cpu", device):
                models[where] = algorithm(env=env, seed=0, device=where, **settings, **extra)
            models[device].set_parameters(models["cpu"].get_parameters(), device=device)
            tasks, phases = played(models["cpu"])
            directions, seconds = {}, {}
            for where, model in models.items():
                runs = [gradient_of(model, tasks, phases) for _ in range(arguments.repeats + 1)]
                directions[where], seconds[where] = runs[-1][0], np.median([second for _, second in runs[1:]])
            difference = float((directions[device] - directions["cpu"]).norm() / directions["cpu"].norm().clamp(min=1e-30))
            ok = ok and difference < TOLERANCE
            times = f"{seconds['cpu']:>9.3f}s{seconds[device]:>9.3f}s"
            print(
                f"{name:<8}{algorithm.__name__:<10}{difference:>12.1e}{times}{'' if difference < TOLERANCE else '  TOO LARGE'}"
            )
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()

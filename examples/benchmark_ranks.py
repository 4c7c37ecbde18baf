"""
Compare several ranks with one thread each with one process that has as many threads.

    python examples/benchmark_ranks.py --ranks 2 --repeats 7

The ratio is the median over interleaved repeats of the time of a meta-iteration with ranks, divided by that of one process. A
ratio below 1 means that ranks are faster. Measure on a quiet machine.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np
from gymnasium import spaces

from sb3_sgmrl import SGMRL, TaskDistEnv
from sb3_sgmrl.distributed import start

N_ITERATIONS = 3


def make(name, n_threads):
    """Make one of the models that are measured."""
    settings = {"policy": "MlpPolicy", "meta_batch_size": 20, "n_episodes": 10}
    if name == "pendulum":
        env = TaskDistEnv("Pendulum-v1", task_space=spaces.Box(5.0, 15.0, (1,)), set_task="g", max_episode_steps=100)
    elif name == "cnn":
        from device_check import Dot
        from gymnasium.wrappers import TimeLimit

        env = TaskDistEnv(TimeLimit(Dot(), 20))
        settings = {"policy": "CnnPolicy", "meta_batch_size": 8, "n_episodes": 4, "policy_kwargs": {"net_arch": []}}
    else:
        env = {"navigation": "Navigation2D-v0", "half_cheetah": "HalfCheetahDir-v0"}[name]
    return SGMRL(env=env, seed=0, n_threads=n_threads, learning_rate=0.0, device="cpu", **settings)


def measure(name, n_threads):
    """Print the seconds of a meta-iteration and of a gather of one gradient per task."""
    ranks, model = start(), make(name, n_threads)
    model.learn(1, log_interval=None)
    n_samples = model.num_timesteps
    started = time.perf_counter()
    model.learn(N_ITERATIONS * n_samples, log_interval=None)
    seconds = (time.perf_counter() - started) / N_ITERATIONS
    gradient = dict(model.policy.state_dict())
    started = time.perf_counter()
    for _ in range(N_ITERATIONS):
        ranks.gathered([gradient for _ in ranks.own(model.meta_batch_size)])
    if ranks.rank == 0:
        print(json.dumps([seconds, (time.perf_counter() - started) / N_ITERATIONS]))


def run(n_ranks, *arguments):
    """Run a measurement, and return its numbers."""
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(n_ranks)] if n_ranks > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *torchrun, __file__, *arguments]
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["navigation", "half_cheetah", "pendulum", "cnn"]
    parser.add_argument("--ranks", type=int, default=2, help="number of ranks, and of the threads of one process")
    parser.add_argument("--repeats", type=int, default=7, help="number of interleaved repeats")
    parser.add_argument("--only", nargs="+", default=names, choices=names, help="models to measure")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(arguments.measure[0], int(arguments.measure[1]))
    for name in ("ranks", "repeats"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1")
    print(f"{'model':<14}{'one process':>12}{'ranks':>10}{'ratio':>8}{'gather':>10}")
    for name in arguments.only:
        pairs = []
        for _ in range(arguments.repeats):
            one = run(1, "--measure", name, str(arguments.ranks))
            pairs.append((one, run(arguments.ranks, "--measure", name, "1")))
        alone, several, gather = np.median([(one[0], many[0], many[1]) for one, many in pairs], axis=0)
        ratio = np.median([many[0] / one[0] for one, many in pairs])
        print(f"{name:<14}{alone:>11.2f}s{several:>9.2f}s{ratio:>8.2f}{1e3 * gather:>8.1f}ms")


if __name__ == "__main__":
    main()

"""
Compare several ranks with one thread each with one process that has as many threads, and predict larger machines.

    python examples/benchmark_ranks.py --ranks 2 --repeats 7

All processes start once. In each round, one process with one thread, one process with all threads and the ranks train a
meta-iteration one after another, while the others wait. The ratio is the median over rounds of the time with ranks divided by
that of one process with all threads. Below 1, ranks are faster. Measure on a quiet machine.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from multiprocessing.connection import Client, Listener
from unittest.mock import patch

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from sb3_sgmrl import SGMRL, TaskDistEnv
from sb3_sgmrl.distributed import start

MODELS = ("navigation", "half_cheetah", "pendulum", "cnn")
# what a prediction for several hosts assumes: bytes per second, and seconds for a message to all
BANDWIDTH, LATENCY = 1.25e9, 1e-3
N_PROCESSORS, N_HOSTS = 16, 8
N_GATHERS = 5


def make(name, n_threads, quick):
    """Make one of the models that are measured."""
    settings = {"policy": "MlpPolicy", "meta_batch_size": 20, "n_episodes": 10}
    horizon = 10 if quick else None
    if name == "pendulum":
        env = TaskDistEnv(
            "Pendulum-v1", task_space=spaces.Box(5.0, 15.0, (1,)), set_task="g", max_episode_steps=horizon or 100
        )
    elif name == "cnn":
        from device_check import Dot
        from gymnasium.wrappers import TimeLimit

        env = TaskDistEnv(TimeLimit(Dot(), horizon or 20))
        settings = {"policy": "CnnPolicy", "meta_batch_size": 8, "n_episodes": 4, "policy_kwargs": {"net_arch": []}}
    else:
        env_id = {"navigation": "Navigation2D-v0", "half_cheetah": "HalfCheetahDir-v0"}[name]
        env = TaskDistEnv(env_id, max_episode_steps=horizon)
        settings |= {"meta_batch_size": 40, "n_episodes": 20, "policy_kwargs": {"net_arch": [100, 100]}}
    if quick:
        settings |= {"meta_batch_size": 4, "n_episodes": 2}
    return SGMRL(env=env, seed=0, n_threads=n_threads, learning_rate=0.0, device="cpu", **settings)


def serve(address, n_threads, quick):
    """Train a meta-iteration whenever the main process asks for one, on one process or on the ranks of torchrun."""
    ranks, model = start(), None
    with ExitStack() as stack:
        ask = stack.enter_context(Client(address)) if ranks.rank == 0 else None
        while True:
            name, *_ = ranks.of_first(lambda: ask.recv())
            if name == "end":
                return
            if name == "iterate":
                answer = ranks.exchange(iterate(model, ranks))
            elif name == "gather":
                answer = gather(model, ranks)
            else:
                model = make(name, n_threads, quick)
                model.learn(1, log_interval=None)  # the first iteration is slower
                n_numbers = sum(value.numel() for value in model.functional.parameters().values())
                answer = {"n_tasks": model.meta_batch_size, "n_numbers": n_numbers}
            if ranks.rank == 0:
                ask.send(answer)


class Watch(BaseCallback):
    """Measure a training without its start: the seconds, and those that this rank exchanged values or waited for others."""

    on_every_rank = True

    def __init__(self, ranks):
        super().__init__()
        self.ranks, self.exchanging = ranks, 0.0

    def measured(self, value):
        """Exchange a value."""
        started = time.perf_counter()
        try:
            return type(self.ranks).exchange(self.ranks, value)
        finally:
            self.exchanging += time.perf_counter() - started

    def _on_training_start(self):
        self.ranks.exchange(None)  # all ranks start together
        self.exchanging, self.started = 0.0, time.perf_counter()

    def _on_training_end(self):
        self.seconds = time.perf_counter() - self.started, self.exchanging

    def _on_step(self):
        return True


def iterate(model, ranks):
    """Measure a meta-iteration."""
    watch = Watch(ranks)
    with patch.object(ranks, "exchange", watch.measured):
        model.learn(1, watch, log_interval=None, reset_num_timesteps=False)
    return watch.seconds


def gather(model, ranks):
    """Measure a gather of a gradient and a score term for each task; the seconds."""
    gradient = {name: value.detach() for name, value in model.functional.parameters().items()}
    own = [(gradient, [gradient], {}) for _ in ranks.own(model.meta_batch_size)]
    ranks.exchange(None)
    started = time.perf_counter()
    for _ in range(N_GATHERS):
        ranks.gathered(own)
    return (time.perf_counter() - started) / N_GATHERS


class Program:
    """
    A process, or the ranks of torchrun, that this script has started to serve it.

    :param stack: Where the program is ended
    :param n_ranks: The number of ranks
    :param n_threads: The number of threads of each rank
    :param quick: Whether models are tiny
    """

    def __init__(self, stack, n_ranks, n_threads, quick):
        listener = stack.enter_context(Listener(("127.0.0.1", 0)))
        torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(n_ranks), "--master-port", "0"]
        torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
        command = [sys.executable, *(torchrun if n_ranks > 1 else []), __file__, "--serve", str(listener.address[1])]
        command += ["--threads", str(n_threads), *(["--quick"] if quick else [])]
        self.process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        stack.callback(self.process.wait)
        listener._listener._socket.settimeout(300)  # a program that fails to start must not stop this one
        self.connection = stack.enter_context(listener.accept())
        stack.callback(self.connection.send, ("end",))

    def __call__(self, what):
        """Ask for something and wait for the answer."""
        self.connection.send((what,))
        return self.connection.recv()


def say(text):
    """Print at once, also into a file."""
    print(text, flush=True)


def measure(name, one, all_threads, ranks, repeats):
    """Measure a model in interleaved rounds; the medians by name."""
    begun = time.perf_counter()
    sizes, *_ = [program(name) for program in (one, all_threads, ranks)]
    rounds = []
    for i in range(repeats):
        [(serial, _)], [(threads, _)] = one("iterate"), all_threads("iterate")
        of_ranks = ranks("iterate")
        exchanges = [exchanged for _, exchanged in of_ranks]
        row = {
            "serial": serial,
            "threads": threads,
            "ranks": max(seconds for seconds, _ in of_ranks),
            "exchange": min(exchanges),  # the rank that others wait for
            "waiting": float(np.mean(exchanges)) - min(exchanges),
            "gather": ranks("gather"),
        }
        row["ratio"] = row["ranks"] / row["threads"]
        rounds.append(row)
        numbers = ", ".join(f"{key} {value:.4f}" for key, value in row.items())
        say(f"# {name} {i + 1}/{repeats} after {time.perf_counter() - begun:.0f} s: {numbers}")
    medians = {key: float(np.median([row[key] for row in rounds])) for key in rounds[0]}
    ratios = [row["ratio"] for row in rounds]
    return {**medians, **sizes, "lowest": min(ratios), "highest": max(ratios)}


class CostModel:
    """
    T(R) = T1 · ceil(B / R) / B · (1 + w) + G for ranks, and S + P / C for one process on C processors.

    :param found: The medians of a model
    :param n_ranks: The number of ranks and threads of the measurement
    """

    def __init__(self, found, n_ranks):
        self.total, self.n_tasks, self.gather = found["serial"], found["n_tasks"], found["exchange"]
        # T1 = S + P and T = S + P / n
        parallel = (self.total - found["threads"]) * n_ranks / (n_ranks - 1)
        self.parallel = min(max(parallel, 0.0), self.total)
        self.serial = self.total - self.parallel
        self.imbalance = found["waiting"] / found["ranks"]
        self.n_bytes = 2 * 4 * found["n_numbers"] * self.n_tasks

    def one_process(self, n_processors):
        """The seconds of one process."""
        return self.serial + self.parallel / n_processors

    def of_ranks(self, n_ranks, n_hosts=1):
        """The seconds of some ranks, with a thread each."""
        largest = math.ceil(self.n_tasks / n_ranks) / self.n_tasks
        network = self.n_bytes / BANDWIDTH + LATENCY * n_hosts if n_hosts > 1 else 0.0
        return self.total * largest * (1 + self.imbalance) + self.gather + network


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2, help="number of ranks, and of the threads of one process (2)")
    parser.add_argument("--repeats", type=int, default=7, help="number of interleaved rounds (7)")
    parser.add_argument("--only", nargs="+", default=MODELS, choices=MODELS, help="models to measure")
    parser.add_argument("--quick", action="store_true", help="tiny models, for a test of the script")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(("127.0.0.1", arguments.serve), arguments.threads, arguments.quick)
    for name, least in (("ranks", 2), ("repeats", 1)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name} must be at least {least}, got {getattr(arguments, name)}")
    found, n_ranks = {}, arguments.ranks
    with ExitStack() as stack:
        say(f"# starting on {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
        counts = (1, 1), (1, n_ranks), (n_ranks, 1)
        programs = [Program(stack, *count, arguments.quick) for count in counts]
        for name in arguments.only:
            found[name] = measure(name, *programs, arguments.repeats)
            say(json.dumps({name: found[name]}))
    write_tables(found, n_ranks, arguments.repeats)


def write_tables(found, n_ranks, repeats):
    """Print the measurement and the predictions as Markdown."""
    say(f"\nMedians of {repeats} interleaved rounds on {os.cpu_count()} processors, with the lowest and highest ratio.\n")
    say(f"| model | one thread | {n_ranks} threads | {n_ranks} ranks | ratio | exchanges | waiting | gather of gradients |")
    say("|---|---|---|---|---|---|---|---|")
    for name, of in found.items():
        part = 100 * of["gather"] / of["ranks"]
        say(
            f"| {name} | {of['serial']:.2f} s | {of['threads']:.2f} s | {of['ranks']:.2f} s | "
            f"{of['ratio']:.2f} ({of['lowest']:.2f}–{of['highest']:.2f}) | {1e3 * of['exchange']:.0f} ms | "
            f"{1e3 * of['waiting']:.0f} ms | {1e3 * of['gather']:.1f} ms, {part:.1f} % |"
        )
    say(f"\nPredictions of the cost model; hosts have {N_PROCESSORS} processors each, and {BANDWIDTH / 1.25e8:g} Gbit/s.\n")
    titles = f"model | serial part | {n_ranks} ranks | {N_PROCESSORS} threads | {N_PROCESSORS} ranks | ratio | {N_HOSTS} hosts"
    say(f"| {titles} |")
    say("|" + "---|" * 7)
    for name, of in found.items():
        model = CostModel(of, n_ranks)
        ranks, all_ranks = min(N_PROCESSORS, model.n_tasks), min(N_PROCESSORS * N_HOSTS, model.n_tasks)
        threads, many = model.one_process(N_PROCESSORS), model.of_ranks(ranks)
        say(
            f"| {name} | {100 * model.serial / model.total:.0f} % | {model.of_ranks(n_ranks):.2f} s | {threads:.3f} s | "
            f"{many:.3f} s | {many / threads:.2f} | {model.of_ranks(all_ranks, N_HOSTS):.3f} s with {all_ranks} ranks |"
        )


if __name__ == "__main__":
    main()

"""
Measure the time of a meta-iteration beside its pure physics, in one interleaved run.

    python examples/benchmark_speed.py
    python examples/benchmark_speed.py --families HalfCheetahDir-v0 --tables algorithms --repeats 3

The first command measures navigation in about a minute. Ratios are medians over interleaved repeats. The clock of the machine
may drift, and the ratios hardly do.

The step size of the meta-optimiser is 0, so all settings play the same episodes. Otherwise robots that fall would cost more
physics than robots that run. The script writes tables and a picture of all parts of the time to a folder.
"""

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import gymnasium as gym
import numpy as np
from threadpoolctl import threadpool_info

from sb3_sgmrl import MAML, SGMRL, TaskDistEnv
from sb3_sgmrl.common import phases, sampling
from sb3_sgmrl.outer_steps import base as outer_steps
from sb3_sgmrl.outer_steps import local_surrogate
from sb3_sgmrl.score_terms.names import SCORE_TERMS
from sb3_sgmrl.vec_env.task_vec_env import TaskVecEnv

# tasks, trajectories per task and phase
SIZES = {
    "Navigation2D-v0": (20, 20),
    "HalfCheetahDir-v0": (40, 20),
    "HalfCheetahVel-v0": (40, 20),
    "SwimmerVel-v0": (40, 20),
    "AntDir-v0": (40, 20),
}
PARTS = ("physics", "inference", "rest of sampling", "advantages", "inner step", "meta-gradient", "further epochs")


class Stopwatch:
    """Measures the seconds spent in functions of the package, by part."""

    def __init__(self):
        self.seconds = defaultdict(float)

    def timed(self, part, function):
        def wrapper(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - start

        return wrapper

    @contextlib.contextmanager
    def watch(self, vector_env):
        places = [
            (vector_env, "_step_columns", "physics"),
            (sampling.ParallelPolicies, "distributions", "inference"),
            (phases, "collect_phase", "sampling"),
            (phases, "task_phases", "advantages"),
            (phases, "adapt_tasks", "inner step"),
            (outer_steps, "meta_gradient", "meta-gradient"),
            (local_surrogate.LocalSurrogate, "gradient", "further epochs"),
        ]
        with contextlib.ExitStack() as stack:
            for owner, name, part in places:
                stack.enter_context(mock.patch.object(owner, name, self.timed(part, getattr(owner, name))))
            yield


def make_model(algorithm, family, n_inner_steps=1, size=None, horizon=None, net_arch=(100, 100), **kwargs):
    n_tasks, n_episodes = size or SIZES[family]
    env = TaskDistEnv(gym.make(f"sb3_sgmrl:{family}", **({} if horizon is None else {"max_episode_steps": horizon})))
    return algorithm(
        "MlpPolicy",
        env,
        meta_batch_size=n_tasks,
        n_episodes=n_episodes,
        n_inner_steps=n_inner_steps,
        policy_kwargs={"net_arch": list(net_arch)},
        learning_rate=0.0,
        seed=0,
        **kwargs,
    )


def iterate(model):
    """Run one meta-iteration; return its seconds and samples."""
    before, start = model.num_timesteps, time.perf_counter()
    model.learn(1, reset_num_timesteps=False, log_interval=None)
    return time.perf_counter() - start, model.num_timesteps - before


def pure_physics(model, n_samples):
    """Measure the seconds of the batched physics for this many samples, with actions drawn in advance."""
    assert isinstance(model.env, TaskVecEnv)
    vector_env = model.env.vector_env
    n_columns = vector_env.num_envs
    actions = np.random.default_rng(0).standard_normal((20, n_columns, *vector_env.single_action_space.shape))
    space = vector_env.single_action_space
    actions = np.clip(actions, space.low, space.high)
    vector_env.reset(seed=0)
    n_steps = -(-n_samples // n_columns)
    if not hasattr(vector_env, "_batch"):  # numpy families: their own step
        start = time.perf_counter()
        for t in range(n_steps):
            vector_env._step_columns(slice(None), actions[t % 20])
        return time.perf_counter() - start
    controls = [vector_env.family.controls(a) for a in actions]
    frame_skip = vector_env.family.frame_skip
    start = time.perf_counter()
    for t in range(n_steps):
        vector_env._ctrl[:] = controls[t % 20]
        vector_env._batch.step(nstep=frame_skip)
    return time.perf_counter() - start


def compare(family, settings, repeats):
    """Time interleaved meta-iterations of several settings in rotating order, and the pure physics of as many samples."""
    models = {name: make_model(family=family, **setting) for name, setting in settings.items()}
    times = {name: defaultdict(list) for name in models}
    names = list(models)
    for model in models.values():  # share one batch: its place in memory changes the speed of the physics
        model.set_env(models[names[0]].env)
    for repeat in range(repeats + 1):
        turn = repeat % len(names)
        physics: dict[int, float] = {}  # once per repeat and number of samples
        for name in names[turn:] + names[:turn]:
            model = models[name]
            watch = Stopwatch()
            with watch.watch(model.env.vector_env):
                processor = time.process_time()
                seconds, samples = iterate(model)
                processor = time.process_time() - processor
            if repeat == 0:  # warm-up
                continue
            if samples not in physics:
                physics[samples] = pure_physics(model, samples)
            times[name]["total"].append(seconds)
            times[name]["processor time"].append(processor)
            times[name]["samples per second"].append(samples / seconds)
            times[name]["pure physics"].append(physics[samples])
            times[name]["n_epochs"].append(model.n_epochs)
            for part in ("sampling", *PARTS):
                if part != "rest of sampling":
                    times[name][part].append(watch.seconds[part])
    return times


class Report:
    """Prints tables and writes them to a folder, with a picture."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.text, self.parts = "", {}
        blas = ", ".join(
            f"{i['internal_api']} for {i.get('architecture')}" for i in threadpool_info() if i["user_api"] == "blas"
        )
        packages = ", ".join(
            f"{name} {version(name)}" for name in ("numpy", "torch", "mujoco", "gymnasium", "stable-baselines3")
        )
        self.write(f"{os.cpu_count()} processors ({platform.processor() or platform.machine()}), {packages}; BLAS: {blas}\n")

    def write(self, text):
        print(text, flush=True)
        self.text += text + "\n"
        (self.folder / "speed.md").write_text(self.text)

    def table(self, title, header, rows):
        widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]

        def line(row):
            return "| " + " | ".join(f"{cell!s:{width}}" for cell, width in zip(row, widths, strict=True)) + " |"

        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        self.write("\n".join([f"{title}\n", line(header), rule, *map(line, rows)]) + "\n")

    def plot(self):
        """Draw the stacked seconds of all parts beside the pure physics."""
        import matplotlib.pyplot as plt

        n_columns = min(3, len(self.parts))
        n_rows = -(-len(self.parts) // n_columns)
        figure, axes = plt.subplots(n_rows, n_columns, figsize=(3 * n_columns, 3.4 * n_rows + 0.6), squeeze=False)
        for axis in axes.flat[len(self.parts) :]:
            axis.remove()
        for axis, (family, settings) in zip(axes.flat, self.parts.items(), strict=False):
            bottom = np.zeros(len(settings))
            for part in PARTS:
                height = np.array([median[part] for median in settings.values()])
                axis.bar(range(len(settings)), height, bottom=bottom, label=part)
                bottom += height
            axis.plot(
                range(len(settings)), [m["pure physics"] for m in settings.values()], "k_", markersize=20, label="pure physics"
            )
            axis.set_xticks(range(len(settings)), settings, rotation=60, ha="right")
            axis.set_title(family)
        figure.supylabel("seconds per meta-iteration")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4, frameon=False)
        figure.tight_layout()
        figure.savefig(self.folder / "speed.png", bbox_inches="tight", dpi=120)
        print(f"Written to {self.folder}: speed.md, speed.png")


def epoch_cost(columns):
    n_epochs = columns["n_epochs"][0]
    if n_epochs == 1:
        return "-"
    ratio = np.divide(columns["further epochs"], columns["meta-gradient"]) / (n_epochs - 1)
    return f"{np.median(ratio):.3f} ({ratio.min():.3g} to {ratio.max():.3g})"


def show(report, family, times):
    median = {name: {key: float(np.median(values)) for key, values in columns.items()} for name, columns in times.items()}
    for values in median.values():
        values["rest of sampling"] = values.pop("sampling") - values["physics"] - values["inference"]
    report.parts.setdefault(family, {}).update(median)
    rows = [[key, *(f"{values[key]:.3f}" for values in median.values())] for key in ("total", *PARTS, "pure physics")]
    first = next(iter(times))
    ratios = {"total ÷ pure physics": ("total", None), f"total ÷ {first}": ("total", first)}
    ratios[f"processor time ÷ {first}"] = ("processor time", first)
    for label, (key, other) in ratios.items():
        cells = []
        for columns in times.values():
            ratio = np.divide(columns[key], times[other][key] if other else columns["pure physics"])
            cells.append(f"{np.median(ratio):.3f} ({ratio.min():.3g} to {ratio.max():.3g})")
        rows.append([label, *cells])
    if any(values["further epochs"] for values in median.values()):
        rows.append(["a further epoch ÷ the meta-gradient", *map(epoch_cost, times.values())])
    rows.append(["samples per second", *(f"{values['samples per second']:.0f}" for values in median.values())])
    n_tasks, n_episodes = SIZES[family]
    title = f"{family}, {n_tasks} tasks × {n_episodes} episodes: seconds per meta-iteration, medians of interleaved runs"
    report.table(title, ["", *times], rows)


def vec_env_alone(report, family, repeats):
    """Compare a step of all columns through the VecEnv with the pure physics."""
    model = make_model(MAML, family)
    env, n_steps = model.env, 50
    env.reset()
    actions = np.random.default_rng(0).standard_normal((20, env.num_envs, *env.action_space.shape)).astype(np.float32)
    ratios = []
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        for t in range(n_steps):
            env.step(np.clip(actions[t % 20], env.action_space.low, env.action_space.high))
        seconds = time.perf_counter() - start
        physics = pure_physics(model, n_steps * env.num_envs)
        env.reset()
        if repeat > 0:
            ratios.append(seconds / physics)
    report.write(
        f"{family}: VecEnv ÷ pure physics, {env.num_envs} columns: {np.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f})\n"
    )


def memory_and_time(family, n_tasks, n_episodes, horizon, width, n_inner_steps):
    """Measure the second meta-iteration in a separate process: peak MiB above idle, MiB of the batch, seconds."""
    command = [sys.executable, __file__, "--measure", family, *map(str, (n_tasks, n_episodes, horizon, width, n_inner_steps))]
    return tuple(map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-3:]))


def peak_memory():
    """Return the peak memory in MiB. The value of getrusage would include the parent process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure(family, n_tasks, n_episodes, horizon, width, n_inner_steps):
    model = make_model(
        SGMRL, family, n_inner_steps=n_inner_steps, size=(n_tasks, n_episodes), horizon=horizon, net_arch=(width, width)
    )
    batch = []

    def collect(*args, **kwargs):
        batch.append(collect_phase(*args, **kwargs))
        return batch[-1]

    idle, collect_phase = peak_memory(), phases.collect_phase
    iterate(model)
    seconds, _ = iterate(model)
    peak = peak_memory() - idle
    with mock.patch.object(phases, "collect_phase", collect):
        iterate(model)
    stored = sum(phase.observations.nbytes + phase.actions.nbytes + phase.rewards.nbytes for phase in batch)
    print(peak, stored / 2**20, seconds)


def growth(report):
    base = {"n_tasks": 40, "n_episodes": 20, "horizon": 200, "width": 100, "n_inner_steps": 1}
    changes = [
        {},
        {"n_inner_steps": 3},
        {"n_tasks": 4},
        {"n_tasks": 400},
        {"n_episodes": 40},
        {"horizon": 400},
        {"width": 200},
    ]
    rows = []
    for change in changes:
        memory, stored, seconds = memory_and_time("HalfCheetahDir-v0", **{**base, **change})
        rows.append(
            [
                ", ".join(f"{key} = {value}" for key, value in (change or base).items()),
                f"{memory:.0f}",
                f"{stored:.0f}",
                f"{seconds:.2f}",
            ]
        )
    header = ["change", "peak MiB above the idle process", "of it observations, actions, rewards", "seconds"]
    report.table("How cost grows, SGMRL on HalfCheetahDir-v0", header, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(SIZES)[:1], choices=list(SIZES), help="task families to measure")
    parser.add_argument("--repeats", type=int, default=5, help="number of interleaved repeats after one warm-up")
    parser.add_argument(
        "--tables",
        nargs="+",
        default=["algorithms"],
        choices=["algorithms", "epochs", "inner-steps", "score-terms", "vec-env", "growth"],
        help="tables to make. algorithms: MAML and SGMRL with one epoch. epochs: one, two and five of SGMRL. inner-steps: one "
        "to three. score-terms: control variates of SGMRL. "
        "vec-env: the environment without a policy. growth: time and memory against tasks, episodes, steps and parameters "
        "(Linux only)",
    )
    parser.add_argument("--folder", default="logs/speed", help="folder for tables and picture")
    parser.add_argument("--measure", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1")
    if arguments.measure:
        return measure(arguments.measure[0], *map(int, arguments.measure[1:]))
    report = Report(arguments.folder)
    algorithms = {
        "MAML": {"algorithm": MAML},
        "SGMRL": {"algorithm": SGMRL, "n_epochs": 1},
        "first order": {"algorithm": MAML, "first_order": True},
    }
    inner_steps = {f"SGMRL, ζ = {n}": {"algorithm": SGMRL, "n_epochs": 1, "n_inner_steps": n} for n in (1, 2, 3)}
    epochs = {f"SGMRL, {n} epoch{'s' * (n > 1)}": {"algorithm": SGMRL, "n_epochs": n} for n in (1, 2, 5)}
    of_sgmrl = {name: {"algorithm": SGMRL, "n_epochs": 1, "control_variate": name} for name in SCORE_TERMS}
    score_terms = {"MAML": {"algorithm": MAML}} | of_sgmrl
    tables = {"algorithms": algorithms, "epochs": epochs, "inner-steps": inner_steps, "score-terms": score_terms}
    for family in arguments.families:
        for table, settings in tables.items():
            if table in arguments.tables:
                show(report, family, compare(family, settings, arguments.repeats))
        if "vec-env" in arguments.tables:
            vec_env_alone(report, family, arguments.repeats)
    if report.parts:
        report.plot()
    if "growth" in arguments.tables:
        growth(report)


if __name__ == "__main__":
    main()

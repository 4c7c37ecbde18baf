"""
What a meta-iteration costs, beside its physics alone, in one interleaved run.

    python examples/benchmark_speed.py                # every family, about half an hour on two cores
    python examples/benchmark_speed.py --families HalfCheetahDir-v0 --repeats 3

Ratios are medians over interleaved repeats; the machine's clock may drift, the ratios hardly do. The step size of the
meta-optimiser is 0, so that all settings play the same episodes: robots that fall cost more physics than robots that run.
"""

import argparse
import contextlib
import resource
import subprocess
import sys
import time
from collections import defaultdict
from unittest import mock

import gymnasium as gym
import numpy as np

from sb3_sgmrl import MAML, SGMRL, TaskDistEnv
from sb3_sgmrl.common import adaptation, meta_algorithm, sampling
from sb3_sgmrl.common.vec_tasks import TaskVecEnv

# tasks, trajectories per task and phase
SIZES = {
    "Navigation2D-v0": (20, 20),
    "HalfCheetahDir-v0": (40, 20),
    "HalfCheetahVel-v0": (40, 20),
    "SwimmerVel-v0": (40, 20),
    "AntDir-v0": (40, 20),
}
PARTS = ("physics", "inference", "sampling", "advantages", "inner step", "meta-gradient")


class Stopwatch:
    """Seconds spent in functions of the package, by part."""

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
            (adaptation, "collect_phase", "sampling"),
            (adaptation, "task_phases", "advantages"),
            (adaptation, "adapt_tasks", "inner step"),
            (meta_algorithm, "meta_gradient", "meta-gradient"),
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
    """One meta-iteration: seconds and samples."""
    before, start = model.num_timesteps, time.perf_counter()
    model.learn(1, reset_num_timesteps=False, log_interval=None)
    return time.perf_counter() - start, model.num_timesteps - before


def pure_physics(model, n_samples):
    """Seconds the batched physics takes for as many samples, with actions drawn beforehand from an untrained policy."""
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
    controls = [vector_env._single.controls(a) for a in actions]
    frame_skip = vector_env._single.frame_skip
    start = time.perf_counter()
    for t in range(n_steps):
        vector_env._ctrl[:] = controls[t % 20]
        vector_env._batch.step(nstep=frame_skip)
    return time.perf_counter() - start


def compare(family, settings, repeats):
    """Interleaved meta-iterations of several settings, in turning order, and the pure physics of as many samples."""
    models = {name: make_model(family=family, **setting) for name, setting in settings.items()}
    times = {name: defaultdict(list) for name in models}
    names = list(models)
    for model in models.values():  # the physics of one batch may be faster than that of another, by its place in memory
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
            for part in PARTS:
                times[name][part].append(watch.seconds[part])
    return times


def show(family, times):
    print(f"\n{family}: seconds per meta-iteration, medians of interleaved runs")
    print(f"{'':26}" + "".join(f"{name:>16}" for name in times))
    median = {name: {key: float(np.median(values)) for key, values in columns.items()} for name, columns in times.items()}
    for values in median.values():
        values["  of it physics"] = values.pop("physics")
        values["  of it inference"] = values.pop("inference")
    for key in ("total", "sampling", "  of it physics", "  of it inference", "advantages", "inner step", "meta-gradient"):
        print(f"{key:26}" + "".join(f"{values[key]:16.3f}" for values in median.values()))
    print(f"{'pure physics':26}" + "".join(f"{values['pure physics']:16.3f}" for values in median.values()))
    first = next(iter(times))
    ratios = {
        "total ÷ pure physics": [np.divide(columns["total"], columns["pure physics"]) for columns in times.values()],
        f"total ÷ {first}": [np.divide(columns["total"], times[first]["total"]) for columns in times.values()],
        f"processor time ÷ {first}": [
            np.divide(columns["processor time"], times[first]["processor time"]) for columns in times.values()
        ],
    }
    for label, of_setting in ratios.items():
        print(f"{label:26}" + "".join(f"{np.median(ratio):16.3f}" for ratio in of_setting))
        print(f"{'  lowest, highest':26}" + "".join(f"{f'{ratio.min():.3g}, {ratio.max():.3g}':>16}" for ratio in of_setting))
    print(f"{'samples per second':26}" + "".join(f"{values['samples per second']:16.0f}" for values in median.values()))


def vec_env_alone(family, repeats):
    """A step of all columns through the VecEnv beside that of the physics alone."""
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
    print(f"\n{family}: VecEnv ÷ pure physics, {env.num_envs} columns: {np.median(ratios):.3f}")
    print(f"  lowest, highest {min(ratios):.3f}, {max(ratios):.3f}")


def memory_and_time(family, n_tasks, n_episodes, horizon, width, n_inner_steps):
    """Peak memory above the idle process in MiB and seconds of the second meta-iteration, in a process of its own."""
    command = [sys.executable, __file__, "--measure", family, *map(str, (n_tasks, n_episodes, horizon, width, n_inner_steps))]
    return tuple(map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]))


def measure(family, n_tasks, n_episodes, horizon, width, n_inner_steps):
    model = make_model(
        SGMRL, family, n_inner_steps=n_inner_steps, size=(n_tasks, n_episodes), horizon=horizon, net_arch=(width, width)
    )
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    iterate(model)
    seconds, _ = iterate(model)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle) / 1024, seconds)


def growth():
    base = {"n_tasks": 40, "n_episodes": 20, "horizon": 200, "width": 100, "n_inner_steps": 1}
    print(f"\nHow cost grows, HalfCheetahDir-v0 from {base}")
    print(f"{'change':24}{'peak MiB above idle':>22}{'seconds':>12}")
    changes = [
        {},
        {"n_inner_steps": 3},
        {"n_tasks": 4},
        {"n_tasks": 400},
        {"n_episodes": 40},
        {"horizon": 400},
        {"width": 200},
    ]
    for change in changes:
        memory, seconds = memory_and_time("HalfCheetahDir-v0", **{**base, **change})
        print(f"{change or 'none'!s:24}{memory:22.0f}{seconds:12.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(SIZES), choices=list(SIZES), help="which families")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved repeats after one warm-up")
    parser.add_argument(
        "--tables",
        nargs="+",
        default=["algorithms", "inner-steps"],
        choices=["algorithms", "inner-steps", "vec-env", "growth"],
        help="what to compare; vec-env is the environment without a policy, growth that of time and memory with tasks, "
        "episodes, steps and parameters",
    )
    parser.add_argument("--measure", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(arguments.measure[0], *map(int, arguments.measure[1:]))
    for family in arguments.families:
        settings = {
            "MAML": {"algorithm": MAML},
            "SGMRL": {"algorithm": SGMRL},
            "first order": {"algorithm": MAML, "first_order": True},
        }
        if "algorithms" in arguments.tables:
            show(family, compare(family, settings, arguments.repeats))
        steps = {f"SGMRL, ζ = {n}": {"algorithm": SGMRL, "n_inner_steps": n} for n in (1, 2, 3)}
        if "vec-env" in arguments.tables:
            vec_env_alone(family, arguments.repeats)
        if "inner-steps" in arguments.tables:
            show(family, compare(family, steps, arguments.repeats))
    if "growth" in arguments.tables:
        growth()


if __name__ == "__main__":
    main()

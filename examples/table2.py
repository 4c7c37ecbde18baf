"""
Train and evaluate the runs of the paper's Table 2.

    nice python examples/table2.py --parallel 2
    python examples/table2.py --print

The runs are SG-MRL and MAML with one, two and three inner steps on two half cheetahs and a swimmer. One run takes from half
an hour to some hours. The protocol is the paper's:

- 400 meta-iterations of 40 tasks, with 20 episodes of 200 steps in each phase;
- Adam with 1e-3, no clipping, actions in a box of ±10;
- 80 fresh meta-batches for the final return.

The script reports the last policy and the best validated one. All other settings are the defaults of the package.

Every ten iterations a run saves a checkpoint. Repeat the command to resume all runs after an interruption. The results equal
an uninterrupted run to the bit. The script does not repeat runs with finished evaluations. ``--print`` only shows their
table.
"""

import argparse
import csv
import io
import json
import pathlib
import sys
import time
from collections import defaultdict

import gymnasium as gym
import numpy as np
from run_folders import setting, settings_of
from stable_baselines3.common.callbacks import BaseCallback

from sb3_sgmrl import MAML, SGMRL, TaskDistEnv, evaluate_adaptation
from sb3_sgmrl.cli.command_line import run_command
from sb3_sgmrl.cli.compare.results import half_width
from sb3_sgmrl.util.files import replace_when_complete
from sb3_sgmrl.util.processes import process_pool
from sb3_sgmrl.util.validation import check_positive

ALGORITHMS = {"sgmrl": SGMRL, "maml": MAML}
# (SG-MRL, MAML) of the paper for one, two and three inner steps, mean and interval
PAPER = {
    "HalfCheetahDirPaper-v0": [((580.1, 38), (465.6, 54)), ((580.2, 34), (441.2, 58)), ((504.7, 45), (477.1, 65))],
    "HalfCheetahVelPaper-v0": [((-91.7, 0.3), (-92.9, 0.7)), ((-52.6, 6.9), (-56.7, 6.7)), ((-33.4, 0.7), (-32.5, 0.5))],
    "SwimmerVelPaper-v0": [((118.8, 10), (104.5, 24)), ((134.6, 1.7), (108.5, 23)), ((110.9, 13), (90.6, 15))],
}
CHECKPOINT_EVERY, VALIDATE_EVERY = 10, 20
# seeds of evaluations: validation tasks choose a policy, so other tasks must measure it
VALIDATION_SEED, FIRST_EVALUATION_SEED = 1, 1000
ROWS, EVALUATED = "iterations.csv", "evaluation_{}.csv"


class Returns(BaseCallback):
    """Records the mean returns of each iteration before and after adaptation."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        record = self.logger.name_to_value
        self.rows.append((record["rollout/ep_rew_mean_pre"], record["rollout/ep_rew_mean_post"]))


def run_folder(arguments, run):
    env_id, n_inner_steps, algorithm, seed = run
    return pathlib.Path(arguments.folder) / f"{env_id}-{n_inner_steps}-{algorithm}-{seed}"


def family(arguments, env_id):
    return TaskDistEnv(gym.make(f"sb3_sgmrl:{env_id}", max_episode_steps=arguments.horizon))


def make_or_load(arguments, run, checkpoint):
    """Load the checkpoint of a run, or make a new model."""
    env_id, n_inner_steps, algorithm, seed = run
    env = family(arguments, env_id)
    if checkpoint.exists():
        return ALGORITHMS[algorithm].load(checkpoint, env=env)
    settings = {**settings_of(algorithm, env_id), "n_inner_steps": n_inner_steps, **dict(map(setting, arguments.set))}
    return ALGORITHMS[algorithm]("MlpPolicy", env, seed=seed, n_threads=1, **settings)


def train(arguments, run):
    """Train and evaluate a run, or resume it from its files."""
    folder = run_folder(arguments, run)
    checkpoint = folder / "checkpoint.zip"
    model = make_or_load(arguments, run, checkpoint)
    rows = [row for row in read_rows(folder / ROWS) if row["iteration"] <= model._iteration]
    per_iteration = model.meta_batch_size * sum(model.episodes_per_phase) * (arguments.horizon or 200)
    while model._iteration < arguments.iterations:
        returns, wall, cpu = Returns(), time.perf_counter(), time.process_time()
        first = model._iteration + 1
        n_iterations = min(CHECKPOINT_EVERY, arguments.iterations - model._iteration)
        model.learn(n_iterations * per_iteration, returns, log_interval=None, reset_num_timesteps=False)
        wall, cpu = ((now - then) / n_iterations for now, then in ((time.perf_counter(), wall), (time.process_time(), cpu)))
        for iteration, (pre, post) in enumerate(returns.rows, first):
            row = {"iteration": iteration, "pre": pre, "post": post, "wall": wall, "cpu": cpu, "validation": float("nan")}
            rows.append(row)
        if model._iteration % VALIDATE_EVERY == 0 or model._iteration == arguments.iterations:
            rows[-1]["validation"] = validation = float(evaluate(model, VALIDATION_SEED)[-1])
            if not any(row["validation"] >= validation for row in rows[:-1]):
                model.save(folder / "best.zip")
        # after a kill in between, the repeated iterations give the same rows and the same best model
        write_rows(folder / ROWS, rows)
        model.save(checkpoint)
    for name, file in (("last", checkpoint), ("best", folder / "best.zip")):
        measure(arguments, run, file, folder / EVALUATED.format(name))


def measure(arguments, run, model_file, path):
    """Measure returns after 0, 1, … inner steps on fresh meta-batches, one row each."""
    model = make_or_load(arguments, run, model_file)
    rows = read_rows(path)
    for i in range(len(rows), arguments.evaluations):
        returns = evaluate(model, FIRST_EVALUATION_SEED + i)
        rows.append({f"after_{k}": float(value) for k, value in enumerate(returns)})
        if (i + 1) % CHECKPOINT_EVERY == 0 or i + 1 == arguments.evaluations:
            write_rows(path, rows)


def evaluate(model, seed):
    report = evaluate_adaptation(model, n_tasks=model.meta_batch_size, n_steps=model.n_inner_steps, seed=seed)
    return report.mean_returns


def read_rows(path):
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def write_rows(path, rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    with replace_when_complete(path) as file:
        file.write(text.getvalue().encode())


def measured(arguments, run, name):
    """Return the mean return after the last inner step; None until the run is finished."""
    rows = read_rows(run_folder(arguments, run) / EVALUATED.format(name))
    if len(rows) < arguments.evaluations:
        return None
    return float(np.mean([row[f"after_{run[1]}"] for row in rows]))


def cell(values):
    if not values:
        return "–"
    return f"{np.mean(values):.1f}" + (f" ± {half_width(np.array(values)):.1f}" if len(values) > 1 else "")


def print_table(arguments):
    finished = defaultdict(dict)
    for run in runs_of(arguments):
        for name in ("last", "best"):
            if (value := measured(arguments, run, name)) is not None:
                finished[run[:3], name][run[3]] = value
    columns = "".join(f"{title:>22}" for title in ("SGMRL last", "SGMRL best", "MAML last", "MAML best"))
    print(f"{'task':24}{'steps':>6}{'pairs':>6}{columns}{'paper: SG-MRL':>18}{'MAML':>15}")
    for env_id, published in PAPER.items():
        for n_inner_steps, paper in enumerate(published, 1):
            kinds = [(a, name) for a in ALGORITHMS for name in ("last", "best")]
            of_row = [finished[(env_id, n_inner_steps, a), name] for a, name in kinds]
            n_pairs = len(of_row[0].keys() & of_row[2].keys())
            cells = "".join(f"{cell(list(values.values())):>22}" for values in of_row)
            theirs = [f"{mean} ± {interval}" for mean, interval in paper]
            print(f"{env_id:24}{n_inner_steps:>6}{n_pairs:>6}{cells}{theirs[0]:>18}{theirs[1]:>15}")
    print("Mean return after the last inner step; ±: 95 % confidence interval over seeds (Student's t).")
    ratios = clock(arguments)
    if ratios:
        print(
            f"Processor time of an iteration, SG-MRL over MAML: median {np.median(ratios):.3f} of {len(ratios)} pairs of runs."
        )


def clock(arguments):
    """Return SG-MRL's median processor time of an iteration over MAML's, for each pair of runs in the folder."""
    times = {}
    for run in runs_of(arguments):
        if rows := read_rows(run_folder(arguments, run) / ROWS):
            times[run] = np.median([row["cpu"] for row in rows])
    return [
        time_ / times[env_id, n, "maml", seed]
        for (env_id, n, algorithm, seed), time_ in times.items()
        if algorithm == "sgmrl" and (env_id, n, "maml", seed) in times
    ]


def runs_of(arguments):
    """List environment, inner steps, algorithm and seed of each run: pairs together, first seeds and few steps first."""
    return [
        (env_id, n_inner_steps, algorithm, seed)
        for n_inner_steps in arguments.inner_steps
        for seed in arguments.seeds
        if n_inner_steps == 1 or seed == arguments.seeds[0] or arguments.all_seeds
        for env_id in arguments.envs
        for algorithm in ALGORITHMS
    ]


def check(arguments):
    """Raise all errors before training starts, also for runs in the folder with other settings."""
    names = ("iterations", "evaluations", "parallel")
    check_positive(**{name: getattr(arguments, name) for name in names}, horizon=arguments.horizon or 200)
    folder = pathlib.Path(arguments.folder)
    wanted = {"iterations": arguments.iterations, "horizon": arguments.horizon or 200, "set": sorted(arguments.set)}
    file = folder / "settings.json"
    if file.exists() and json.loads(file.read_text()) != wanted:
        raise ValueError(f"--folder {folder} holds runs with other settings, {file.read_text()}: choose another folder.")
    with replace_when_complete(file) as stream:
        stream.write(json.dumps(wanted).encode())


def run_all(arguments):
    if not arguments.print:
        runs = [run for run in runs_of(arguments) if any(measured(arguments, run, kind) is None for kind in ("last", "best"))]
        with process_pool(arguments.parallel) as pool:
            for run, future in [(run, pool.submit(train, arguments, run)) for run in runs]:
                future.result()
                print(*run, "done", flush=True)
    print_table(arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=list(PAPER), choices=list(PAPER), help="rows of the table")
    parser.add_argument("--inner-steps", nargs="+", type=int, default=[1, 2, 3], choices=[1, 2, 3], help="inner steps")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds, the same for both algorithms")
    parser.add_argument(
        "--all-seeds", action="store_true", help="use all seeds for two and three inner steps too (default: first seed only)"
    )
    parser.add_argument("--iterations", type=int, default=400, help="number of meta-iterations of a run")
    parser.add_argument("--evaluations", type=int, default=80, help="number of fresh meta-batches for the final return")
    parser.add_argument("--horizon", type=int, help="steps of an episode (default: 200, as registered)")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="arguments of both algorithms")
    parser.add_argument("--parallel", type=int, default=1, help="number of parallel runs, one thread each")
    parser.add_argument("--folder", default="logs/table2", help="folder for checkpoints and returns")
    parser.add_argument("--print", action="store_true", help="only print the table of the finished runs")
    arguments = parser.parse_args()
    sys.exit(run_command(lambda: check(arguments)) or run_command(lambda: run_all(arguments), show_traceback=True))


if __name__ == "__main__":
    main()

"""
Train algorithms side by side with paired seeds, then print tables and draw the learning curves.

    python examples/compare.py
    python examples/compare.py --env Navigation2D-v0 --timesteps 8e6 40e6 --seeds 0 1 2 --folder logs/navigation_8e6

The first command takes a minute or two. Each value of ``--timesteps`` gets a table, and training continues from one value to
the next.

The script does not repeat a run whose reports are in the folder. To add seeds, run the same command with more seeds. The
script refuses a folder that has runs with other settings.

The defaults are the hyperparameters of the package (``hyperparams/*.yml``). Pass ``--set inner_lr=0.2`` to change a setting
of every algorithm. As in RL Zoo, ``learning_rate=lin_0.001`` is a rate that decays to 0.

Pass ``--in-training 51-100`` to compare the returns of these iterations of training as well. With ``--parallel 2`` two runs
share two processors, one thread each.
"""

import argparse
import ast
import csv
import json
import os
import pathlib
import re
import sys

import gymnasium as gym
import matplotlib
import numpy as np
import scipy.stats
import yaml
from matplotlib.figure import Figure
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import LinearSchedule

import sb3_sgmrl
from sb3_sgmrl import EMAML, MAML, SGMRL, MetaEvalCallback, TaskDistEnv, evaluate_adaptation
from sb3_sgmrl.cli.command_line import run_command
from sb3_sgmrl.common.arguments import argument_names
from sb3_sgmrl.common.evaluation import after
from sb3_sgmrl.util.processes import process_pool
from sb3_sgmrl.util.validation import check_names, check_positive

# class, hyperparameter file, additional arguments
ALGORITHMS = {
    "sgmrl": (SGMRL, "sgmrl", {}),
    "maml": (MAML, "maml", {}),
    "emaml": (EMAML, "emaml", {}),
    "fomaml": (MAML, "maml", {"first_order": True}),
}
PRE, POST = "rollout/ep_rew_mean_pre", "rollout/ep_rew_mean_post"
STEPS = "time/total_timesteps"


SETTINGS = "settings.json"
# options that change a report, besides the arguments of the algorithm
CONDITIONS = ("env", "horizon", "n_tasks", "n_steps", "validate_every")


def settings_of(algorithm, env_id):
    """Read the arguments of the algorithm from the hyperparameter file of the package."""
    file = pathlib.Path(sb3_sgmrl.__file__).parent / "hyperparams" / f"{algorithm}.yml"
    families = yaml.safe_load(file.read_text())
    check_names([env_id], families, f"is not a family in {file}")
    settings = families[env_id]
    settings.pop("n_timesteps"), settings.pop("policy")
    if isinstance(settings.get("policy_kwargs"), str):
        settings["policy_kwargs"] = eval(settings["policy_kwargs"])
    return settings


def arguments_of(arguments, algorithm):
    """Return the arguments for the runs of an algorithm."""
    _, file, own = ALGORITHMS[algorithm]
    return {**settings_of(file, arguments.env), **own, **dict(map(setting, arguments.set))}


def family(arguments):
    return TaskDistEnv(gym.make(f"sb3_sgmrl:{arguments.env}", max_episode_steps=arguments.horizon))


def run_folder(folder, algorithm, seed):
    return pathlib.Path(folder) / f"{algorithm}-{seed}"


def conditions(arguments, algorithm):
    """Return everything except seed and length that changes the runs of an algorithm, for :data:`SETTINGS`."""
    given = {name: getattr(arguments, name) for name in CONDITIONS}
    return json.loads(json.dumps({**given, **arguments_of(arguments, algorithm)}))


def check(arguments):
    """Raise all errors before training starts, also for runs in the folder with other settings."""
    counts = {name: getattr(arguments, name) for name in ("parallel", "n_tasks", "n_steps")}
    check_positive(**counts, timesteps=arguments.timesteps[0], validate_every=arguments.validate_every or 1)
    if pathlib.Path(arguments.folder).is_file():
        raise ValueError(f"--folder must be a folder, but {arguments.folder} is a file.")
    for window in arguments.in_training:
        iterations(window)
    for algorithm in arguments.algos:
        check_set(arguments, ALGORITHMS[algorithm][0])
        model = model_of(arguments, algorithm, min(arguments.seeds))
        if callable(model.learning_rate) and len(arguments.timesteps) > 1:
            raise ValueError(
                "--timesteps must be one number with a learning_rate that decays: it decays to 0 over these steps."
            )
        settings = conditions(arguments, algorithm)
        for seed in arguments.seeds:
            check_same(run_folder(arguments.folder, algorithm, seed), settings)


def check_set(arguments, algorithm):
    """Raise if a name in ``--set`` is no argument of the class."""
    names = [setting(text)[0] for text in arguments.set]
    check_names(names, argument_names(algorithm), f"is not an argument of {algorithm.__name__}")


def check_same(folder, settings):
    """Raise if the folder has a run with other settings."""
    file = folder / SETTINGS
    old = json.loads(file.read_text()) if file.exists() else settings
    others = [name for name in {**old, **settings} if old.get(name) != settings.get(name)]
    if others:
        raise ValueError(f"{folder} was trained with another {', '.join(others)}: choose another --folder.")


def is_finished(arguments, algorithm, seed):
    folder = run_folder(arguments.folder, algorithm, seed)
    kinds = (False, True) if arguments.validate_every else (False,)
    return all((folder / report_file(steps, best)).exists() for steps in arguments.timesteps for best in kinds)


def model_of(arguments, algorithm, seed):
    threads = max(1, os.cpu_count() // arguments.parallel)
    settings = arguments_of(arguments, algorithm)
    settings["learning_rate"] = schedule(settings["learning_rate"])
    return ALGORITHMS[algorithm][0]("MlpPolicy", family(arguments), seed=seed, n_threads=threads, **settings)


def schedule(rate):
    """Convert RL Zoo's ``lin_0.001`` to a linear decay to 0; return other values unchanged."""
    start = re.fullmatch(r"lin_(\d*\.?\d+(e-?\d+)?)", str(rate))
    return LinearSchedule(float(start[1]), 0.0, 1.0) if start else rate


def report_file(timesteps, best=False):
    return f"{'best_' * best}report_{timesteps}.csv"


def train(arguments, algorithm, seed):
    if is_finished(arguments, algorithm, seed):
        return
    folder = run_folder(arguments.folder, algorithm, seed)
    model = model_of(arguments, algorithm, seed)
    model.set_logger(configure(str(folder), ["csv"]))
    callback = None
    if arguments.validate_every:
        # validation tasks differ from the tasks of the final report
        callback = MetaEvalCallback(
            family(arguments), eval_freq=arguments.validate_every, n_tasks=100, seed=1, best_model_save_path=str(folder)
        )
    (folder / SETTINGS).write_text(json.dumps(conditions(arguments, algorithm), indent=1))
    for timesteps in arguments.timesteps:
        model.learn(max(timesteps - model.num_timesteps, 0), callback, reset_num_timesteps=False)
        model.save(folder / f"model_{timesteps}")
        if callback is not None:
            best = type(model).load(folder / "best_model", env=family(arguments), n_threads=model.n_threads)
            evaluate(best, arguments).to_csv(folder / report_file(timesteps, best=True))
        evaluate(model, arguments).to_csv(folder / report_file(timesteps))


def evaluate(model, arguments):
    return evaluate_adaptation(model, n_tasks=arguments.n_tasks, n_steps=arguments.n_steps)


def setting(text):
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def iterations(text):
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise ValueError(f"--in-training must be a first and a last iteration such as 51-100, got {text!r}.")
    return int(first), int(last)


def read(folder, algorithm, seed):
    """Read the steps and the returns before and after adaptation of each iteration."""
    with open(run_folder(folder, algorithm, seed) / "progress.csv") as file:
        rows = [row for row in csv.DictReader(file) if row[POST]]
    return np.array([[float(row[key]) for key in (STEPS, PRE, POST)] for row in rows]).T


def read_report(folder, algorithm, seed, name):
    """Read the returns on unseen tasks, shape (n_tasks, n_steps + 1)."""
    with open(run_folder(folder, algorithm, seed) / name) as file:
        return np.array([list(map(float, row[1:])) for row in list(csv.reader(file))[1:]])


def smooth(x, window):
    return np.convolve(x, np.ones(window) / window, mode="valid")


def half_width(x):
    """Return half the width of a 95 % confidence interval of the mean."""
    return scipy.stats.t.ppf(0.975, len(x) - 1) * scipy.stats.sem(x) if len(x) > 1 else float("nan")


def table(arguments, timesteps, best=False):
    name = report_file(timesteps, best)
    means = {
        a: np.array([read_report(arguments.folder, a, s, name).mean(0) for s in arguments.seeds]) for a in arguments.algos
    }
    n_steps = next(iter(means.values())).shape[1]
    policy = "best of the validated policies" if best else "last policy"
    print(f"\n{arguments.env} after {timesteps:,} steps, {policy}: mean return on {arguments.n_tasks} unseen tasks")
    print(f"{'algorithm':10}{'seed':>6}" + "".join(f"{f'{k} steps':>10}" for k in range(n_steps)))
    for algorithm, returns in means.items():
        for seed, row in zip(arguments.seeds, returns, strict=True):
            print(f"{algorithm:10}{seed:>6}" + "".join(f"{x:10.2f}" for x in row))
        print(f"{algorithm:10}{'mean':>6}" + "".join(f"{x:10.2f}" for x in returns.mean(0)))
        print(f"{algorithm:10}{'±':>6}" + "".join(f"{half_width(x):10.2f}" for x in returns.T))
    k = min(arguments_of(arguments, arguments.algos[0])["n_inner_steps"], arguments.n_steps)  # as in training
    paired({algorithm: returns[:, k] for algorithm, returns in means.items()}, after(k))
    print("±: 95 % confidence interval over seeds (Student's t)")


def paired(returns, when):
    """Print the paired differences of the first algorithm to the others, (n_seeds,) each."""
    (first, own), *others = returns.items()
    for other, theirs in others:
        difference = own - theirs
        print(f"{first} − {other} {when}, paired by seed: {difference.mean():+.2f} ± {half_width(difference):.2f}")


def in_training(arguments, window):
    """Print returns after adaptation in training. A mean over many iterations has less noise than the last policy alone."""
    first, last = iterations(window)
    print(f"\n{arguments.env} in training, iterations {first} to {last}: mean return in the last phase")
    posts = {a: [read(arguments.folder, a, seed)[2] for seed in arguments.seeds] for a in arguments.algos}
    shortest = min(len(post) for runs in posts.values() for post in runs)
    if shortest < last:
        print(f"Not every run is that long: the shortest has {shortest}.")
        return
    means = {algorithm: np.array([post[first - 1 : last].mean() for post in runs]) for algorithm, runs in posts.items()}
    for algorithm, returns in means.items():
        print(f"{algorithm:10}{returns.mean():10.2f} ± {half_width(returns):.2f}")
    paired(means, "in training")


def draw(arguments):
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for i, algorithm in enumerate(arguments.algos):
        runs = [read(arguments.folder, algorithm, seed) for seed in arguments.seeds]
        length = min(run.shape[1] for run in runs)
        window = max(1, min(10, length // 5))
        steps = smooth(runs[0][0, :length], window) / 1e6
        for row, style, label in ((1, ":", "before"), (2, "-", "after")):
            curves = np.array([smooth(run[row, :length], window) for run in runs])
            axis.plot(steps, curves.mean(0), style, color=f"C{i}", label=f"{algorithm} {label} adaptation")
            axis.fill_between(steps, curves.min(0), curves.max(0), color=f"C{i}", alpha=0.15, linewidth=0)
    axis.set(xlabel="million environment steps", ylabel="return", title=arguments.env)
    axis.legend(frameon=False, fontsize="small")
    path = pathlib.Path(arguments.folder) / "curves.png"
    figure.savefig(path, dpi=110)
    print(f"Curves (mean and range over seeds, smoothed over ten iterations): {path}")


def compare(arguments):
    matplotlib.use("Agg")
    jobs = [(arguments, algorithm, seed) for seed in arguments.seeds for algorithm in arguments.algos]
    with process_pool(arguments.parallel) as pool:
        for job, future in [(job, pool.submit(train, *job)) for job in jobs]:
            future.result()
            print(f"{job[1]} seed {job[2]}: done", flush=True)
    for timesteps in arguments.timesteps:
        table(arguments, timesteps)
        if arguments.validate_every:
            table(arguments, timesteps, best=True)
    for window in arguments.in_training:
        in_training(arguments, window)
    draw(arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Navigation2D-v0", help="id of a registered family")
    parser.add_argument("--algos", nargs="+", default=["sgmrl", "maml"], choices=list(ALGORITHMS), help="algorithms to train")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="seeds, the same for every algorithm")
    parser.add_argument(
        "--timesteps",
        nargs="+",
        type=lambda x: int(float(x)),
        default=[2_000_000],
        help="environment steps at which each run is measured",
    )
    parser.add_argument("--horizon", type=int, help="steps of an episode (default: as registered)")
    parser.add_argument("--n-tasks", type=int, default=200, help="number of unseen tasks in the final report")
    parser.add_argument("--n-steps", type=int, default=3, help="number of inner steps in the final report")
    parser.add_argument(
        "--validate-every", type=int, metavar="ITERATIONS", help="also report the best policy on 100 other tasks"
    )
    parser.add_argument(
        "--in-training", nargs="+", default=[], metavar="FIRST-LAST", help="also compare these iterations of training"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="arguments of the algorithms")
    parser.add_argument("--parallel", type=int, default=1, help="number of parallel runs")
    parser.add_argument("--folder", default="logs/compare", help="folder for logs, models and picture")
    arguments = parser.parse_args()
    arguments.timesteps = sorted(set(arguments.timesteps))
    sys.exit(run_command(lambda: check(arguments)) or run_command(lambda: compare(arguments), show_traceback=True))


if __name__ == "__main__":
    main()

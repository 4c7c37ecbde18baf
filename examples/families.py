"""
Compare SG-MRL with plain MAML, multi-task PPO and an oracle on the task families, and say in which families it adapts.

    nice python examples/families.py --parallel 2
    python examples/families.py --print

SG-MRL has the package's settings of the family. Plain MAML has one epoch and otherwise its own settings. PPO trains on all
tasks, then fine-tunes on each test task. The oracle is PPO that observes the task. All have the same environment steps, test
tasks and seeds.

The steps of a family are such that its 12 runs take about an hour on two cores. Each family has a folder of the command
``sb3_sgmrl.compare``. Repeat this command to resume after an interruption. ``--print`` only shows the table of finished runs.
"""

import argparse
import csv
import pathlib
import sys
from collections import defaultdict

import numpy as np

from sb3_sgmrl.cli.command_line import run_command
from sb3_sgmrl.cli.compare import command as compare
from sb3_sgmrl.cli.compare.results import half_width
from sb3_sgmrl.util.validation import check_positive

# environment steps of a run
BUDGETS = {
    "Navigation2D-v0": 2_000_000,
    "BernoulliBandit-v0": 1_000_000,
    "TabularMDP-v0": 2_000_000,
    **dict.fromkeys(["HalfCheetahDir-v0", "HalfCheetahVel-v0", "SwimmerVel-v0"], 6_000_000),
    **dict.fromkeys(["HopperDir-v0", "HopperVel-v0", "HopperRandParams-v0"], 4_000_000),
    **dict.fromkeys(["Walker2dDir-v0", "Walker2dVel-v0", "Walker2dRandParams-v0"], 4_000_000),
    **dict.fromkeys(["AntDir-v0", "AntVel-v0", "AntGoal-v0"], 4_000_000),
    **dict.fromkeys(["HumanoidDir-v0", "HumanoidVel-v0", "HumanoidGoal-v0"], 2_000_000),
}
OURS, MAML, PPO, ORACLE = "sgmrl", "maml", "ppo", "oracle"
# many workers and large batches make SB3's PPO several times faster
_FAST = "n_envs=100,n_epochs=5,batch_size=1000"
METHODS = [OURS, f"{MAML}=maml:n_epochs=1", f"{PPO}=ppo:{_FAST}", f"{ORACLE}=oracle:{_FAST}"]
# inner steps to measure, and the one of training, after which methods are compared
N_STEPS, TRAINED = 3, 1


def command(arguments, family):
    """Return the arguments of ``sb3_sgmrl.compare`` for a family."""
    steps = BUDGETS[family] if arguments.timesteps is None else arguments.timesteps
    numbers = {"timesteps": steps, "n-tasks": arguments.n_tasks, "n-steps": N_STEPS, "parallel": arguments.parallel}
    options = [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
    seeds = ["--seeds", *map(str, arguments.seeds)]
    return ["--env", family, "--method", *METHODS, *options, *seeds, "--folder", str(pathlib.Path(arguments.folder, family))]


def read_means(file):
    """Read a results file of the comparison: the steps, and the mean return after 0, 1, … inner steps by method and seed."""
    rows, timesteps = defaultdict(list), 0
    with open(file, newline="", encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            rows[line["method"], int(line["seed"])].append([float(line[f"after_{k}"]) for k in range(N_STEPS + 1)])
            timesteps = int(line["timesteps"])
    means = defaultdict(dict)
    for (method, seed), returns in rows.items():
        means[method][seed] = np.mean(returns, axis=0)
    return timesteps, means


def column(means, method, k):
    return {seed: returns[k] for seed, returns in means[method].items()}


def best_column(means, method):
    """Return the column of the number of steps, 0 included, that is best on average: a baseline may be fine-tuned or not."""
    columns = [column(means, method, k) for k in range(N_STEPS + 1)]
    return max(columns, key=lambda values: np.mean(list(values.values()))) if means[method] else {}


def paired(ones, others):
    return np.array([ones[seed] - others[seed] for seed in ones if seed in others])


def exceeds(differences):
    """Whether the 95 % interval of the mean is above 0; false for fewer than two pairs."""
    return len(differences) > 1 and bool(differences.mean() > half_width(differences))


def cell(values):
    values = np.array(values)
    if not len(values):
        return "–"
    return f"{values.mean():.1f}" + (f" ± {half_width(values):.1f}" if len(values) > 1 else "")


def verdict(gain, over_ppo):
    if min(len(gain), len(over_ppo)) < 2:
        return "too few runs"
    if not exceeds(gain):
        return "does not adapt"
    return "adapts" if exceeds(over_ppo) else "no better than PPO"


def row(family, file):
    timesteps, means = read_means(file)
    ours = [column(means, OURS, k) for k in range(N_STEPS + 1)]
    ppo = best_column(means, PPO)
    over_ppo = paired(ours[TRAINED], ppo)
    # the oracle does not adapt: its columns differ by episodes alone
    oracle = [returns.mean() for returns in means[ORACLE].values()]
    returns = [list(values.values()) for values in (*ours, column(means, MAML, TRAINED), ppo)]
    cells = [cell(values) for values in (*returns, oracle, over_ppo)]
    return [family, f"{timesteps / 1e6:g}", *cells, verdict(paired(ours[TRAINED], ours[0]), over_ppo)]


def results_file(folder):
    """Return the results of a comparison with the most steps; None before a run has finished."""
    files = [file for file in folder.glob("results_*.csv") if file.stem.removeprefix("results_").isdecimal()]
    return max(files, key=lambda file: int(file.stem.removeprefix("results_")), default=None)


def table(folder, families):
    """Write the table of the families that have results, as Markdown."""
    files = {family: results_file(pathlib.Path(folder, family)) for family in families}
    after = [f"{k} step{'s' * (k > 1)}" for k in range(1, N_STEPS + 1)]
    head = ["family", "million steps", "before", *after, "MAML, 1 step", "PPO", "oracle", "SG-MRL − PPO", "verdict"]
    rows = [row(family, file) for family, file in files.items() if file is not None]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    notes = [
        "",
        "Mean return on unseen tasks; ±: 95 % confidence interval over seeds (Student's t). PPO: the best of no and 1 to "
        f"{N_STEPS} steps of fine-tuning. SG-MRL − PPO: after {TRAINED} inner step, paired by seed.",
        "Adapts: SG-MRL exceeds its return before adaptation and PPO by more than the interval of the paired difference.",
    ]
    return "\n".join([*lines, *notes])


def run_all(arguments):
    """Train all families, and return the exit code of the first comparison that ends early."""
    if not arguments.print:
        for family in arguments.families:
            print(f"\n{family}", flush=True)
            if code := compare.main(command(arguments, family)):
                sys.exit(code)
    print(f"\n{table(arguments.folder, arguments.families)}")


def check(arguments):
    steps = 1 if arguments.timesteps is None else arguments.timesteps
    check_positive(**{"--timesteps": steps, "--n-tasks": arguments.n_tasks, "--parallel": arguments.parallel})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(BUDGETS), choices=list(BUDGETS), help="task families (all)")
    parser.add_argument(
        "--timesteps", type=lambda text: int(float(text)), help="environment steps of a run (chosen for each family)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds, the same for all methods (0 1 2)")
    parser.add_argument("--n-tasks", type=int, default=100, help="number of unseen test tasks (100)")
    parser.add_argument("--parallel", type=int, default=1, help="number of parallel runs (1)")
    parser.add_argument("--folder", default="logs/families", help="folder with one comparison for each family (logs/families)")
    parser.add_argument("--print", action="store_true", help="only print the table of the finished runs")
    arguments = parser.parse_args()
    sys.exit(run_command(lambda: check(arguments)) or run_command(lambda: run_all(arguments)))


if __name__ == "__main__":
    main()

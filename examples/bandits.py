"""
Compare RL², SG-MRL and MAML with Thompson sampling on Bernoulli bandits by regret.

    nice python examples/bandits.py --parallel 2
    python examples/bandits.py --print

A trial has ``--pulls`` pulls on one bandit of five arms. The regret of a trial is the expected reward of always pulling the
best arm, minus the reward. Thompson sampling starts from uniform priors, which is the distribution of the tasks. RL² remembers
every pull; SG-MRL and MAML adapt after every twenty.

The folder is one of the command ``sb3_sgmrl.compare``. Repeat this command to resume after an interruption. ``--print`` only
shows the tables of finished runs.
"""

import argparse
import pathlib
import sys

import numpy as np

from sb3_sgmrl import MAML, SGMRL, evaluate_adaptation
from sb3_sgmrl.baselines import RL2
from sb3_sgmrl.cli.command_line import run_command
from sb3_sgmrl.cli.compare import command as compare
from sb3_sgmrl.cli.compare.results import half_width
from sb3_sgmrl.util.validation import check_positive

FAMILY, HORIZON = "BernoulliBandit-v0", 10  # pulls of an episode
PER_STEP = 2  # episodes of an inner step
LEARNERS = {"SG-MRL": ("sgmrl", SGMRL), "MAML": ("maml", MAML)}


def rl2_settings(arguments):
    # many workers and large mini-batches: SB3's recurrent policies take one step of all sequences at a time
    return {
        "n_episodes": PER_STEP,
        "n_trial_episodes": arguments.pulls // HORIZON,
        "n_trials": 1,
        "n_envs": 1000,
        "n_epochs": 5,
        "batch_size": 250 * arguments.pulls,
        "learning_rate": 1e-3,
        "policy_kwargs": {"lstm_hidden_size": 64, "net_arch": [64]},
    }


def command(arguments):
    """Return the arguments of ``sb3_sgmrl.compare``."""
    rl2 = ",".join(f"{name}={value!r}" for name, value in rl2_settings(arguments).items())
    methods = [f"rl2=rl2:{rl2}", *(f"{name}={name}:n_episodes={PER_STEP}" for name, _ in LEARNERS.values())]
    n_steps = arguments.pulls // HORIZON // PER_STEP - 1
    numbers = {"timesteps": arguments.timesteps, "n-steps": n_steps, "eval-every": 0, "parallel": arguments.parallel}
    options = [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
    seeds = ["--seeds", *map(str, arguments.seeds)]
    return ["--env", FAMILY, "--method", *methods, *options, *seeds, "--no-plots", "--folder", str(arguments.folder)]


def thompson_rewards(tasks, n_pulls, seed):
    """Play Thompson sampling with uniform priors and return the reward of each trial, shape (n_tasks,)."""
    rng = np.random.default_rng(seed)
    probabilities = np.array(tasks)
    rows = np.arange(len(tasks))
    wins, losses = np.ones_like(probabilities), np.ones_like(probabilities)
    total = np.zeros(len(tasks))
    for _ in range(n_pulls):
        arms = rng.beta(wins, losses).argmax(1)
        rewards = rng.random(len(tasks)) < probabilities[rows, arms]
        wins[rows, arms] += rewards
        losses[rows, arms] += ~rewards
        total += rewards
    return total


def load_rl2(arguments, file, seed):
    model = RL2("MlpLstmPolicy", FAMILY, seed=seed, **rl2_settings(arguments))
    model.restore(file)
    return model


def rl2_rewards(arguments, model, tasks):
    with model.workers(None, len(tasks), 1) as env:
        return model.trial_returns(env, tasks, arguments.pulls // HORIZON, [model.seed], lambda _: None).sum((1, 2))


def learner_rewards(arguments, model, tasks):
    n_phases = arguments.pulls // HORIZON // PER_STEP
    report = evaluate_adaptation(model, tasks=tasks, n_steps=n_phases - 1)
    return report.returns.mean(1) * n_phases * PER_STEP


def checkpoints(arguments, name):
    """Find the finished runs of a method, as pairs of a seed and a file."""
    folders = {seed: pathlib.Path(arguments.folder) / f"{name}-{seed}" for seed in arguments.seeds}
    report = f"adaptation_{arguments.timesteps}.csv"
    return [(seed, folder / "checkpoint.zip") for seed, folder in folders.items() if (folder / report).exists()]


def measure(arguments):
    """Print the regret of each method on the same bandits."""
    tasks = list(np.random.default_rng(7).uniform(size=(arguments.n_tasks, 5)))
    best = arguments.pulls * np.max(tasks, axis=1)
    thompson = best - thompson_rewards(tasks, arguments.pulls, 0)
    models = {"RL²": [load_rl2(arguments, file, seed) for seed, file in checkpoints(arguments, "rl2")]}
    for label, (name, cls) in LEARNERS.items():
        models[label] = [cls.load(file, env=FAMILY) for _, file in checkpoints(arguments, name)]
    print(f"Mean regret of {arguments.pulls} pulls on {len(tasks)} bandits; ±: 95 % interval over bandits for Thompson")
    print("sampling, over seeds for the methods that learn")
    print(f"{'Thompson sampling':18}{thompson.mean():8.2f} ± {half_width(thompson):.2f}")
    print(f"{'random':18}{(best - arguments.pulls * np.mean(tasks, axis=1)).mean():8.2f}")
    for label, of_seeds in models.items():
        if of_seeds:
            rewards = rl2_rewards if label == "RL²" else learner_rewards
            regrets = np.array([(best - rewards(arguments, model, tasks)).mean() for model in of_seeds])
            interval = f" ± {half_width(regrets):.2f}" if len(regrets) > 1 else ""
            # a folder may hold longer runs than asked for
            trained = max(model.num_timesteps for model in of_seeds)
            print(
                f"{label:18}{regrets.mean():8.2f}{interval}, {regrets.mean() / thompson.mean():.2f} of Thompson sampling's, "
                f"runs: {len(regrets)}, pulls of training: {trained:,}"
            )


def check(arguments):
    check_positive(**{"--n-tasks": arguments.n_tasks, "--timesteps": arguments.timesteps, "--parallel": arguments.parallel})
    if arguments.pulls < 2 * PER_STEP * HORIZON or arguments.pulls % (PER_STEP * HORIZON):
        raise ValueError(f"`--pulls` must be a multiple of 20 of at least 40, got {arguments.pulls}.")


def run_all(arguments):
    """Train all methods and print the tables; exit with the code of a comparison that ends early."""
    if code := compare.main([*command(arguments), *(["--report-only"] if arguments.print else [])]):
        sys.exit(code)
    print()
    measure(arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=lambda text: int(float(text)), default=10_000_000, help="pulls of training (1e7)")
    parser.add_argument("--pulls", type=int, default=100, help="pulls of a trial, a multiple of 20 (100)")
    parser.add_argument("--n-tasks", type=int, default=1000, help="number of bandits (1000)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds, the same for all methods (0 1 2)")
    parser.add_argument("--parallel", type=int, default=1, help="number of parallel runs (1)")
    parser.add_argument("--folder", default="logs/bandits", help="folder of the comparison (logs/bandits)")
    parser.add_argument("--print", action="store_true", help="only print the tables of the finished runs")
    arguments = parser.parse_args()
    sys.exit(run_command(lambda: check(arguments)) or run_command(lambda: run_all(arguments)))


if __name__ == "__main__":
    main()

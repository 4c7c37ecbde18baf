"""
Compare RL² with Thompson sampling on Bernoulli bandits by regret.

    python examples/bandits.py
    python examples/bandits.py --timesteps 20e6 --pulls 100

A trial has ``--pulls`` pulls on one bandit. The regret of a trial is the expected reward of always pulling the best arm, minus
the reward. Thompson sampling starts from uniform priors, which is the distribution of the tasks. SG-MRL adapts after every
twenty pulls.
"""

import argparse
import sys

import numpy as np

from sb3_sgmrl import SGMRL, evaluate_adaptation
from sb3_sgmrl.baselines import RL2
from sb3_sgmrl.cli.command_line import run_command
from sb3_sgmrl.cli.compare.results import half_width
from sb3_sgmrl.util.validation import check_positive

FAMILY, HORIZON = "BernoulliBandit-v0", 10  # pulls of an episode
PER_STEP = 2  # episodes of an inner step


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


def rl2_rewards(arguments, tasks, n_episodes):
    model = RL2(
        *("MlpLstmPolicy", FAMILY),
        n_trial_episodes=n_episodes,
        n_trials=1,
        n_envs=100,
        learning_rate=1e-3,
        policy_kwargs={"lstm_hidden_size": 64, "net_arch": [64]},
        seed=arguments.seed,
    )
    model.learn(int(arguments.timesteps))
    with model.workers(None, len(tasks), 1) as env:
        return model.trial_returns(env, tasks, n_episodes, [arguments.seed], lambda _: None).sum((1, 2))


def sgmrl_rewards(arguments, tasks, n_episodes):
    model = SGMRL("MlpPolicy", FAMILY, meta_batch_size=40, n_episodes=PER_STEP, inner_lr=1.0, seed=arguments.seed)
    model.learn(int(arguments.timesteps))
    report = evaluate_adaptation(model, tasks=tasks, n_steps=n_episodes // PER_STEP - 1)
    return report.returns.mean(1) * n_episodes


def measure(arguments):
    check_positive(**{"--n-tasks": arguments.n_tasks})
    if arguments.pulls < 2 * PER_STEP * HORIZON or arguments.pulls % (PER_STEP * HORIZON):
        raise ValueError(f"`--pulls` must be a multiple of 20 of at least 40, got {arguments.pulls}.")
    tasks = list(np.random.default_rng([arguments.seed, 7]).uniform(size=(arguments.n_tasks, 5)))
    n_episodes = arguments.pulls // HORIZON
    best = n_episodes * HORIZON * np.max(tasks, axis=1)
    rewards = {
        "Thompson sampling": thompson_rewards(tasks, n_episodes * HORIZON, arguments.seed),
        "random": best * 0 + n_episodes * HORIZON * np.mean(tasks, axis=1),
        "RL²": rl2_rewards(arguments, tasks, n_episodes),
        "SG-MRL": sgmrl_rewards(arguments, tasks, n_episodes),
    }
    print(f"Mean regret of {n_episodes * HORIZON} pulls on {arguments.n_tasks} bandits; ±: 95 % interval over bandits")
    for name, reward in rewards.items():
        regret = best - reward
        ratio = regret.mean() / (best - rewards["Thompson sampling"]).mean()
        print(f"{name:18}{regret.mean():8.2f} ± {half_width(regret):.2f}{ratio:8.2f} of Thompson sampling's")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=float, default=5e6, help="pulls of training (5e6)")
    parser.add_argument("--pulls", type=int, default=100, help="pulls of a trial, a multiple of 20 (100)")
    parser.add_argument("--n-tasks", type=int, default=1000, help="number of bandits (1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed (0)")
    arguments = parser.parse_args()
    sys.exit(run_command(lambda: measure(arguments)))


if __name__ == "__main__":
    main()

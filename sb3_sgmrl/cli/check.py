"""``python -m sb3_sgmrl.check``: check whether a policy can adapt to the tasks of an environment."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import gymnasium as gym

from sb3_sgmrl.cli.command_line import import_env, name_and_value, run_command
from sb3_sgmrl.vec_env.task_checker import check_tasks

_DESCRIPTION = """\
Check the tasks of an environment before you train on them. The command plays a few random episodes and prints a table.
It checks whether tasks differ and survive resets, copies and processes, and whether the observation reveals the task. It also
checks whether rewards inform about the task, actions are clipped, test tasks overlap with training tasks, and the horizon is
known. The exit code is 0 without problems, 1 with problems, and 2 after an error in the arguments.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    :param argv: The arguments of the command; the arguments of the process when None
    :return: The exit code: 0 without problems, 1 with problems, 2 after an error, 130 after Ctrl-C
    """
    parser = argparse.ArgumentParser(
        "python -m sb3_sgmrl.check", usage="%(prog)s [options]", description=_DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument(
        "--env", required=True, metavar="ID", help="the environment; MODULE:ID imports the module that registers it"
    )
    parser.add_argument(
        "--env-kwargs", nargs="+", default=[], metavar="NAME:VALUE", help="arguments of the environment; values are Python"
    )
    parser.add_argument("--gym-packages", nargs="+", default=[], metavar="MODULE", help="modules that register environments")
    parser.add_argument("--n-tasks", type=int, default=6, help="number of tasks to play (%(default)s)")
    parser.add_argument("--n-episodes", type=int, default=8, help="number of episodes per task (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of tasks, episodes and actions (%(default)s)")
    parser.add_argument("--verbose", type=int, default=1, help="2 also shows the tracebacks of errors (1)")
    options = parser.parse_args(argv)
    problems: list[Any] = []

    def check() -> None:
        env = gym.make(import_env(options.env, options.gym_packages), **dict(map(name_and_value, options.env_kwargs)))
        report = check_tasks(env, options.n_tasks, options.n_episodes, options.seed)
        print(report)
        problems.extend(report.problems)

    return run_command(check, show_traceback=options.verbose > 1) or int(bool(problems))

"""``python -m sb3_sgmrl.train``: RL Zoo's ``train`` for the algorithms and task families of this package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, NoReturn

from sb3_sgmrl.algorithms import ALGORITHMS
from sb3_sgmrl.cli.command_line import check_output, import_env, run_command
from sb3_sgmrl.cli.trained_model import TRUSTED
from sb3_sgmrl.distributed.torch_ranks import TIMEOUT
from sb3_sgmrl.util.validation import LARGEST_SEED

_DESCRIPTION = """\
Train on a task family with RL Zoo, then adapt to new tasks and report the returns before and after each inner step.
The run's folder is LOG_FOLDER/ALGO/ENV_<number>. It contains the model, its hyperparameters, the model with the best return
after adaptation, evaluations.npz, adaptation.csv, the plot adaptation.png and, for navigation, the plot trajectories.png.
Ctrl-C ends training early and saves the model. With -optimize the command is the same as python -m sb3_sgmrl.tune.
"""

_EPILOG = """\
RL Zoo's options below apply as well, with these differences:
  --algo             sgmrl (default), maml, emaml, promp, trpomaml or reptile
  --env              task family, an environment with sample_tasks(n, rng) and set_task(task) (Navigation2D-v0).
                     MODULE:ID imports the module that registers it
  -i                 model to resume training from, a .zip of this package. The model keeps its settings, except those that
                     -params names. It also keeps its random streams, so --seed has no effect. It trains for another -n steps;
                     with --resume, up to -n steps altogether
  -n                 number of steps of all phases together (from the hyperparameters)
  --conf-file        hyperparameters (the package's own); every name in the file is checked
  --vec-env          kind of VecEnv with single environments. By default a family plays in its batched form if it has one,
                     unless the hyperparameters have an env_wrapper. The hyperparameter n_envs is the number of workers
  --eval-freq        steps between two evaluations of the return after adaptation, rounded to meta-iterations; 0, the default,
                     evaluates ten times in a run, a negative number never
  --eval-episodes    episodes per task to adapt with and to measure each inner step; 0, the default: as in training
  --n-eval-envs      number of workers for evaluation; 0, the default: automatic
  --save-freq        steps between two checkpoints
  --num-threads      number of threads, also for gradients if the hyperparameters have no n_threads
  --log-interval     meta-iterations between two tables (10)
  --n-trials, --n-startup-trials, --n-evaluations
                     -optimize: 20 trials, 5 before the sampler and the pruner start, 4 evaluations of each trial
  --progress         on by default in a terminal
  --verbose          2 also shows the tracebacks of errors
"""


# the options of RL Zoo that it does not check; -1 is the default of the first two
_RANGES = {
    "num_threads": (1, 1024),
    "seed": (0, LARGEST_SEED),
    "n_jobs": (1, 1024),
    "n_trials": (1, 10**9),
    "n_startup_trials": (0, 10**9),
    "max_total_trials": (1, 10**9),
    "trial_id": (0, 10**9),
}


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    :param argv: The arguments of the command; the arguments of the process when None
    :return: The exit code: 0, 2 after an error in the arguments or settings, 130 after Ctrl-C
    """
    return run_zoo(make_parser("python -m sb3_sgmrl.train", _DESCRIPTION, _EPILOG), argv)


def run_zoo(parser: argparse.ArgumentParser, argv: Sequence[str] | None, first: Sequence[str] = ()) -> int:
    """
    Run RL Zoo's ``train``.

    :param parser: The parser from :func:`make_parser`
    :param argv: The arguments of the command; the arguments of the process when None
    :param first: Arguments for RL Zoo, placed before ``argv``, which overrides them
    :return: The exit code
    """
    options, zoo_arguments = parser.parse_known_args(argv)
    return run_command(lambda: _train(parser, options, [*first, *zoo_arguments]), show_traceback=options.verbose > 1)


def _train(parser: argparse.ArgumentParser, options: argparse.Namespace, zoo_arguments: list[str]) -> None:
    import rl_zoo3.train

    from sb3_sgmrl.cli.zoo.options import MetaOptions
    from sb3_sgmrl.cli.zoo.ranks import arguments_of_rank
    from sb3_sgmrl.cli.zoo.search import SearchManager

    if options.algo not in ALGORITHMS:
        raise ValueError(f"`--algo` must be one of {', '.join(ALGORITHMS)}, got {options.algo!r}.")
    for name in ("eval_tasks", "eval_steps", "n_timesteps"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ValueError(f"`--{name.replace('_', '-')}` must be positive, got {getattr(options, name)}.")
    if options.help:
        print(parser.format_help())
        zoo_arguments = ["--help"]
    else:
        options.env = import_env(options.env, options.gym_packages)
        if options.output is not None:
            check_output(options.output, (".yml", ".yaml"), options.overwrite)
    meta = MetaOptions(
        *(options.eval_tasks, options.eval_steps, options.vec_env is not None, options.output, options.trusted),
        resume=options.resume,
    )
    rl_zoo3.train.ExperimentManager = partial(SearchManager, meta=meta)  # type: ignore[misc, assignment]
    rl_zoo3.train.argparse = SimpleNamespace(ArgumentParser=_ZooParser)  # type: ignore[assignment]
    with arguments_of_rank([*_defaults(options), *zoo_arguments], options.timeout, options.sum_by_blocks) as arguments:
        sys.argv = [parser.prog, *arguments]
        rl_zoo3.train.train()


class _ZooParser(argparse.ArgumentParser):
    """RL Zoo's parser without abbreviations, which this package's parser would not recognise."""

    def __init__(self) -> None:
        super().__init__(allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """
        Raise an error instead of ending the process.

        :param message: The message of argparse
        :raises ValueError: Always
        """
        raise ValueError(f"{message}; `--help` shows the options, which cannot be abbreviated.")

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """
        Parse and check the options that RL Zoo uses unchecked.

        :param args: As in argparse
        :param kwargs: As in argparse
        :return: The options
        :raises ValueError: When a number is outside its range
        """
        options = super().parse_args(*args, **kwargs)
        for name, (least, most) in _RANGES.items():
            value = getattr(options, name)
            is_default = value is None or (value == -1 and name in ("num_threads", "seed"))
            if not is_default and not least <= value <= most:
                raise ValueError(f"`--{name.replace('_', '-')}` must be an integer from {least} to {most}, got {value}.")
        return options


def make_parser(prog: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """
    Make a parser of the options that RL Zoo does not have, or for which this package has other defaults.

    :param prog: The command
    :param description: The description of the command
    :param epilog: The notes on RL Zoo's options
    :return: The parser
    """
    parser = argparse.ArgumentParser(
        prog,
        usage="%(prog)s [options]",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this help and RL Zoo's help")
    parser.add_argument("--eval-tasks", type=int, default=40, help="number of tasks of each evaluation and of the report (40)")
    parser.add_argument("--eval-steps", type=int, help="number of inner steps of the report (3, or as in training if larger)")
    parser.add_argument(
        "--output",
        metavar="FILE.yml",
        help="-optimize: file for the best settings (LOG_FOLDER/ALGO/tuned_ENV_<number>.yml)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file of --output")
    parser.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT,
        help=f"under torchrun: seconds that a process waits for the slowest one before all stop ({TIMEOUT:g})",
    )
    parser.add_argument(
        "--sum-by-blocks",
        action="store_true",
        help="under torchrun: exchange one sum of gradients per process, for policies of millions of parameters; equal within "
        "rounding",
    )
    parser.add_argument("--trusted", action="store_true", help=f"-i: {TRUSTED}")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="-i: end as if the run had never stopped; -n, schedules and evaluations are those of the whole run",
    )
    zoo = (("--algo", "sgmrl"), ("--env", "Navigation2D-v0"), ("--conf-file", None), ("-conf", None), ("--vec-env", None))
    for name, default in zoo:
        parser.add_argument(name, default=default, help=argparse.SUPPRESS)
    parser.add_argument("-n", "--n-timesteps", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--gym-packages", nargs="+", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--verbose", type=int, default=1, help=argparse.SUPPRESS)
    return parser


def _defaults(options: argparse.Namespace) -> list[str]:
    """Return the arguments that precede the given ones; RL Zoo's parser uses the last value of an option."""
    conf_file = options.conf_file or options.conf or str(ALGORITHMS[options.algo].hyperparameters)
    arguments = ["--algo", options.algo, "--env", options.env, "--conf-file", conf_file]
    arguments += ["--eval-freq", "0", "--eval-episodes", "0", "--n-eval-envs", "0", "--log-interval", "10"]
    arguments += ["--n-trials", "20", "--n-startup-trials", "5", "--n-evaluations", "4", "--no-optim-plots"]
    arguments += ["--verbose", str(options.verbose)]
    if options.n_timesteps is not None:
        arguments += ["-n", str(options.n_timesteps)]
    if options.vec_env is not None:
        arguments += ["--vec-env", options.vec_env]
    if sys.stderr.isatty() and find_spec("tqdm") and find_spec("rich"):
        arguments.append("--progress")
    return arguments

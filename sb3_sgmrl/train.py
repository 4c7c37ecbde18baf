"""``python -m sb3_sgmrl.train``: RL Zoo's ``train`` for the algorithms and task families of this package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from sb3_sgmrl.command_line import run_command

_DESCRIPTION = """\
Train on a task family with RL Zoo, then adapt to new tasks and report the returns before and after each inner step.
The run's folder, LOG_FOLDER/ALGO/ENV_<number>, gets the model, its hyperparameters, the best model (by the return after
adaptation), evaluations.npz, adaptation.csv, and as pictures adaptation.png and, for navigation, trajectories.png.
"""

_EPILOG = """\
RL Zoo's options below apply as well, with these differences:
  --algo             sgmrl (default), maml or emaml
  --env              a task family, that is an environment with sample_tasks(n, rng) and set_task(task); Navigation2D-v0
  --conf-file        the package's own hyperparameters unless given
  --vec-env          a family with a batched form is played in that, unless a kind of VecEnv is asked for here or the
                     hyperparameters have an env_wrapper; n_envs among the hyperparameters is the number of workers
  --eval-freq        steps between two evaluations of the return after adaptation, rounded to meta-iterations; 0, the default,
                     makes ten in a run, a negative number none
  --eval-episodes    episodes per task to adapt with and to measure each inner step; 0, the default: as in training
  --n-eval-envs      number of workers for evaluation; 0, the default, chooses
  --log-interval     meta-iterations between two tables; 10
  --progress         on by default in a terminal
  --verbose          2 also shows tracebacks of errors
"""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    :param argv: arguments; those of the process when None
    :return: exit code: 0, 2 after an error in the arguments or settings, 130 after Ctrl-C
    """
    options, zoo_arguments = _parser().parse_known_args(argv)
    return run_command(lambda: _train(options, zoo_arguments), show_traceback=options.verbose > 1)


def _train(options: argparse.Namespace, zoo_arguments: list[str]) -> None:
    import rl_zoo3.train

    from sb3_sgmrl.zoo import META_ALGOS, MetaExperimentManager, MetaOptions

    if options.algo not in META_ALGOS:
        raise ValueError(f"--algo must be one of {', '.join(META_ALGOS)}, got {options.algo!r}.")
    for name in ("eval_tasks", "eval_steps"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {getattr(options, name)}.")
    if options.help:
        print(_parser().format_help())
        zoo_arguments = ["--help"]
    meta = MetaOptions(options.eval_tasks, options.eval_steps, zoo_workers=options.vec_env is not None)
    rl_zoo3.train.ExperimentManager = partial(MetaExperimentManager, meta=meta)  # type: ignore[misc, assignment]
    sys.argv = ["python -m sb3_sgmrl.train", *_defaults(options), *zoo_arguments]
    rl_zoo3.train.train()


def _parser() -> argparse.ArgumentParser:
    # Only the options that are not RL Zoo's, or whose absence means something else than it does there.
    parser = argparse.ArgumentParser(
        "python -m sb3_sgmrl.train",
        usage="%(prog)s [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this text and RL Zoo's")
    parser.add_argument("--eval-tasks", type=int, default=40, help="tasks of each evaluation and of the final report (40)")
    parser.add_argument(
        "--eval-steps", type=int, help="inner steps of the final report (3, or as in training if that is more)"
    )
    for name, default in (("--algo", "sgmrl"), ("--conf-file", None), ("-conf", None), ("--vec-env", None)):
        parser.add_argument(name, default=default, help=argparse.SUPPRESS)
    parser.add_argument("--verbose", type=int, default=1, help=argparse.SUPPRESS)
    return parser


def _defaults(options: argparse.Namespace) -> list[str]:
    """Arguments put before those given, of which RL Zoo's parser heeds the last."""
    conf_file = options.conf_file or options.conf or str(Path(__file__).parent / "hyperparams" / f"{options.algo}.yml")
    arguments = ["--algo", options.algo, "--env", "Navigation2D-v0", "--conf-file", conf_file]
    arguments += ["--eval-freq", "0", "--eval-episodes", "0", "--n-eval-envs", "0", "--log-interval", "10"]
    arguments += ["--verbose", str(options.verbose)]
    if options.vec_env is not None:
        arguments += ["--vec-env", options.vec_env]
    if sys.stderr.isatty() and find_spec("tqdm") and find_spec("rich"):
        arguments.append("--progress")
    return arguments


if __name__ == "__main__":
    sys.exit(main())

"""``python -m sb3_sgmrl.tune``: search for hyperparameters with the highest return after adaptation."""

from __future__ import annotations

from collections.abc import Sequence

from sb3_sgmrl.cli.train import make_parser, run_zoo

_DESCRIPTION = """\
Search with Optuna for the hyperparameters with the highest return after adaptation. All trials use the same tasks.
The first trial uses the current settings, including values outside the search space. Later trials are pruned when they are
worse than the median of the other trials. The command prints the best settings and writes them as an entry for train
--conf-file. The study is kept in a file beside this entry, so you can resume the search. Ctrl-C ends the search and writes the
best settings so far. The command is the same as train -optimize.
"""

_EPILOG = """\
RL Zoo's options below apply as well. The most important options:
  --algo             sgmrl (default), maml, emaml, promp, trpomaml or reptile
  --env              task family, as for train (Navigation2D-v0)
  --n-trials         number of trials (20)
  -n                 samples of a trial (a quarter of the samples of a training)
  --n-evaluations    number of evaluations of a trial, after each of which the trial may be pruned (4)
  --n-startup-trials number of trials before the sampler and the pruner start (5)
  --sampler, --pruner
                     sampler (tpe) and pruner (median)
  --storage          storage of the study, FILE.log or sqlite:///FILE (a new FILE.log beside the settings)
  --study-name       name of the study in the storage (the environment). An existing study is resumed; it needs the same
                     --algo, --env and -n
  --optimization-log-path
                     folder for the evaluations and the best model of each trial
  --conf-file, -params
                     settings at the start of the search, and settings that are not searched
  --verbose          2 also shows the tracebacks of errors
"""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    :param argv: The arguments of the command; the arguments of the process when None
    :return: The exit code: 0, 2 after an error in the arguments or settings, 130 after Ctrl-C
    """
    return run_zoo(make_parser("python -m sb3_sgmrl.tune", _DESCRIPTION, _EPILOG), argv, ["-optimize"])

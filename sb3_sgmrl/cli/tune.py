"""``python -m sb3_sgmrl.tune``: RL Zoo's search for hyperparameters, for the highest return after adaptation."""

from __future__ import annotations

from collections.abc import Sequence

from sb3_sgmrl.cli.train import make_parser, run_zoo

_DESCRIPTION = """\
Search hyperparameters with Optuna for the highest return after adaptation, on tasks that are the same in all trials.
The first trial has the settings there are, also those outside of what is searched; later ones are pruned when they do worse
than the median of the others. The best settings are printed and written as an entry for train --conf-file. The study is kept
in a file beside it, so that another search can go on with it. Ctrl-C ends the search and writes the best settings so far.
This is train -optimize.
"""

_EPILOG = """\
RL Zoo's options below apply as well. Those that matter here:
  --algo             sgmrl (default), maml or emaml
  --env              a task family, as for train; Navigation2D-v0
  --n-trials         number of trials; 20
  -n                 samples of a trial; a quarter of those of a training unless given
  --n-evaluations    evaluations of a trial, after each of which it may be pruned; 4
  --n-startup-trials trials before the sampler has an opinion and the pruner has somebody to compare with; 5
  --sampler, --pruner
                     tpe and median
  --storage          where the study is: FILE.log or sqlite:///FILE; a new FILE.log beside the settings unless given
  --study-name       its name in there; that of the environment unless given. A study that is there is continued,
                     with its --algo, --env and -n
  --optimization-log-path
                     a folder that gets the evaluations and the best model of each trial
  --conf-file, -params
                     what the search starts from, and what is not searched
  --verbose          2 also shows tracebacks of errors
"""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    :param argv: arguments; those of the process when None
    :return: exit code: 0, 2 after an error in the arguments or settings, 130 after Ctrl-C
    """
    return run_zoo(make_parser("python -m sb3_sgmrl.tune", _DESCRIPTION, _EPILOG), argv, ["-optimize"])

"""``python -m sb3_sgmrl.convert``: Convert a model from before 0.1, which is a pickle, to a file of data."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from stable_baselines3.common.vec_env import VecNormalize

from sb3_sgmrl.cli.command_line import check_output, import_packages, run_command
from sb3_sgmrl.common.files.encoding import as_schedule
from sb3_sgmrl.common.files.model_file import write_model
from sb3_sgmrl.common.files.statistics import check_statistics, statistics_of
from sb3_sgmrl.common.saving import is_legacy_file, read_file
from sb3_sgmrl.util.files import replace_when_complete


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    :param argv: The arguments; when None, the arguments of the process
    :return: The exit code: 0, 2 after an error in the arguments or the file, 130 after Ctrl-C
    """
    options = _parser().parse_args(argv)
    return run_command(lambda: _convert(options), show_traceback=options.verbose > 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m sb3_sgmrl.convert",
        description="Convert a model of before 0.1 to the format of today, which is data. The old file is a pickle: reading "
        "it runs whatever code its author put there, so convert only files of authors you trust.",
    )
    parser.add_argument("old", metavar="OLD.zip", help="the model of before 0.1")
    parser.add_argument("new", metavar="NEW.zip", nargs="?", help="the file to write (OLD_converted.zip)")
    parser.add_argument(
        "--statistics",
        metavar="FILE.pkl",
        help="a model that was trained in a VecNormalize: its statistics, such as RL Zoo's vecnormalize.pkl, a pickle too",
    )
    parser.add_argument("--gym-packages", nargs="+", default=[], metavar="MODULE", help="imported to register classes")
    parser.add_argument("--overwrite", action="store_true", help="replace NEW.zip if it exists")
    parser.add_argument("--verbose", type=int, default=1, help="2 also shows tracebacks of errors (1)")
    return parser


def _convert(options: argparse.Namespace) -> None:
    new = options.new or str(pathlib.Path(options.old).with_suffix("")) + "_converted.zip"
    check_output(new, (".zip",), options.overwrite, option="NEW.zip")
    import_packages(options.gym_packages)
    if not is_legacy_file(options.old):
        raise ValueError(f"{options.old} is not a model of before 0.1: there is nothing to convert.")
    print(f"Unpickling {options.old}, which runs whatever code its author put there.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the line above already warns
        model = read_file(options.old, trusted=True)
    settings = {**model.settings, "learning_rate": as_schedule(model.settings["learning_rate"])}
    if options.statistics is not None:
        model = replace(model, statistics=_statistics(options.statistics, settings["observation_space"]))
    with replace_when_complete(new) as file:
        write_model(file, replace(model, settings=settings))
    print(f"Wrote {new}, for {model.algorithm}.load")


def _statistics(path: str, observation_space: Any) -> dict[str, Any]:
    try:
        normalizer = pickle.loads(pathlib.Path(path).read_bytes())
    except Exception as error:  # a pickle may run and raise anything
        raise ValueError(f"--statistics {path} cannot be unpickled: {error}") from error
    if not isinstance(normalizer, VecNormalize):
        raise ValueError(f"--statistics {path} holds no VecNormalize, but {type(normalizer).__name__}.")
    statistics = statistics_of(normalizer)
    try:
        check_statistics(statistics, observation_space)
    except (ValueError, KeyError) as error:
        raise ValueError(f"--statistics {path} is not of this model: {error}.") from error
    return statistics

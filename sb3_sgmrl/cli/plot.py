"""``python -m sb3_sgmrl.plot``: pictures of runs and models."""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sb3_sgmrl.algorithms import algorithm_of
from sb3_sgmrl.cli.command_line import PICTURES, check_output, import_env, run_command, write_figure

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from stable_baselines3.common.vec_env import VecEnv

    from sb3_sgmrl.common.evaluation import AdaptationReport
    from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm

_DESCRIPTION = """\
Draw a picture of runs or models into a file.

kinds of pictures, and what each is drawn from:
  adaptation    return against the number of inner steps (reports)
  curves        returns before and after adaptation while training (evaluations.npz or progress.csv)
  profile       fraction of runs and tasks above a return, against that return (reports)
  improvement   probability that a run of one algorithm is better than a run of another (reports)
  tasks         return of each task, before and after adaptation, against one or two numbers of the task (reports)
  gradient      norm, cosine, weight and variance of the terms of the meta-gradient while training (progress.csv)
  trajectories  ways through the plane in 2-D navigation (models)

A source is a run's folder, as sb3_sgmrl.train leaves it or with files of these names; a report, that is adaptation.csv or
another file of AdaptationReport.to_csv; or a model, a .zip file, which is evaluated where a report is wanted. progress.csv is
written by sb3_sgmrl.train, and by SB3's logger after model.set_logger(configure(folder, ["csv"])).

Sources of one name are runs of one algorithm, such as several seeds. The name is that of the algorithm in folders of
sb3_sgmrl.train, else that of the run's folder without a number at its end, also for adaptation.csv, evaluations.npz,
progress.csv and models in it; other reports, and models elsewhere, are named as their files. NAME=SOURCE gives another name.
"""

_EXAMPLES = """\
examples:
  python -m sb3_sgmrl.plot curves logs/sgmrl/Navigation2D-v0_* logs/maml/Navigation2D-v0_* -o curves.png
  python -m sb3_sgmrl.plot adaptation "SG-MRL=logs/sgmrl/Navigation2D-v0_1" "MAML=logs/maml/Navigation2D-v0_1"
  python -m sb3_sgmrl.plot trajectories model.zip --env Navigation2D-v0 -o trajectories.pdf
"""
_MOST_DPI = 2400  # more than printers have
_LAST_NUMBER = re.compile(r"[-_ ]\d+$")
_LOGS = ("evaluations.npz", "progress.csv")
_NAMES_IN_RUNS = (*_LOGS, "adaptation.csv", "model.zip", "best_model.zip")  # which say nothing of the algorithm


@dataclass(frozen=True)
class Source:
    """
    What a picture is drawn from.

    :param name: of the algorithm
    :param path: a run's folder or a file
    """

    name: str
    path: pathlib.Path


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    :param argv: arguments; those of the process when None
    :return: exit code: 0, 2 after an error in the arguments or the files, 130 after Ctrl-C
    """
    options = _parser().parse_args(argv)
    return run_command(lambda: _plot(options), show_traceback=options.verbose > 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m sb3_sgmrl.plot",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=list(_KINDS), metavar="KIND", help="of picture, see above")
    parser.add_argument("sources", nargs="+", metavar="[NAME=]SOURCE", help="run folders, reports or models, see above")
    parser.add_argument("-o", "--output", metavar="FILE", help=f"picture to write, {' or '.join(PICTURES)} (KIND.png)")
    parser.add_argument("--overwrite", action="store_true", help="replace the picture if it is there already")
    parser.add_argument("--dpi", type=int, default=150, help="dots per inch of a PNG (150)")
    parser.add_argument("--level", type=float, default=0.95, help="coverage of confidence bands (0.95)")
    parser.add_argument(
        "--read",
        choices=["evaluations", "progress"],
        help="curves: from evaluations.npz, on unseen tasks, or from progress.csv, on the tasks of training; unless given, "
        "from evaluations.npz where every run has one",
    )
    parser.add_argument(
        "--smooth", type=int, default=1, metavar="N", help="curves, gradient: moving average over N points (1)"
    )
    parser.add_argument(
        "--parameters",
        type=int,
        nargs="+",
        metavar="INDEX",
        help="tasks: which of the numbers of a task, one or two, counted from 0; needed when there are more than two",
    )
    parser.add_argument("--names", nargs="+", metavar="NAME", help="tasks: of these numbers")
    parser.add_argument(
        "--n-steps", type=int, help="inner steps: that a model does (3), or whose return is drawn (the last of the report)"
    )
    parser.add_argument(
        "--env",
        metavar="ID",
        help="models: the task family; that of the run for folders of sb3_sgmrl.train; tasks: the family, which describes by "
        "numbers what is none",
    )
    parser.add_argument("--n-tasks", type=int, help="models: tasks to evaluate on (40), or to show trajectories of (4)")
    parser.add_argument("--n-episodes", type=int, help="models: episodes per task and inner step; as in training unless given")
    parser.add_argument("--seed", type=int, default=0, help="models: seed of tasks and episodes (0)")
    parser.add_argument("--device", default="auto", help="models: PyTorch device (auto)")
    parser.add_argument(
        "--trusted", action="store_true", help="models: read also those of before 0.1, pickles, which run code"
    )
    parser.add_argument("--verbose", type=int, default=1, help="2 also shows tracebacks of errors (1)")
    return parser


def _plot(options: argparse.Namespace) -> None:
    try:
        output = options.output or f"{options.kind}.png"
        check_output(output, PICTURES, options.overwrite)
        _check_options(options)
        figure = _KINDS[options.kind]([_source(text) for text in options.sources], options)
    except ModuleNotFoundError as error:
        if error.name not in ("matplotlib", "rliable"):
            raise
        raise ImportError(f"{error}; install the package with its extra [plots], which brings what pictures need.") from error
    write_figure(figure, output, options.dpi)


def _check_options(options: argparse.Namespace) -> None:
    """Of what else would be found after models have played only."""
    from sb3_sgmrl.plots.bootstrap import check_level

    check_level(options.level)
    if not 1 <= options.dpi <= _MOST_DPI:
        raise ValueError(f"--dpi must lie between 1 and {_MOST_DPI}, got {options.dpi}.")
    chosen = options.parameters
    if chosen is not None and (len(chosen) > 2 or min(chosen) < 0):
        raise ValueError(f"--parameters must be one or two numbers that are not negative, got {' '.join(map(str, chosen))}.")
    if options.names is not None and len(options.names) not in ((1, 2) if chosen is None else (len(chosen),)):
        wanted = "one or two names" if chosen is None else f"a name for each of {len(chosen)} --parameters"
        raise ValueError(f"--names must be {wanted}, got {' '.join(map(repr, options.names))}.")


def _source(text: str) -> Source:
    path = pathlib.Path(text)
    if not path.exists():  # a path may hold = as well
        name, _, rest = text.partition("=")
        if not rest:
            raise ValueError(f"{text} is neither a file nor a folder.")
        path = pathlib.Path(rest)
        if not path.exists():
            raise ValueError(f"neither {rest} nor {text} is a file or a folder.")
        return Source(name, path)
    folder = _normalized(path if path.is_dir() else path.absolute().parent)
    if _zoo_settings(folder):
        return Source(folder.parent.name, path)
    is_model_of_run = path.suffix == ".zip" and any((folder / log).exists() for log in _LOGS)
    is_of_run = path.is_dir() or path.name in _NAMES_IN_RUNS or is_model_of_run
    return Source(_LAST_NUMBER.sub("", folder.name if is_of_run else path.stem), path)


def _zoo_settings(folder: pathlib.Path) -> pathlib.Path | None:
    """The folder of settings in one that RL Zoo made for a run; its name is that of the environment."""
    return next((file.parent for file in folder.glob("*/args.yml")), None)


# ---------------------------------------------------------------- what there is in a source


def _grouped(sources: Sequence[Source], values: Iterable[Any]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for source, value in zip(sources, values, strict=True):
        groups.setdefault(source.name, []).append(value)
    return groups


def _labels(sources: Sequence[Source]) -> list[str]:
    """Names for a row each, with as much of the path as tells a source from others of its name."""
    paths = _grouped(sources, (source.path for source in sources))
    additions = {name: iter(_distinguishing(of_name)) for name, of_name in paths.items()}
    labels = [
        f"{source.name}: {addition}" if (addition := next(additions[source.name])) else source.name for source in sources
    ]
    for i, label in enumerate(labels):
        if label in labels[:i]:
            raise ValueError(f"two sources would be shown as {label!r}: NAME=SOURCE gives one of them another name.")
    return labels


def _distinguishing(paths: Sequence[pathlib.Path]) -> list[str]:
    """The shortest part of each path that none of the others has; nothing of a single one."""
    if len(paths) == 1:
        return [""]
    parts = [_normalized(path).parts for path in paths]
    while len({part[-1:] for part in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [part[:-1] for part in parts]
    for n in range(1, max(map(len, parts))):
        ends = ["/".join(part[-n:]) for part in parts]
        if len(set(ends)) == len(ends):
            return ends
    return [str(path) for path in paths]


def _normalized(path: pathlib.Path) -> pathlib.Path:
    """With a name, which . and .. have not; links stay."""
    return pathlib.Path(os.path.abspath(path))


def _file(source: Source, name: str, what: str) -> pathlib.Path:
    path = source.path / name if source.path.is_dir() else source.path
    if not path.exists():
        raise ValueError(f"{source.path} has no {name}, which would be {what}.")
    return path


def _reports(sources: Sequence[Source], options: argparse.Namespace) -> list[AdaptationReport]:
    """One of each source; models play after everything else was read."""
    from sb3_sgmrl.common.evaluation import AdaptationReport

    what = "a report of adaptation on unseen tasks"
    files = {source: _file(source, "adaptation.csv", what) for source in sources if source.path.suffix != ".zip"}
    read = {source: AdaptationReport.from_csv(path) for source, path in files.items()}
    if options.n_steps is not None and options.kind != "adaptation":  # which shows them all
        for source, report in read.items():
            if options.n_steps >= report.returns.shape[1]:
                most = report.returns.shape[1] - 1
                raise ValueError(f"--n-steps must be at most {most}, which {files[source]} has, got {options.n_steps}.")
    return [read[source] if source in read else _played(source, options) for source in sources]


def _played(source: Source, options: argparse.Namespace) -> AdaptationReport:
    from sb3_sgmrl.common.evaluation import evaluate_adaptation

    n_steps = 3 if options.n_steps is None else options.n_steps
    n_tasks = 40 if options.n_tasks is None else options.n_tasks
    shown = sys.stderr.isatty()
    with _opened(source, options, n_tasks) as (model, env):
        return evaluate_adaptation(model, env, n_tasks, n_steps, options.n_episodes, seed=options.seed, progress_bar=shown)


@contextmanager
def _opened(source: Source, options: argparse.Namespace, n_tasks: int) -> Iterator[tuple[MetaOnPolicyAlgorithm, VecEnv | str]]:
    """A model and where it plays: workers as in the training of a run, else a new environment of the family."""
    from sb3_sgmrl.common.saving import saved_algorithm
    from sb3_sgmrl.util.validation import check_positive

    check_positive(n_episodes=1 if options.n_episodes is None else options.n_episodes)
    settings = _zoo_settings(source.path if source.path.is_dir() else source.path.absolute().parent)
    path = _file(source, f"{settings.name}.zip" if settings else "model.zip", "a model")
    algorithm = algorithm_of(saved_algorithm(path))
    if settings is not None:
        from sb3_sgmrl.cli.trained_model import load_model  # needs RL Zoo, as the run did
        from sb3_sgmrl.cli.zoo.run_folder import saved_arguments

        # what stands before a colon is imported only where the user wrote it
        env_id = import_env(options.env or str(saved_arguments(settings).get("env")).split(":")[-1], [])
        arguments = {name: getattr(options, name) for name in ("n_episodes", "device", "trusted")}
        with load_model(path, algorithm.name, env_id, n_tasks=n_tasks, **arguments) as trained:
            yield trained.model, trained.env
    elif options.env is None:
        raise ValueError(f"--env is missing: the task family to play {path} in.")
    else:
        yield algorithm.cls.load(path, device=options.device, trusted=options.trusted), import_env(options.env, [])


# ---------------------------------------------------------------- pictures


def _plot_adaptation(sources: Sequence[Source], options: argparse.Namespace) -> Figure:
    from sb3_sgmrl.plots import plot_adaptation

    return plot_adaptation(_grouped(sources, _reports(sources, options)), options.level)


def _plot_curves(sources: Sequence[Source], options: argparse.Namespace) -> Figure:
    from sb3_sgmrl.plots import LearningCurve, plot_learning_curves

    read = options.read
    if read is None:
        every = all((s.path / "evaluations.npz").exists() or s.path.suffix == ".npz" for s in sources)
        read = "evaluations" if every else "progress"

    def curve(source: Source) -> LearningCurve:
        if read == "evaluations":
            return LearningCurve.from_evaluations(_file(source, "evaluations.npz", "evaluations while training"))
        return LearningCurve.from_progress(_file(source, "progress.csv", "the log of SB3's CSV logger"))

    print(f"Curves are those of {'evaluations.npz' if read == 'evaluations' else 'progress.csv'}")
    return plot_learning_curves(_grouped(sources, map(curve, sources)), options.level, options.smooth)


def _plot_profile(sources: Sequence[Source], options: argparse.Namespace) -> Figure:
    from sb3_sgmrl.plots import plot_performance_profiles

    return plot_performance_profiles(_grouped(sources, _reports(sources, options)), options.n_steps, options.level)


def _plot_improvement(sources: Sequence[Source], options: argparse.Namespace) -> Figure:
    from sb3_sgmrl.plots import plot_probability_of_improvement

    if len({source.name for source in sources}) < 2:
        raise ValueError(f"improvement needs at least two algorithms, got {sources[0].name!r}: NAME=SOURCE names another.")
    return plot_probability_of_improvement(_grouped(sources, _reports(sources, options)), options.n_steps, options.level)


def _plot_tasks(sources: Sequence[Source], options: argparse.Namespace) -> Figure:
    from sb3_sgmrl.plots import plot_task_returns

    labels = _labels(sources)
    reports = dict(zip(labels, _reports(sources, options), strict=True))
    numbers = {label: _numbers_of_tasks(label, report.tasks, options.env) for label, report in reports.items()}
    counts = sorted({of_tasks.shape[1] for of_tasks in numbers.values()})
    if options.parameters is not None:
        if any(not 0 <= index < counts[0] for index in options.parameters):
            given = " ".join(map(str, options.parameters))
            raise ValueError(f"--parameters must lie between 0 and {counts[0] - 1}, got {given}.")
        numbers = {label: of_tasks[:, options.parameters] for label, of_tasks in numbers.items()}
    elif counts not in ([1], [2]):
        there_are = " and ".join(map(str, counts))
        raise ValueError(f"--parameters must choose one or two of the numbers of a task, of which there are {there_are}.")
    return plot_task_returns(reports, numbers, options.names, options.n_steps)


def _numbers_of_tasks(label: str, tasks: Sequence[Any], env: str | None) -> np.ndarray:
    """Shape (n_tasks, n_numbers)."""
    import numpy as np

    from sb3_sgmrl.plots import task_parameters

    if env is not None:
        return task_parameters(env, tasks)
    try:
        numbers = [np.ravel(np.asarray(task, dtype=float)) for task in tasks]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the tasks of {label!r} are not numbers, so --env must name their family, which describes tasks by numbers."
        ) from error
    counts = sorted(set(map(len, numbers)))
    if len(counts) > 1:
        raise ValueError(f"the tasks of {label!r} must have equally many numbers each, got {counts[0]} to {counts[-1]}.")
    return np.stack(numbers)


def _plot_gradient(sources: Sequence[Source], options: argparse.Namespace) -> Figure:
    from sb3_sgmrl.plots import plot_gradient_terms, read_progress

    runs = [read_progress(_file(source, "progress.csv", "the log of SB3's CSV logger")) for source in sources]
    return plot_gradient_terms(_grouped(sources, runs), options.level, options.smooth)


def _plot_trajectories(sources: Sequence[Source], options: argparse.Namespace) -> Figure:
    from sb3_sgmrl.common.adaptation import env_to_adapt_in
    from sb3_sgmrl.common.evaluation import draw_test_tasks
    from sb3_sgmrl.plots import navigation_trajectories, plot_trajectories
    from sb3_sgmrl.util.validation import check_positive, check_seed

    n_tasks = 4 if options.n_tasks is None else options.n_tasks
    check_positive(n_tasks=n_tasks)
    check_seed(options.seed)

    def trajectories(source: Source) -> Any:
        with _opened(source, options, n_tasks) as (model, env), env_to_adapt_in(model, env) as workers:
            goals = draw_test_tasks(workers, n_tasks, options.seed)
            n_steps = model.n_inner_steps if options.n_steps is None else options.n_steps
            return navigation_trajectories(model, workers, goals, n_steps, options.n_episodes, options.seed)

    labels = _labels(sources)
    return plot_trajectories(dict(zip(labels, map(trajectories, sources), strict=True)))


_KINDS: dict[str, Callable[[Sequence[Source], argparse.Namespace], Figure]] = {
    "adaptation": _plot_adaptation,
    "curves": _plot_curves,
    "profile": _plot_profile,
    "improvement": _plot_improvement,
    "tasks": _plot_tasks,
    "gradient": _plot_gradient,
    "trajectories": _plot_trajectories,
}

"""``python -m sb3_sgmrl.plot``: plot runs and models."""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
Plot runs or models into a file.

kinds of plots, with their sources in parentheses:
  adaptation    return against the number of inner steps (reports)
  curves        returns before and after adaptation during training (evaluations.npz or progress.csv)
  profile       fraction of runs and tasks above a return, against that return (reports)
  improvement   probability that one algorithm improves on another (reports)
  tasks         return of each task before and after adaptation, against one or two numbers of the task (reports)
  gradient      norm, cosine, weight and variance of the terms of the meta-gradient during training (progress.csv)
  trajectories  trajectories in 2-D navigation (models)

A source is a run's folder, a report or a model. A run's folder comes from sb3_sgmrl.train, or has files with these names. A
report is adaptation.csv or another file of AdaptationReport.to_csv. A model is a .zip file; for a plot of reports it is
evaluated. sb3_sgmrl.train writes progress.csv, as does SB3's logger after model.set_logger(configure(folder, ["csv"])).

Sources with the same name are runs of one algorithm, for example with several seeds. The name is the algorithm for folders of
sb3_sgmrl.train. Other run folders, and files in them, have the folder's name without a number at its end. Other reports and
models have the name of the file. Pass NAME=SOURCE for another name.
"""

_EXAMPLES = """\
examples:
  python -m sb3_sgmrl.plot curves logs/sgmrl/Navigation2D-v0_* logs/maml/Navigation2D-v0_* -o curves.png
  python -m sb3_sgmrl.plot adaptation "SG-MRL=logs/sgmrl/Navigation2D-v0_1" "MAML=logs/maml/Navigation2D-v0_1"
  python -m sb3_sgmrl.plot trajectories model.zip --env Navigation2D-v0 -o trajectories.pdf
"""
_ROWS = ("tasks", "trajectories")  # kinds with a row for each source; other kinds pool the runs of a name
_MOST_DPI = 2400  # the resolution of fine printers
_LAST_NUMBER = re.compile(r"[-_ ]\d+$")
_LOGS = ("evaluations.npz", "progress.csv")
_NAMES_IN_RUNS = (*_LOGS, "adaptation.csv", "model.zip", "best_model.zip")  # names that do not identify the algorithm


@dataclass(frozen=True)
class Source:
    """
    A run's folder or a file to plot.

    :param name: The name of the algorithm
    :param path: The path of the folder or file
    """

    name: str
    path: pathlib.Path


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    :param argv: The arguments of the command; the arguments of the process when None
    :return: The exit code: 0, 2 after an error in the arguments or the files, 130 after Ctrl-C
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
    parser.add_argument("kind", choices=list(_KINDS), metavar="KIND", help="kind of plot, see above")
    parser.add_argument("sources", nargs="+", metavar="[NAME=]SOURCE", help="run folders, reports or models, see above")
    parser.add_argument("-o", "--output", metavar="FILE", help=f"plot to write, {' or '.join(PICTURES)} (KIND.png)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument("--dpi", type=int, default=150, help="dots per inch of a PNG (150)")
    parser.add_argument("--level", type=float, default=0.95, help="coverage of confidence bands (0.95)")
    parser.add_argument(
        "--read",
        choices=["evaluations", "progress"],
        help="curves: read evaluations.npz (unseen tasks) or progress.csv (training tasks); by default evaluations.npz if "
        "every run has this file",
    )
    parser.add_argument("--reference", metavar="NAME", help="improvement: compare the others with this algorithm only")
    parser.add_argument("--smooth", type=int, default=1, metavar="N", help="curves, gradient: average over N points (1)")
    numbers = "tasks: one or two numbers of a task, by name or by index from 0; required if tasks have more than two numbers"
    parser.add_argument("--parameters", nargs="+", metavar="NAME", help=numbers)
    parser.add_argument("--names", nargs="+", metavar="NAME", help="tasks: labels of these numbers")
    parser.add_argument("--n-steps", type=int, help="number of inner steps: of a model (3), or of a report (the largest)")
    parser.add_argument(
        "--env",
        metavar="ID",
        help="models: the task family (from the run, for folders of sb3_sgmrl.train); tasks: the task family, which describes "
        "tasks by numbers",
    )
    parser.add_argument("--n-tasks", type=int, help="models: number of tasks to evaluate on (40), or to show paths of (4)")
    parser.add_argument("--n-episodes", type=int, help="models: episodes per task and inner step (as in training)")
    parser.add_argument("--seed", type=int, default=0, help="models: seed of tasks and episodes (0)")
    parser.add_argument("--device", default="auto", help="models: PyTorch device (auto)")
    parser.add_argument("--trusted", action="store_true", help="models: also read pickles of before 0.1, which run code")
    parser.add_argument("--verbose", type=int, default=1, help="2 also shows the tracebacks of errors (1)")
    return parser


def _plot(options: argparse.Namespace) -> None:
    try:
        output = options.output or f"{options.kind}.png"
        check_output(output, PICTURES, options.overwrite)
        _check_options(options)
        sources = [_source(text) for text in options.sources]
        _check_names(sources, options)
        figure = _KINDS[options.kind](sources, options)
    except ModuleNotFoundError as error:
        if error.name not in ("matplotlib", "rliable"):
            raise
        raise ImportError(f"{error}; install the package with its extra [plots], which plots need.") from error
    write_figure(figure, output, options.dpi)


def _check_options(options: argparse.Namespace) -> None:
    """Check the options that would otherwise fail only after models have played."""
    from sb3_sgmrl.plots.bootstrap import check_level

    check_level(options.level)
    if not 1 <= options.dpi <= _MOST_DPI:
        raise ValueError(f"`--dpi` must lie between 1 and {_MOST_DPI}, got {options.dpi}.")
    chosen = options.parameters
    if chosen is not None and (len(chosen) > 2 or any(re.fullmatch(r"-\d+", text) for text in chosen)):
        raise ValueError(f"`--parameters` must be one or two names or non-negative indices, got {' '.join(chosen)}.")
    indices = chosen is not None and all(text.isdecimal() for text in chosen)  # a name may select two numbers
    if options.names is not None and len(options.names) not in ((len(chosen),) if indices else (1, 2)):
        wanted = f"a name for each of {len(chosen)} `--parameters`" if indices else "one or two names"
        raise ValueError(f"`--names` must be {wanted}, got {' '.join(map(repr, options.names))}.")


def _check_names(sources: Sequence[Source], options: argparse.Namespace) -> None:
    from sb3_sgmrl.plots.runs import check_algorithms

    names = {source.name for source in sources}
    if options.reference not in (None, *names):
        raise ValueError(f"`--reference` must be one of {', '.join(sorted(names))}, got {options.reference!r}.")
    if options.kind not in _ROWS:
        check_algorithms(_grouped(sources, (source.path for source in sources)))


def _source(text: str) -> Source:
    path = pathlib.Path(text)
    if not path.exists():  # an existing path may contain =
        name, _, rest = text.partition("=")
        if not rest:
            raise ValueError(f"`SOURCE` must be an existing file or folder, got {text}.")
        path = pathlib.Path(rest)
        if not path.exists():
            raise ValueError(f"`SOURCE` must be an existing file or folder, got {text} (neither {rest} nor {text} exists).")
        return Source(name, path)
    folder = _normalized(path if path.is_dir() else path.absolute().parent)
    if _zoo_settings(folder):
        return Source(folder.parent.name, path)
    is_model_of_run = path.suffix == ".zip" and any((folder / log).exists() for log in _LOGS)
    is_of_run = path.is_dir() or path.name in _NAMES_IN_RUNS or is_model_of_run
    return Source(_LAST_NUMBER.sub("", folder.name if is_of_run else path.stem), path)


def _zoo_settings(folder: pathlib.Path) -> pathlib.Path | None:
    """Return the settings folder of a run of RL Zoo; the folder has the name of the environment."""
    return next((file.parent for file in folder.glob("*/args.yml")), None)


def _grouped(sources: Sequence[Source], values: Iterable[Any]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for source, value in zip(sources, values, strict=True):
        groups.setdefault(source.name, []).append(value)
    return groups


def _labels(sources: Sequence[Source]) -> list[str]:
    """Label each row with its name and enough of the path to distinguish sources of the same name."""
    paths = _grouped(sources, (source.path for source in sources))
    additions = {name: iter(_distinguishing(of_name)) for name, of_name in paths.items()}
    labels = [
        f"{source.name}: {addition}" if (addition := next(additions[source.name])) else source.name for source in sources
    ]
    for i, label in enumerate(labels):
        if label in labels[:i]:
            raise ValueError(f"`SOURCE` labels must differ, got two sources {label!r}: rename one by NAME=SOURCE.")
    return labels


def _distinguishing(paths: Sequence[pathlib.Path]) -> list[str]:
    """Return the shortest part of each path that differs from all others; an empty part for a single path."""
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
    """Resolve . and .., which have no name, and keep links."""
    return pathlib.Path(os.path.abspath(path))


def _file(source: Source, name: str, what: str) -> pathlib.Path:
    path = source.path / name if source.path.is_dir() else source.path
    if not path.exists():
        raise ValueError(f"`SOURCE` must contain {name}, {what}, got {source.path}.")
    return path


def _reports(sources: Sequence[Source], options: argparse.Namespace) -> list[AdaptationReport]:
    """Return a report for each source; models play after all files are read."""
    from sb3_sgmrl.common.evaluation import AdaptationReport

    what = "a report of adaptation on unseen tasks"
    files = {source: _file(source, "adaptation.csv", what) for source in sources if source.path.suffix != ".zip"}
    read = {source: AdaptationReport.from_csv(path) for source, path in files.items()}
    if options.n_steps is not None and options.kind != "adaptation":  # which plots all inner steps
        for source, report in read.items():
            if options.n_steps >= report.returns.shape[1]:
                most = report.returns.shape[1] - 1
                raise ValueError(f"`--n-steps` must be at most {most}, as in {files[source]}, got {options.n_steps}.")
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
    """Load a model and make its environment, as in the training of a run, otherwise a new environment."""
    from sb3_sgmrl.common.saving import saved_algorithm
    from sb3_sgmrl.util.validation import check_positive

    check_positive(**{"--n-episodes": 1 if options.n_episodes is None else options.n_episodes})
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
        raise ValueError(f"`--env` is missing: pass the task family to play {path} in.")
    else:
        yield algorithm.cls.load(path, device=options.device, trusted=options.trusted), import_env(options.env, [])


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
            return LearningCurve.from_evaluations(_file(source, "evaluations.npz", "evaluations during training"))
        return LearningCurve.from_progress(_file(source, "progress.csv", "the log of SB3's CSV logger"))

    print(f"Reading curves from {'evaluations.npz' if read == 'evaluations' else 'progress.csv'}")
    return plot_learning_curves(_grouped(sources, map(curve, sources)), options.level, options.smooth)


def _plot_profile(sources: Sequence[Source], options: argparse.Namespace) -> Figure:
    from sb3_sgmrl.plots import plot_performance_profiles

    return plot_performance_profiles(_grouped(sources, _reports(sources, options)), options.n_steps, options.level)


def _plot_improvement(sources: Sequence[Source], options: argparse.Namespace) -> Figure:
    from sb3_sgmrl.plots import plot_probability_of_improvement

    if len({source.name for source in sources}) < 2:
        raise ValueError(f"`improvement` needs at least two algorithms, got {sources[0].name!r}: name one by NAME=SOURCE.")
    reports = _grouped(sources, _reports(sources, options))
    return plot_probability_of_improvement(reports, options.n_steps, options.level, options.reference)


def _plot_tasks(sources: Sequence[Source], options: argparse.Namespace) -> Figure:
    import numpy as np

    from sb3_sgmrl.plots import plot_task_returns

    reports = dict(zip(_labels(sources), _reports(sources, options), strict=True))
    numbers = {label: _numbers_of_tasks(label, report.tasks, options.env) for label, report in reports.items()}
    chosen = [_chosen(label, of_report, options.parameters) for label, of_report in numbers.items()]
    if different := [names for names in chosen if names != chosen[0]]:
        raise ValueError(f"`--parameters` must select the same of every source, got {chosen[0]} and {different[0]}.")
    places = {label: np.stack([of_report[name] for name in chosen[0]], axis=1) for label, of_report in numbers.items()}
    return plot_task_returns(reports, places, options.names or chosen[0], options.n_steps)


def _numbers_of_tasks(label: str, tasks: Sequence[Any], env: str | None) -> dict[str, np.ndarray]:
    """Describe tasks by numbers with names."""
    from sb3_sgmrl.plots import named_parameters

    try:
        return named_parameters(tasks, env)
    except TypeError as error:
        raise ValueError(f"`--env` is missing: the tasks of {label!r} are not numbers, so pass their family.") from error


def _chosen(label: str, numbers: Mapping[str, np.ndarray], given: Sequence[str] | None) -> list[str]:
    """Return the names of one or two numbers; ``goal`` selects both of ``goal.0`` and ``goal.1``."""
    names, chosen = list(numbers), []
    for text in names if given is None else given:
        of_part = [name for name in names if name == text or name.startswith((f"{text}.", f"{text}:", f"{text}["))]
        chosen += names[int(text) :][:1] or [text] if text.isdecimal() else of_part or [text]
    got = "none" if given is None else " ".join(given)
    if not 1 <= len(chosen) <= 2 or not set(chosen) <= set(names):
        shown = textwrap.shorten(", ".join(names), 300, placeholder=" …")
        raise ValueError(f"`--parameters` must select one or two numbers of a task of {label!r} from {shown}, got {got}.")
    if any((numbers[name] != numbers[name]).any() for name in chosen):
        raise ValueError(f"`--parameters` must select numbers that every task of {label!r} has, got {got}.")
    return chosen


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
    check_positive(**{"--n-tasks": n_tasks})
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

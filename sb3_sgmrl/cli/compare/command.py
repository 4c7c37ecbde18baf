"""The command ``compare``: options, checks, runs side by side, and what it writes."""

from __future__ import annotations

import argparse
import math
import pathlib
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import replace

from sb3_sgmrl.cli.command_line import import_env, name_and_value, run_command
from sb3_sgmrl.cli.compare.kinds import KINDS, family_arguments
from sb3_sgmrl.cli.compare.methods import Method, check_shared, name_and_setting, parse_method, sweep
from sb3_sgmrl.cli.compare.pictures import draw
from sb3_sgmrl.cli.compare.protocol import Protocol
from sb3_sgmrl.cli.compare.ranks import check_protocol, check_trials
from sb3_sgmrl.cli.compare.results import Results, Terms, read_results, write_results
from sb3_sgmrl.cli.compare.runs import Run
from sb3_sgmrl.cli.compare.tables import csv_table, latex_table, text_table
from sb3_sgmrl.cli.compare.tuning import trials_of, tuned
from sb3_sgmrl.cli.compare.windows import check_window, target_lines, window_lines
from sb3_sgmrl.common.evaluation import AdaptationReport, tasks_of_a_file
from sb3_sgmrl.distributed import Ranks, start
from sb3_sgmrl.distributed.programs import folder_of_rank
from sb3_sgmrl.util.files import replace_when_complete
from sb3_sgmrl.util.processes import process_pool
from sb3_sgmrl.util.threads import n_processors
from sb3_sgmrl.util.validation import check_positive

# the reports by method and seed
Reports = dict[str, dict[int, AdaptationReport]]
# options that change no number
_OF_A_CALL = ("folder", "results", "in_training", "target", "parallel", "report_only", "no_plots", "verbose")
_DESCRIPTION = """\
Train methods with the same seeds, environment steps and test tasks, and compare their returns after adaptation.

A run is a folder, FOLDER/METHOD-SEED, with progress.csv, a checkpoint and its reports. Repeat the command after an
interruption: it resumes unfinished runs from their checkpoints, and repeats no finished run. To add seeds, methods or steps,
repeat it with more of them. The folder must hold no runs with other settings. Several commands may work on one folder.
"""

_EPILOG = f"""\
methods:
  ALGO                                an algorithm with the package's hyperparameters of the task family
  NAME=ALGO                           the same under another name
  NAME=ALGO:SETTING=VALUE,...         with other settings; learning_rate=lin_0.001 decays to 0

  ALGO is one of {', '.join(KINDS)}

examples:
  python -m sb3_sgmrl.compare --method sgmrl maml --seeds 0 1 2 --timesteps 2e6
  python -m sb3_sgmrl.compare --method sgmrl once=sgmrl:n_epochs=1 --timesteps 8e6 --parallel 2
  python -m sb3_sgmrl.compare --method sgmrl maml --sweep inner_lr=0.05,0.1,0.2,0.5 --folder logs/inner_lr
"""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    :param argv: The arguments of the command; the arguments of the process when None
    :return: The exit code: 0, 2 after an error in the arguments or files, 130 after Ctrl-C
    """
    options = parser().parse_args(argv)
    return run_command(lambda: _on_ranks(options), show_traceback=options.verbose > 1)


def parser() -> argparse.ArgumentParser:
    """
    Make the parser.

    :return: The parser
    """
    made = argparse.ArgumentParser(
        "python -m sb3_sgmrl.compare",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        *("--method", "-m"), nargs="+", action="extend", metavar="[NAME=]ALGO[:SETTINGS]", help="methods (sgmrl maml)"
    )
    made.add_argument("--env", default="Navigation2D-v0", help="task family; MODULE:ID imports the module that registers it")
    made.add_argument(
        "--env-kwargs", nargs="+", default=[], type=name_and_value, metavar="NAME:VALUE", help="arguments of the family"
    )
    made.add_argument("--gym-packages", nargs="+", default=[], help="further modules to import")
    made.add_argument("--horizon", type=int, help="steps of an episode (as registered)")
    made.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="seeds, the same for every method (0 1)")
    made.add_argument(
        "--timesteps",
        nargs="+",
        type=_steps,
        default=[2_000_000],
        help="environment steps of training, of all phases together; every run is measured at each number (2e6)",
    )
    made.add_argument("--n-tasks", type=int, default=200, help="number of unseen test tasks (200)")
    made.add_argument("--n-steps", type=int, default=3, help="number of inner steps to measure (3)")
    made.add_argument("--n-episodes", type=int, help="episodes per task and inner step of every measurement (as in training)")
    made.add_argument("--test-seed", type=int, default=0, help="seed of the test tasks (0)")
    made.add_argument(
        "--eval-every",
        type=_steps,
        metavar="STEPS",
        help="environment steps between two points of the learning curves on unseen tasks, 0 for none (a tenth of the steps)",
    )
    made.add_argument("--eval-tasks", type=int, default=40, help="number of tasks of such a point (40)")
    made.add_argument(
        "--eval-steps", type=int, help="inner steps that curves and differences are measured after (as in training)"
    )
    made.add_argument("--best", action="store_true", help="also measure the best policy of the learning curve")
    made.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="a setting of every method that has it"
    )
    made.add_argument(
        "--sweep",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE,VALUE",
        help="replace every method by one for each value of a setting that it has",
    )
    made.add_argument(
        "--tune-trials",
        type=int,
        default=0,
        metavar="N",
        help="first search the settings of every method: N trials each, of a quarter of the steps and on other tasks (0)",
    )
    made.add_argument(
        "--protocol", metavar="FILE", help="protocol.yml of a comparison to reproduce, in place of these options"
    )
    made.add_argument(
        "--results", nargs="+", default=[], metavar="FILE", help="results of other programs for the table, as CSV"
    )
    made.add_argument(
        "--in-training",
        nargs="+",
        default=[],
        metavar="FIRST-LAST",
        help="also compare returns in these iterations of training",
    )
    made.add_argument(
        "--target", type=_return, metavar="RETURN", help="also print the environment steps until this return in training"
    )
    made.add_argument("--no-plots", action="store_true", help="write tables alone")
    made.add_argument("--parallel", type=int, default=1, help="number of runs side by side; they share the processors (1)")
    made.add_argument("--report-only", action="store_true", help="train nothing, and report the finished runs")
    made.add_argument("--folder", default="logs/compare", help="folder of the comparison (logs/compare)")
    made.add_argument("--verbose", type=int, default=1, help="2 also shows the tracebacks of errors (1)")
    return made


def _steps(text: str) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"must be a number of steps such as 2e6, got {text!r}.") from None


def _return(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a return such as -15, got {text!r}.")
    return value


def _on_ranks(options: argparse.Namespace) -> None:
    ranks = start()
    with ranks.together(), folder_of_rank(ranks, options.folder) as folder:
        _compare(options, folder, ranks)


def _compare(options: argparse.Namespace, folder: pathlib.Path, ranks: Ranks) -> None:
    check_positive(**{"--parallel": options.parallel})
    if ranks.size > 1 and options.parallel > 1:
        raise ValueError(
            f"`--parallel` must be 1 under torchrun, whose processes train each run together, got {options.parallel}."
        )
    windows = [check_window(text) for text in options.in_training]
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`--folder` must be a folder, got the file {folder}.")
    protocol = _protocol(options) if options.protocol is None else _read_protocol(options)
    protocol = protocol.completed()
    check_protocol(protocol, {"`--tune-trials`": options.tune_trials, "`--report-only`": options.report_only}, ranks)
    if options.tune_trials:
        protocol = _tuned(protocol, options, folder, ranks)
    runs = [
        Run(protocol, method, seed, folder / f"{method.name}-{seed}") for seed in protocol.seeds for method in protocol.methods
    ]
    for run in runs:
        run.check()
    others = _read_others(protocol, [pathlib.Path(path) for path in options.results])
    if not options.report_only:
        _check_settings(protocol, ranks)
        folder.mkdir(parents=True, exist_ok=True)
        protocol.write(folder / "protocol.yml")
        _train(runs, options.parallel, ranks)
    if ranks.rank > 0:
        return
    report(protocol, runs, folder, others, not options.no_plots)
    for window in windows:
        print("\n" + "\n".join(window_lines(runs, window)), flush=True)
    if options.target is not None:
        print("\n" + "\n".join(target_lines(runs, options.target)), flush=True)


def _tuned(protocol: Protocol, options: argparse.Namespace, folder: pathlib.Path, ranks: Ranks) -> Protocol:
    check_positive(**{"--tune-trials": options.tune_trials})
    _check_settings(protocol, ranks)
    trials = trials_of(protocol, options.tune_trials, folder)
    runs = [run for of_method in trials.values() for run in of_method]
    check_trials(runs, ranks)
    for run in runs:
        run.check()
    if not options.report_only:
        _train(runs, options.parallel, ranks)
    return ranks.of_first(lambda: tuned(protocol, trials, print))


def _protocol(options: argparse.Namespace) -> Protocol:
    env_id = import_env(options.env, options.gym_packages)
    shared = dict(name_and_setting(text, "--set") for text in options.set)
    methods = [parse_method(text, env_id, shared) for text in options.method or ["sgmrl", "maml"]]
    check_shared(methods, shared, "--set")
    methods = sweep(methods, options.sweep)
    timesteps = tuple(sorted(set(options.timesteps)))
    if any(method.decays for method in methods) and len(timesteps) > 1:
        raise ValueError(
            f"`--timesteps` must be one number with a setting that decays to 0 over these steps, got {list(timesteps)}."
        )
    eval_steps = _n_inner_steps(methods) if options.eval_steps is None else options.eval_steps
    return Protocol(
        env=env_id,
        methods=tuple(methods),
        seeds=tuple(options.seeds),
        timesteps=timesteps,
        packages=(*options.gym_packages, *options.env.split(":")[:-1]),
        env_kwargs=family_arguments(env_id) | dict(options.env_kwargs),
        horizon=options.horizon,
        n_tasks=options.n_tasks,
        n_steps=options.n_steps,
        n_episodes=_n_episodes(methods) if options.n_episodes is None else options.n_episodes,
        test_seed=options.test_seed,
        eval_every=max(1, timesteps[-1] // 10) if options.eval_every is None else options.eval_every,
        eval_tasks=options.eval_tasks,
        eval_steps=min(eval_steps, options.n_steps) if options.eval_steps is None else eval_steps,
        best=options.best,
    )


def _read_others(protocol: Protocol, paths: Sequence[pathlib.Path]) -> Reports:
    """Read the results of other programs, whose methods must have names of their own."""
    others: Reports = {}
    taken = {method.name for method in protocol.methods}
    tasks = tasks_of_a_file(protocol.test_tasks()) if paths else []
    for path in paths:
        for method, of_method in read_results(path, terms_of(protocol), tasks).items():
            if method in taken:
                raise ValueError(
                    f"`--results` {path} must hold methods with other names than this comparison, got {method!r}."
                )
            taken.add(method)
            others[method] = of_method
    return others


def _read_protocol(options: argparse.Namespace) -> Protocol:
    defaults = vars(parser().parse_args([]))
    kept = ("protocol", *_OF_A_CALL)
    given = [name.replace("_", "-") for name, value in vars(options).items() if name not in kept and value != defaults[name]]
    if given:
        raise ValueError(f"`--protocol` holds everything that is compared, so it must be given without --{given[0]}.")
    return Protocol.read(pathlib.Path(options.protocol))


def _n_inner_steps(methods: Sequence[Method]) -> int:
    return next((method.settings["n_inner_steps"] for method in methods if "n_inner_steps" in method.settings), 1)


def _n_episodes(methods: Sequence[Method]) -> int:
    counts = sorted({method.settings["n_episodes"] for method in methods})
    if len(counts) > 1:
        raise ValueError(
            f"`--n-episodes` must be given for methods that adapt with different numbers of episodes, {counts} in training."
        )
    return counts[0]


def _check_settings(protocol: Protocol, ranks: Ranks) -> None:
    """Make each model once, because settings are checked there. Ranks compare theirs when training starts."""
    for method in protocol.methods:
        model = method.make(protocol.make_env(), min(protocol.seeds), 1)
        if ranks.size > 1:
            model.learn(0)


def _train(runs: Sequence[Run], parallel: int, ranks: Ranks) -> None:
    left = [runs[i] for i in ranks.of_first(lambda: [i for i, run in enumerate(runs) if not run.is_finished])]
    if len(left) < len(runs):
        print(f"{len(runs) - len(left)} of {len(runs)} runs are finished.", flush=True)
    threads = max(1, n_processors() // parallel)
    try:
        for run, is_finished in _done(left, parallel, threads, ranks):
            what = "is trained by another process" if not is_finished else f"failed: {run.failure}" if run.failure else "done"
            print(f"{run.name}: {what}", flush=True)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Repeat the command to resume; at most a minute of each run is lost.") from None


def _done(runs: Sequence[Run], parallel: int, n_threads: int, ranks: Ranks) -> Iterator[tuple[Run, bool]]:
    if parallel == 1:
        yield from ((run, run.train(n_threads, ranks)) for run in runs)
        return
    with process_pool(parallel) as pool:
        futures = {pool.submit(run.train, n_threads): run for run in runs}
        yield from ((futures[future], future.result()) for future in as_completed(futures))


def report(
    protocol: Protocol,
    runs: Sequence[Run],
    folder: pathlib.Path,
    others: Reports,
    plots: bool = True,
) -> None:
    """
    Print and write tables and pictures of all finished runs.

    :param protocol: The protocol
    :param runs: The runs
    :param folder: The folder of the comparison
    :param others: The results of other programs, by method and seed
    :param plots: Whether to draw pictures
    """
    terms = terms_of(protocol)
    for timesteps in protocol.timesteps:
        for best in (True, False) if protocol.best else (False,):
            own = results_of(protocol, runs, timesteps, best)
            results = replace(own, reports={**own.reports, **others})
            print(f"\n{text_table(results, protocol.eval_steps)}", flush=True)
            for suffix, text in ((".csv", csv_table(results)), (".tex", latex_table(results))):
                with replace_when_complete(folder / f"{'best_' * best}table_{timesteps}{suffix}") as file:
                    file.write(text.encode())
            write_results(folder / f"{'best_' * best}results_{timesteps}.csv", terms, timesteps, own)
    if plots:
        draw(protocol, runs, results, folder)


def terms_of(protocol: Protocol) -> Terms:
    """
    Return the terms that results of other programs must share.

    :param protocol: The complete protocol
    :return: The terms
    """
    assert protocol.horizon is not None
    return Terms(
        protocol.env, protocol.horizon, protocol.tasks_sha256, protocol.rewards, protocol.n_episodes, protocol.n_tasks
    )


def results_of(protocol: Protocol, runs: Sequence[Run], timesteps: int, best: bool = False) -> Results:
    """
    Collect the reports of finished runs.

    :param protocol: The protocol
    :param runs: The runs
    :param timesteps: The environment steps of training
    :param best: Whether to take the best policies of the learning curves
    :return: The results
    """
    reports: dict[str, dict[int, AdaptationReport]] = {method.name: {} for method in protocol.methods}
    failures = dict.fromkeys(reports, 0)
    for run in runs:
        if (found := run.report(timesteps, best)) is not None:
            reports[run.method.name][run.seed] = found
        elif run.failure is not None:
            failures[run.method.name] += 1
    policy = "best policy of the learning curve" if best else "last policy"
    return Results(
        reports,
        failures,
        f"{protocol.env} after {timesteps:,} steps, {policy}: mean return on {protocol.n_tasks} unseen tasks "
        f"(hash {protocol.tasks_sha256}), {protocol.n_episodes} episodes each",
    )

"""``python -m sb3_sgmrl.enjoy``: adapt a trained model to a task and show the policy before and after each inner step."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sb3_sgmrl.cli.command_line import PICTURES, check_output, run_command, write_figure
from sb3_sgmrl.cli.trained_model import Run, make_parser, open_run, play_episode
from sb3_sgmrl.cli.video import check_video, choose_gl_backend, has_display, record
from sb3_sgmrl.common.evaluation import after

if TYPE_CHECKING:
    from sb3_sgmrl.common.evaluation import AdaptationReport


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    :param argv: The arguments of the command; the arguments of the process when None
    :return: The exit code: 0, 2 after an error in the arguments or settings, 130 after Ctrl-C
    """
    options = _parser().parse_args(argv)
    return run_command(lambda: _enjoy(options), show_traceback=options.verbose > 1)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "python -m sb3_sgmrl.enjoy",
        "Adapt a model trained by sb3_sgmrl.train to a task. Prints the return before and after each inner step. With a "
        "display and an environment that has a window, also shows an episode of each policy.",
    )
    parser.add_argument("--picture", metavar="FILE", help="save a plot: trajectories in navigation, otherwise the returns")
    parser.add_argument("--video", metavar="FILE", help="save a video, .mp4 or .gif, as with sb3_sgmrl.record")
    parser.add_argument("--no-render", action="store_true", help="do not open a window")
    parser.add_argument("--deterministic", action="store_true", help="play the mean action instead of sampled actions")
    return parser


def _enjoy(options: argparse.Namespace) -> None:
    from sb3_sgmrl.common.evaluation import evaluate_adaptation

    if options.picture is not None:
        check_output(options.picture, PICTURES, options.overwrite, "--picture")
    if options.video is not None:
        check_video(options.video, options.overwrite, "--video")
        choose_gl_backend()
    with open_run(options) as run:
        arguments = {"n_steps": options.adapt_steps, "n_episodes": options.n_episodes, "seed": options.seed}
        report = evaluate_adaptation(run.model, run.env, tasks=[run.task], **arguments)
        print(f"Task {run.task}\n{'inner steps':>11} {'mean return':>12}   over {run.n_episodes} episodes")
        for k, mean_return in enumerate(report.mean_returns):
            print(f"{k:>11} {mean_return:>12.2f}")
        if options.picture is not None:
            _save_picture(options.picture, run, report, arguments)
        if options.video is not None:
            record(run, options.video, options.deterministic)
        if not options.no_render and has_display() and "human" in run.manager.render_modes():
            _show(run)


def _save_picture(path: str, run: Run, report: AdaptationReport, arguments: dict[str, Any]) -> None:
    from sb3_sgmrl import plots

    if plots.is_navigation(run.env):
        figure = plots.plot_trajectories(plots.navigation_trajectories(run.model, run.env, report.tasks, **arguments))
    else:
        figure = plots.plot_adaptation(report)
    write_figure(figure, path)


def _show(run: Run) -> None:
    """Show one episode after each number of inner steps in a window."""
    window = run.manager.create_viewer("human")
    for k, policy in run.policies():
        reward, _ = play_episode(window, policy, run.task, run.options.seed, run.options.deterministic)
        print(f"Shown {after(k)}: an episode with return {reward:.2f}")
    window.close()

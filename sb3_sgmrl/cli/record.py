"""``python -m sb3_sgmrl.record``: record a video of a trained model before and after each inner step."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sb3_sgmrl.cli.command_line import free_path, run_command
from sb3_sgmrl.cli.trained_model import make_parser, open_run
from sb3_sgmrl.cli.video import check_video, choose_gl_backend, record


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    :param argv: The arguments of the command; the arguments of the process when None
    :return: The exit code: 0, 2 after an error in the arguments or settings, 130 after Ctrl-C
    """
    options = _parser().parse_args(argv)
    return run_command(lambda: _record(options), show_traceback=options.verbose > 1)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "python -m sb3_sgmrl.record",
        "Adapt a model trained by sb3_sgmrl.train to a task and write a video of an episode before and after each inner step, "
        "side by side. Without a display, MuJoCo renders with EGL or OSMesa; the environment variable MUJOCO_GL selects one.",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="video file, .mp4 or .gif (video_<number>.mp4 beside the model)"
    )
    parser.add_argument("--deterministic", action="store_true", help="play the mean action instead of sampled actions")
    return parser


def _record(options: argparse.Namespace) -> None:
    if options.output is not None:
        check_video(options.output, options.overwrite)
    choose_gl_backend()
    with open_run(options) as run:
        path = options.output or free_path(str(run.path.parent), "video", ".mp4")
        check_video(path, options.overwrite)
        print(f"Task {run.task}")
        record(run, path, options.deterministic)

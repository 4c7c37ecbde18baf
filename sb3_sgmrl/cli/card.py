"""
``python -m sb3_sgmrl.card``: write a trained model as a folder for the Hugging Face Hub.

The folder has the layout of ``huggingface_sb3`` and RL Zoo. Its model card describes how the model was trained and measured.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.vec_env import unwrap_vec_normalize

from sb3_sgmrl.cli.command_line import check_new_folder, import_plots, run_command
from sb3_sgmrl.cli.model_card import Measurement, card_text, metadata
from sb3_sgmrl.cli.trained_model import TrainedModel, make_model_parser, open_model
from sb3_sgmrl.cli.zoo.run_folder import saved_arguments
from sb3_sgmrl.common.evaluation import AdaptationReport, evaluate_adaptation
from sb3_sgmrl.data.streams import REPORT_SEED
from sb3_sgmrl.util.validation import check_positive

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# files that callbacks, commands and loggers write beside a model
_LOGS = ("evaluations*.npz", "progress*.csv", "adaptation*.csv", "*monitor.csv")


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    :param argv: The arguments of the command; the arguments of the process when None
    :return: The exit code: 0, 2 after an error in the arguments, 130 after Ctrl-C
    """
    options = _parser().parse_args(argv)
    return run_command(lambda: _make(options), show_traceback=options.verbose > 1)


def _parser() -> argparse.ArgumentParser:
    parser = make_model_parser(
        "python -m sb3_sgmrl.card",
        "Measure a trained model on unseen tasks and write a folder with the model, a model card and plots. Upload this "
        "folder to the Hugging Face Hub; the command itself uploads nothing.",
    )
    parser.set_defaults(seed=REPORT_SEED)
    parser.add_argument("--n-tasks", type=int, default=40, help="number of tasks to measure on (40)")
    parser.add_argument("--n-steps", type=int, help="number of inner steps to measure (3, or as in training if larger)")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="new folder to write (hub/ALGO-ENV)")
    parser.add_argument(
        "--repo-id", metavar="NAME/REPOSITORY", help="repository on the Hub, for the card (your-name/ALGO-ENV)"
    )
    parser.add_argument("--command", help="command that trained the model, for the card (from the run)")
    return parser


def _make(options: argparse.Namespace) -> None:
    check_positive(**{"--n-tasks": options.n_tasks, "--n-steps": 1 if options.n_steps is None else options.n_steps})
    if options.repo_id is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", options.repo_id):
        raise ValueError(f"`--repo-id` must have the form NAME/REPOSITORY, got {options.repo_id!r}.")
    with open_model(options, options.n_tasks) as trained:
        output = Path(options.output or Path("hub", trained.name))
        check_new_folder(output)
        n_steps = options.n_steps or max(3, trained.model.n_inner_steps)
        n_episodes = options.n_episodes or trained.model.n_episodes
        report = evaluate_adaptation(trained.model, trained.env, options.n_tasks, n_steps, n_episodes, seed=options.seed)
        print(report)
        repo_id = options.repo_id or f"your-name/{trained.name}"
        measured = Measurement(report, n_episodes, options.seed, min(trained.model.n_inner_steps, n_steps))
        with _complete_or_absent(output) as folder:
            write_repository(folder, trained, measured, options.command or _command(trained.settings_folder), repo_id)
    print(f"Wrote {output}. Upload it with huggingface_hub: upload_folder(repo_id={repo_id!r}, folder_path={str(output)!r})")


def _command(settings: Path) -> str:
    """Return the command that trained the run with these settings."""
    file = settings / "command.txt"
    if not file.exists():
        return "not recorded"
    # RL Zoo writes the full path of the interpreter
    return re.sub(r"^\S*python\S*", "python", file.read_text(encoding="utf-8").strip())


# ---------------------------------------------------------------- writing


@contextmanager
def _complete_or_absent(output: Path) -> Iterator[Path]:
    """Make a folder that gets its name only when all files are written."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp makes a folder that other users cannot read
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_repository(folder: Path, trained: TrainedModel, measured: Measurement, command: str, repo_id: str) -> None:
    """
    Write the model, the card, plots and settings.

    :param folder: An empty folder
    :param trained: The model
    :param measured: The measurement of the model
    :param command: The command that trained the model
    :param repo_id: The repository on the Hub
    """
    import yaml

    shutil.copy(trained.path, folder / f"{trained.name}.zip")
    if (trained.settings_folder / "config.yml").exists():
        shutil.copy(trained.settings_folder / "config.yml", folder)
        arguments = {name: _without_folder(value) for name, value in saved_arguments(trained.settings_folder).items()}
        (folder / "args.yml").write_text(yaml.dump(arguments), encoding="utf-8")
    (folder / "env_kwargs.yml").write_text(yaml.dump(dict(trained.manager.env_kwargs)), encoding="utf-8")
    statistics = unwrap_vec_normalize(trained.env)
    if statistics is not None:
        statistics.save(str(folder / "vec_normalize.pkl"))
    with zipfile.ZipFile(folder / "train_eval_metrics.zip", "w") as archive:
        for file in sorted(file for pattern in _LOGS for file in trained.path.parent.glob(pattern)):
            archive.write(file, file.name)
    measured.report.to_csv(folder / "adaptation.csv")
    results = {
        "mean_reward": measured.mean,
        "std_reward": measured.std,
        "n_inner_steps": measured.n_inner_steps,
        "n_tasks": len(measured.report.tasks),
        "n_eval_episodes": measured.n_episodes,
        "seed": measured.seed,
        "is_deterministic": False,
        "env_kwargs": dict(trained.manager.env_kwargs),
        "mean_returns": measured.report.mean_returns.tolist(),
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    pictures = _pictures(trained, measured.report)
    for name, figure in pictures.items():
        figure.savefig(folder / name, dpi=120)
    text = card_text(trained, measured, command, repo_id, pictures)
    (folder / "README.md").write_text(f"---\n{metadata(trained, measured)}\n---\n\n{text}", encoding="utf-8")


def _without_folder(value: Any) -> Any:
    """Keep only the last part of an absolute path, so that published arguments do not show the author's folders."""
    return os.path.basename(value) if isinstance(value, str) and os.path.isabs(value) else value


def _pictures(trained: TrainedModel, report: AdaptationReport) -> dict[str, Figure]:
    plots = import_plots()
    if plots is None:
        return {}
    figures = {"adaptation.png": plots.plot_adaptation(report)}
    curve = plots.LearningCurve
    for name, read in (("evaluations.npz", curve.from_evaluations), ("progress.csv", curve.from_progress)):
        path = trained.path.parent / name
        if path.exists():
            try:
                figures["learning_curve.png"] = plots.plot_learning_curves({"": read(path)})
            except ValueError as error:
                print(f"No learning curve: {error}")
            break
    return figures

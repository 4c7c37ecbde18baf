"""
``python -m sb3_sgmrl.card``: a trained model as a folder that can be uploaded to the Hugging Face Hub as it is, in the layout
of ``huggingface_sb3`` and RL Zoo, with a model card that says how it was trained and measured.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import unwrap_vec_normalize

from sb3_sgmrl.command_line import run_command
from sb3_sgmrl.common.checks import check_positive, check_seed
from sb3_sgmrl.common.engines import as_task_vec_env
from sb3_sgmrl.common.evaluation import AdaptationReport, evaluate_adaptation
from sb3_sgmrl.common.saving import with_zip_suffix
from sb3_sgmrl.model_card import Measurement, TrainedModel, card_text, metadata

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# the tasks of the report at the end of training, which chose nothing
SEED = 2**40 + 1


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    :param argv: arguments; those of the process when None
    :return: exit code: 0, 2 after an error in the arguments, 130 after Ctrl-C
    """
    options = _parser().parse_args(argv)
    return run_command(lambda: _make(options), show_traceback=options.verbose > 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m sb3_sgmrl.card",
        description="Measure a trained model on tasks it has not seen and write a folder with the model, a model card and "
        "pictures, to be uploaded to the Hugging Face Hub. Nothing is uploaded by this command.",
    )
    parser.add_argument("--algo", default="sgmrl", choices=["sgmrl", "maml", "emaml"], help="algorithm (sgmrl)")
    parser.add_argument("--env", default="Navigation2D-v0", help="id of the task family (Navigation2D-v0)")
    parser.add_argument("-f", "--folder", default="logs", help="log folder of sb3_sgmrl.train (logs)")
    parser.add_argument(
        "--exp-id", type=int, default=0, help="number of the run; 0, the default: the latest; -1: no run folder"
    )
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--load-best", action="store_true", help="the model with the best return after adaptation")
    model.add_argument("--load-checkpoint", type=int, metavar="STEPS", help="the checkpoint after that many steps")
    model.add_argument("--load-last-checkpoint", action="store_true", help="the last checkpoint")
    model.add_argument("--model", metavar="FILE", help="a file written by model.save, instead of a run")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="the folder to make (hub/ALGO-ENV); it must not exist")
    parser.add_argument(
        "--repo-id", metavar="NAME/REPOSITORY", help="where it will be uploaded, for the card (your-name/ALGO-ENV)"
    )
    parser.add_argument("--n-tasks", type=int, default=40, help="tasks to measure on (40)")
    parser.add_argument("--n-steps", type=int, help="inner steps to measure (3, or as in training if that is more)")
    parser.add_argument("--n-episodes", type=int, help="episodes per task and inner step; as in training unless given")
    parser.add_argument(
        "--seed", type=int, default=SEED, help="seed of tasks and episodes; that of the report of training unless given"
    )
    parser.add_argument("--command", help="what trained the model, for the card; that of the run unless given")
    parser.add_argument("--device", default="auto", help="PyTorch device (auto)")
    parser.add_argument(
        "--env-kwargs",
        nargs="+",
        default=[],
        metavar="NAME:VALUE",
        help="arguments of the environment, over those of training",
    )
    parser.add_argument("--gym-packages", nargs="+", default=[], metavar="PACKAGE", help="imported to register environments")
    parser.add_argument("--verbose", type=int, default=1, help="2 also shows tracebacks of errors (1)")
    return parser


def _make(options: argparse.Namespace) -> None:
    given = {name: getattr(options, name) for name in ("n_tasks", "n_steps", "n_episodes")}
    check_positive(**{name: value for name, value in given.items() if value is not None})
    check_seed(options.seed)
    if options.repo_id is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", options.repo_id):
        raise ValueError(f"--repo-id must be a name, a slash and the name of the repository, got {options.repo_id!r}.")
    for package in options.gym_packages:
        importlib.import_module(package)
    if options.env not in gym.registry:
        raise ValueError(f"--env {options.env!r} is not registered with Gymnasium; --gym-packages imports what registers it.")
    output = Path(options.output or Path("hub") / f"{options.algo}-{options.env.replace('/', '-')}")
    if output.exists():
        raise ValueError(f"{output} exists; give the folder to make by --output.")
    trained = _load_file(options) if options.model else _load_run(options)
    try:
        n_steps = options.n_steps or max(3, trained.model.n_inner_steps)
        n_episodes = options.n_episodes or trained.model.n_episodes
        report = evaluate_adaptation(trained.model, trained.env, options.n_tasks, n_steps, n_episodes, seed=options.seed)
        print(report)
        with _complete_or_absent(output) as folder:
            repo_id = options.repo_id or f"your-name/{trained.name}"
            n_judged = min(trained.model.n_inner_steps, n_steps)
            write_repository(folder, trained, Measurement(report, n_episodes, options.seed, n_judged), repo_id)
    finally:
        trained.env.close()
    print(f"Wrote {output}. huggingface_hub uploads it: upload_folder(repo_id={repo_id!r}, folder_path={str(output)!r})")


# ---------------------------------------------------------------- loading


def _load_run(options: argparse.Namespace) -> TrainedModel:
    from sb3_sgmrl.enjoy import _load
    from sb3_sgmrl.zoo import MetaOptions

    manager, model = _load(options)
    manager.meta = MetaOptions(n_tasks=options.n_tasks)
    path = Path(manager.trained_agent)
    env = manager.create_envs(0, eval_env=True)
    trained = TrainedModel(options.algo, options.env, model, env, dict(manager.env_kwargs), path, options.command)
    file = trained.settings_folder / "command.txt"
    if options.command is not None or not file.exists():
        return trained
    # RL Zoo writes the interpreter with its path
    command = re.sub(r"^\S*python\S*", "python", file.read_text(encoding="utf-8").strip())
    return replace(trained, command=command)


def _load_file(options: argparse.Namespace) -> TrainedModel:
    from sb3_sgmrl.enjoy import _name_and_value
    from sb3_sgmrl.zoo import META_ALGOS

    path = with_zip_suffix(options.model)
    model = META_ALGOS[options.algo].load(path, device=options.device)
    env_kwargs = dict(_name_and_value(text) for text in options.env_kwargs)
    columns = options.n_tasks * (options.n_episodes or model.n_episodes)
    env = as_task_vec_env(gym.make(options.env, **env_kwargs), n_columns=columns)
    return TrainedModel(options.algo, options.env, model, env, env_kwargs, path, options.command)


# ---------------------------------------------------------------- writing


@contextmanager
def _complete_or_absent(output: Path) -> Iterator[Path]:
    """A folder that takes its name when everything is in it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp's is for nobody else
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_repository(folder: Path, trained: TrainedModel, measured: Measurement, repo_id: str) -> None:
    """
    Write model, card, pictures and settings.

    :param folder: an empty folder
    :param trained: the model
    :param measured: what it reaches
    :param repo_id: where it will be uploaded
    """
    import yaml

    shutil.copy(trained.path, folder / f"{trained.name}.zip")
    if (trained.settings_folder / "config.yml").exists():
        shutil.copy(trained.settings_folder / "config.yml", folder)
        arguments = yaml.unsafe_load((trained.settings_folder / "args.yml").read_text(encoding="utf-8"))
        (folder / "args.yml").write_text(yaml.dump({k: _without_folder(v) for k, v in arguments.items()}), encoding="utf-8")
    (folder / "env_kwargs.yml").write_text(yaml.dump(trained.env_kwargs), encoding="utf-8")
    statistics = unwrap_vec_normalize(trained.env)
    if statistics is not None:
        statistics.save(str(folder / "vec_normalize.pkl"))
    with zipfile.ZipFile(folder / "train_eval_metrics.zip", "w") as archive:
        for file in sorted([*trained.path.parent.glob("evaluations*.npz"), *trained.path.parent.glob("*.csv")]):
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
        "mean_returns": measured.report.mean_returns.tolist(),
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    pictures = _pictures(trained, measured.report)
    for name, figure in pictures.items():
        figure.savefig(folder / name, dpi=120)
    text = card_text(trained, measured, repo_id, pictures)
    (folder / "README.md").write_text(f"---\n{metadata(trained, measured)}\n---\n\n{text}", encoding="utf-8")


def _without_folder(value: Any) -> Any:
    """Whoever reads the arguments need not know where the home of the one is who trained."""
    return os.path.basename(value) if isinstance(value, str) and os.path.isabs(value) else value


def _pictures(trained: TrainedModel, report: AdaptationReport) -> dict[str, Figure]:
    try:
        from sb3_sgmrl import plots
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        print("No pictures, because matplotlib is not installed; the extra [plots] brings it.")
        return {}
    figures = {"adaptation.png": plots.plot_adaptation(report)}
    curves = _learning_curves(trained.path.parent)
    if curves is not None:
        figures["learning_curve.png"] = _plot_learning_curves(*curves)
    return figures


def _learning_curves(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Timesteps, and returns before and after adaptation, shape (n, 2), from evaluations or else from SB3's progress.csv."""
    if (folder / "evaluations.npz").exists():
        with np.load(folder / "evaluations.npz") as file:
            return file["timesteps"], file["results"].mean(axis=1)[:, [0, -1]]
    if (folder / "progress.csv").exists():
        keys = ("time/total_timesteps", "rollout/ep_rew_mean_pre", "rollout/ep_rew_mean_post")
        with open(folder / "progress.csv", encoding="utf-8") as file:
            rows = [[float(row[key]) for key in keys] for row in csv.DictReader(file) if all(row.get(key) for key in keys)]
        if rows:
            return np.array(rows)[:, 0], np.array(rows)[:, 1:]
    return None


def _plot_learning_curves(timesteps: np.ndarray, returns: np.ndarray) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for column, label, style in ((0, "before adaptation", "0.65"), (1, "after adaptation", "C0")):
        axis.plot(timesteps, returns[:, column], color=style, label=label)
    axis.set(xlabel="environment steps", ylabel="return")
    axis.legend(frameon=False)
    return figure


if __name__ == "__main__":
    sys.exit(main())

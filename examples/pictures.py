"""
Train SG-MRL and MAML on 2-D navigation with two seeds each, then draw every picture of ``sb3_sgmrl.plots`` from these runs.

    python examples/pictures.py

This command makes the pictures of ``docs/guide/pictures.md``. A run takes a few minutes. Its folder gets ``progress.csv``,
``evaluations.npz``, ``adaptation.csv`` and ``model.zip``. The script does not repeat a run that is in the folder.
"""

import argparse
import json
import pathlib

import numpy as np
from PIL import Image
from run_folders import SETTINGS, check_same
from stable_baselines3.common.logger import configure

from sb3_sgmrl import MAML, SGMRL, AdaptationReport, MetaEvalCallback, evaluate_adaptation
from sb3_sgmrl.plots import (
    LearningCurve,
    navigation_trajectories,
    plot_adaptation,
    plot_gradient_terms,
    plot_learning_curves,
    plot_performance_profiles,
    plot_probability_of_improvement,
    plot_task_returns,
    plot_trajectories,
    read_progress,
)
from sb3_sgmrl.theory import GradientQualityCallback

FAMILY = "Navigation2DPaper-v0"
ALGORITHMS = {"SG-MRL": SGMRL, "MAML": MAML}
GOALS = [np.array(goal) for goal in ([0.4, 0.3], [-0.3, 0.4], [0.1, -0.4])]


def train(folder, algorithm, seed, arguments):
    """Train one run, with ten evaluations and five measurements of the variance of the meta-gradient."""
    own = {name: getattr(arguments, name) for name in ("timesteps", "batch_size", "n_tasks")}
    check_same(folder, own)
    if (folder / "adaptation.csv").exists():
        return
    size = arguments.batch_size
    settings = {"meta_batch_size": size, "n_episodes": size, "learning_rate": 3e-3, "max_grad_norm": None}
    settings |= {"n_epochs": 5, "clip_range": 0.3}  # SGMRL's defaults, for both
    model = algorithm("MlpPolicy", FAMILY, seed=seed, **settings)
    model.set_logger(configure(str(folder), ["csv"]))
    (folder / SETTINGS).write_text(json.dumps(own))
    n_iterations = arguments.timesteps / (2 * size * size * 100)
    others = {"pathwise term": (MAML, {})} if algorithm is SGMRL else {}
    callbacks = [
        MetaEvalCallback(
            FAMILY, n_tasks=arguments.n_tasks, eval_freq=max(1, round(n_iterations / 10)), log_path=str(folder), verbose=0
        ),
        GradientQualityCallback(others, eval_freq=max(1, round(n_iterations / 5)), n_batches=6),
    ]
    model.learn(arguments.timesteps, callbacks, progress_bar=arguments.progress)
    model.logger.close()
    model.save(folder / "model")
    report = evaluate_adaptation(model, n_tasks=arguments.n_tasks, n_steps=3, seed=1, progress_bar=arguments.progress)
    report.to_csv(folder / "adaptation.csv")


def draw(folders):
    """Draw every picture and return it by name; ``folders`` has one folder per seed for each algorithm."""
    reports = {name: [AdaptationReport.from_csv(run / "adaptation.csv") for run in runs] for name, runs in folders.items()}
    yield "adaptation", plot_adaptation(reports)
    meta_iterations = {name: [LearningCurve.from_progress(run) for run in runs] for name, runs in folders.items()}
    yield "learning_curves", plot_learning_curves(meta_iterations, window=5)
    evaluations = {name: [LearningCurve.from_evaluations(run) for run in runs] for name, runs in folders.items()}
    yield "evaluations", plot_learning_curves(evaluations)
    yield "performance_profiles", plot_performance_profiles(reports, n_steps=1)
    yield "probability_of_improvement", plot_probability_of_improvement(reports, n_steps=1)
    yield "gradient_terms", plot_gradient_terms(
        {k: [read_progress(run) for run in runs] for k, runs in folders.items()}, window=5
    )
    models = {name: ALGORITHMS[name].load(runs[0] / "model") for name, runs in folders.items()}
    yield "trajectories", plot_trajectories({k: navigation_trajectories(model, FAMILY, GOALS) for k, model in models.items()})
    first = {name: runs[0] for name, runs in reports.items()}
    yield "task_map", plot_task_returns(first, names=["goal, x", "goal, y"], n_steps=1)
    distances = np.linalg.norm(first["SG-MRL"].tasks, axis=1)
    yield "task_distance", plot_task_returns(first, distances, names=["distance of the goal"], n_steps=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=3_200_000, help="environment steps of a run (3200000)")
    parser.add_argument("--batch-size", type=int, default=20, help="tasks, and episodes of each, in a meta-iteration (20)")
    parser.add_argument("--n-tasks", type=int, default=40, help="number of tasks in an evaluation (40)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="seeds, one run of each algorithm (0 1)")
    parser.add_argument("--folder", default="logs/pictures", help="folder for runs (logs/pictures)")
    parser.add_argument("--images", default="docs/images/pictures", help="folder for pictures (docs/images/pictures)")
    parser.add_argument("--progress", action="store_true", help="show progress bars")
    arguments = parser.parse_args()
    if min(arguments.timesteps, arguments.batch_size - 1, arguments.n_tasks) < 1:
        parser.error("--timesteps and --n-tasks must be at least 1, and --batch-size at least 2")
    folders = {name: [pathlib.Path(arguments.folder) / f"{name}-{seed}" for seed in arguments.seeds] for name in ALGORITHMS}
    for name, runs in folders.items():
        for seed, folder in zip(arguments.seeds, runs, strict=True):
            train(folder, ALGORITHMS[name], seed, arguments)
            print(f"{name}, seed {seed}: {folder}", flush=True)
    images = pathlib.Path(arguments.images)
    images.mkdir(parents=True, exist_ok=True)
    for name, figure in draw(folders):
        path = images / f"{name}.png"
        figure.savefig(path, dpi=150)
        Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)  # a third of the size
        print(f"Wrote {path}")


if __name__ == "__main__":
    main()

"""``python -m sb3_sgmrl.enjoy``: adapt a trained model to a task and look at the policy before and after each inner step."""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_sgmrl.command_line import run_command
from sb3_sgmrl.common.checks import check_positive

if TYPE_CHECKING:
    from sb3_sgmrl.common.evaluation import AdaptationReport
    from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
    from sb3_sgmrl.zoo import MetaExperimentManager


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    :param argv: arguments; those of the process when None
    :return: exit code: 0, 2 after an error in the arguments or settings, 130 after Ctrl-C
    """
    options = _parser().parse_args(argv)
    return run_command(lambda: _enjoy(options), show_traceback=options.verbose > 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m sb3_sgmrl.enjoy",
        description="Adapt a model trained by sb3_sgmrl.train to a task. Prints the return before and after each inner "
        "step and, where there is a display and the environment has a window, shows an episode of each.",
    )
    parser.add_argument("--algo", default="sgmrl", choices=["sgmrl", "maml", "emaml"], help="algorithm (sgmrl)")
    parser.add_argument("--env", default="Navigation2D-v0", help="id of the task family (Navigation2D-v0)")
    parser.add_argument("-f", "--folder", default="logs", help="log folder of the training (logs)")
    parser.add_argument(
        "--exp-id", type=int, default=0, help="number of the run; 0, the default: the latest; -1: no run folder"
    )
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--load-best", action="store_true", help="the model with the best return after adaptation")
    model.add_argument("--load-checkpoint", type=int, metavar="STEPS", help="the checkpoint after that many steps")
    model.add_argument("--load-last-checkpoint", action="store_true", help="the last checkpoint")
    parser.add_argument(
        "--task",
        nargs="+",
        type=_number,
        metavar="NUMBER",
        help="the task, e.g. 0.3 -0.4 for a goal in the plane; one drawn with the seed unless given",
    )
    parser.add_argument("--adapt-steps", type=int, default=3, help="number of inner steps (3)")
    parser.add_argument(
        "--n-episodes", type=int, help="episodes to adapt with and to measure, per inner step; as in training unless given"
    )
    parser.add_argument("--picture", metavar="FILE", help="save a picture: trajectories in navigation, else the returns")
    parser.add_argument("--no-render", action="store_true", help="open no window")
    parser.add_argument("--deterministic", action="store_true", help="show the mean action instead of drawn ones")
    parser.add_argument("--seed", type=int, default=0, help="seed of the task, if drawn, and of the episodes (0)")
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


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _enjoy(options: argparse.Namespace) -> None:
    from sb3_sgmrl.common.evaluation import evaluate_adaptation

    check_positive(adapt_steps=options.adapt_steps, n_episodes=1 if options.n_episodes is None else options.n_episodes)
    for package in options.gym_packages:
        importlib.import_module(package)
    manager, model = _load(options)
    env = manager.create_envs(0, eval_env=True)
    if options.task is None:
        task = env.env_method("sample_tasks", 1, options.seed, "test", indices=0)[0][0]
    else:
        given = options.task[0] if len(options.task) == 1 else options.task
        task = env.env_method("check_task", given, indices=0)[0]
    arguments = {"n_steps": options.adapt_steps, "n_episodes": options.n_episodes, "seed": options.seed}
    report = evaluate_adaptation(model, env, tasks=[task], **arguments)
    n_episodes = options.n_episodes or model.n_episodes
    print(f"Task {task}\n{'inner steps':>11} {'mean return':>12}   over {n_episodes} episodes")
    for k, mean_return in enumerate(report.mean_returns):
        print(f"{k:>11} {mean_return:>12.2f}")
    if options.picture:
        _save_picture(options.picture, model, env, report, arguments)
    if not options.no_render and _has_window(manager):
        _show(manager, model, env, task, options)
    env.close()


def _load(options: argparse.Namespace) -> tuple[MetaExperimentManager, MetaOnPolicyAlgorithm]:
    """The model, and what makes the environments of its run."""
    import yaml
    from huggingface_sb3 import EnvironmentName
    from rl_zoo3.utils import get_model_path, get_saved_hyperparams

    from sb3_sgmrl.zoo import META_ALGOS, MetaExperimentManager, MetaOptions

    if options.env not in gym.registry:
        raise ValueError(f"--env {options.env!r} is not registered with Gymnasium; --gym-packages imports what registers it.")
    _, model_path, run_folder = get_model_path(
        *(options.exp_id, options.folder, options.algo, EnvironmentName(options.env)),
        *(options.load_best, options.load_checkpoint, options.load_last_checkpoint),
    )
    hyperparams, _ = get_saved_hyperparams(os.path.join(run_folder, options.env))
    env_kwargs = dict(hyperparams.pop("env_kwargs", {}))
    arguments_file = os.path.join(run_folder, options.env, "args.yml")
    if os.path.exists(arguments_file):
        with open(arguments_file) as file:
            env_kwargs.update(yaml.unsafe_load(file)["env_kwargs"] or {})  # RL Zoo writes Python objects
    env_kwargs.update(_name_and_value(text) for text in options.env_kwargs)
    manager = MetaExperimentManager(
        *(options, options.algo, options.env, options.folder),
        env_kwargs=env_kwargs,
        trained_agent=model_path,
        n_eval_envs=0,
        n_eval_episodes=options.n_episodes or 0,
        verbose=0,
        meta=MetaOptions(n_tasks=1),
    )
    manager.use_hyperparameters({k: v for k, v in hyperparams.items() if k not in ("normalize_kwargs", "callback")})
    return manager, META_ALGOS[options.algo].load(model_path, device=options.device)


def _name_and_value(text: str) -> tuple[str, Any]:
    name, colon, value = text.partition(":")
    if not colon:
        raise ValueError(f"--env-kwargs takes name:value, got {text!r}.")
    return name, ast.literal_eval(value)


def _save_picture(
    path: str, model: MetaOnPolicyAlgorithm, env: VecEnv, report: AdaptationReport, arguments: dict[str, Any]
) -> None:
    from sb3_sgmrl import plots

    if plots.is_navigation(env):
        figure = plots.plot_trajectories(plots.navigation_trajectories(model, env, report.tasks, **arguments))
    else:
        figure = plots.plot_adaptation(report)
    figure.savefig(path, dpi=150)
    print(f"Wrote {path}")


def _has_window(manager: MetaExperimentManager) -> bool:
    env = gym.make(manager.env_name.gym_id, **manager.env_kwargs)
    modes = env.metadata.get("render_modes", [])
    env.close()
    on_linux_without_display = sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    return "human" in modes and not on_linux_without_display


def _show(
    manager: MetaExperimentManager, model: MetaOnPolicyAlgorithm, env: VecEnv, task: Any, options: argparse.Namespace
) -> None:
    """One episode after each number of inner steps, in a window."""
    window = manager.create_window()
    window.env_method("set_task", task)
    for k in range(options.adapt_steps + 1):
        policy = model.policy
        if k > 0:
            policy = model.adapt(env, task=task, n_steps=k, n_episodes=options.n_episodes, seed=options.seed)
        window.seed(options.seed)
        observation, dones = window.reset(), np.zeros(1, dtype=bool)
        while not dones[0]:
            action, _ = policy.predict(observation, deterministic=options.deterministic)  # type: ignore[arg-type]
            observation, _, dones, infos = window.step(action)
        print(f"Shown after {k} inner steps: an episode with return {infos[0]['episode']['r']:.2f}")
    window.close()


if __name__ == "__main__":
    sys.exit(main())

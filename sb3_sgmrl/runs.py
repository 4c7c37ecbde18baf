"""What the commands that look at a trained model share: which model, which task, and the policies after each inner step."""

from __future__ import annotations

import argparse
import ast
import os
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_sgmrl.command_line import import_env
from sb3_sgmrl.common.adaptation_env import fit_to_model
from sb3_sgmrl.common.checks import check_positive, check_seed

if TYPE_CHECKING:
    from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
    from sb3_sgmrl.zoo import MetaExperimentManager


def make_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """
    :param prog: the command
    :param description: what it does
    :return: a parser with the options that choose a model and a task
    """
    parser = argparse.ArgumentParser(prog, usage="%(prog)s [options]", description=description, allow_abbrev=False)
    model = parser.add_argument_group("the model")
    model.add_argument("--algo", default="sgmrl", choices=["sgmrl", "maml", "emaml"], help="algorithm (sgmrl)")
    model.add_argument(
        "--env",
        default="Navigation2D-v0",
        metavar="ID",
        help="the task family, to find the run and to play in; MODULE:ID imports what registers it (Navigation2D-v0)",
    )
    model.add_argument("-f", "--folder", default="logs", help="log folder of the training (logs)")
    model.add_argument(
        "--exp-id", type=int, default=0, help="number of the run; 0, the default: the latest; -1: no run folder"
    )
    which = model.add_mutually_exclusive_group()
    which.add_argument("--load-best", action="store_true", help="the model with the best return after adaptation")
    which.add_argument("--load-checkpoint", type=int, metavar="STEPS", help="the checkpoint after that many steps")
    which.add_argument("--load-last-checkpoint", action="store_true", help="the last checkpoint")
    which.add_argument(
        "-i", "--trained-agent", metavar="FILE.zip", help="this file instead, also when it was trained outside of RL Zoo"
    )
    model.add_argument("--device", default="auto", help="PyTorch device (auto)")
    task = parser.add_argument_group("the task")
    task.add_argument(
        "--task",
        nargs="+",
        type=_literal,
        metavar="VALUE",
        help="the task: numbers, such as 0.3 -0.4 for a goal in the plane, or Python, such as \"{'g': 9.8}\"; one drawn with "
        "the seed unless given",
    )
    task.add_argument("--adapt-steps", type=int, default=3, help="number of inner steps (3)")
    task.add_argument(
        "--n-episodes", type=int, help="episodes to adapt with and to measure, per inner step; as in training unless given"
    )
    task.add_argument("--seed", type=int, default=0, help="seed of the task, if drawn, and of the episodes (0)")
    task.add_argument(
        "--env-kwargs",
        nargs="+",
        default=[],
        metavar="NAME:VALUE",
        help="arguments of the environment, over those of training",
    )
    task.add_argument("--gym-packages", nargs="+", default=[], metavar="MODULE", help="imported to register environments")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    parser.add_argument("--verbose", type=int, default=1, help="2 also shows tracebacks of errors (1)")
    return parser


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@dataclass(frozen=True)
class Run:
    """
    A trained model at a task.

    :param options: of a parser made by :func:`make_parser`
    :param folder: of the model
    :param manager: makes environments as in training
    :param model: the model
    :param env: workers to adapt in
    :param task: the task
    """

    options: argparse.Namespace
    folder: str
    manager: MetaExperimentManager
    model: MetaOnPolicyAlgorithm
    env: VecEnv
    task: Any

    @property
    def n_episodes(self) -> int:
        """Episodes per inner step."""
        return self.options.n_episodes or self.model.n_episodes

    def policies(self) -> Iterator[tuple[int, ActorCriticPolicy]]:
        """The number of inner steps, from 0, and the policy after them; each goes on from the one before."""
        yield 0, self.model.policy
        for k in range(1, self.options.adapt_steps + 1):
            yield k, self.model.adapt(self.env, self.task, k, self.n_episodes, seed=self.options.seed)


def after(k: int) -> str:
    """
    :param k: number of inner steps
    :return: in words
    """
    return "before adaptation" if k == 0 else f"after {k} inner step{'s' * (k > 1)}"


@contextmanager
def open_run(options: argparse.Namespace) -> Iterator[Run]:
    """
    Load a model and choose its task, for a ``with`` statement.

    :param options: of a parser made by :func:`make_parser`
    :return: the model at its task
    :raises ValueError: for a model that is not there, an environment that is not registered or a task it does not have
    """
    from sb3_sgmrl.zoo import META_ALGOS, MetaExperimentManager, MetaOptions

    check_positive(adapt_steps=options.adapt_steps, n_episodes=1 if options.n_episodes is None else options.n_episodes)
    check_seed(options.seed)
    options.env = import_env(options.env, options.gym_packages)
    model_path = _find_model(options)
    folder = os.path.dirname(model_path)
    hyperparams, env_kwargs = _saved_settings(folder, options)
    env_kwargs.update(_name_and_value(text) for text in options.env_kwargs)
    manager = MetaExperimentManager(
        *(options, options.algo, options.env, options.folder),
        env_kwargs=env_kwargs,
        trained_agent=model_path,
        n_eval_envs=0,
        n_eval_episodes=options.n_episodes or 0,
        verbose=0,
        device=options.device,
        meta=MetaOptions(n_tasks=1),
    )
    manager.use_hyperparameters(hyperparams)
    model = META_ALGOS[options.algo].load(model_path, device=options.device)
    env = manager.create_envs(0, eval_env=True)
    try:
        fit_to_model(model, env)
        yield Run(options, folder, manager, model, env, _choose_task(env, options))
    finally:
        env.close()


def _find_model(options: argparse.Namespace) -> str:
    from huggingface_sb3 import EnvironmentName
    from rl_zoo3.utils import get_model_path

    if options.trained_agent is not None:
        if not os.path.isfile(options.trained_agent):
            raise ValueError(f"-i {options.trained_agent} is not a file.")
        return options.trained_agent
    _, path, _ = get_model_path(
        *(options.exp_id, options.folder, options.algo, EnvironmentName(options.env)),
        *(options.load_best, options.load_checkpoint, options.load_last_checkpoint),
    )
    return path


def _saved_settings(folder: str, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Hyperparameters and arguments of the environment that a run in RL Zoo's layout was trained with."""
    import yaml
    from huggingface_sb3 import EnvironmentName
    from rl_zoo3.utils import get_saved_hyperparams

    settings = pathlib.Path(folder, EnvironmentName(options.env))
    hyperparams, _ = get_saved_hyperparams(str(settings))
    env_kwargs = dict(hyperparams.pop("env_kwargs", {}))
    if (settings / "args.yml").exists():
        arguments = yaml.unsafe_load((settings / "args.yml").read_text())  # RL Zoo writes Python objects
        env_kwargs.update(arguments["env_kwargs"] or {})
    return {name: value for name, value in hyperparams.items() if name not in ("normalize_kwargs", "callback")}, env_kwargs


def _name_and_value(text: str) -> tuple[str, Any]:
    name, colon, value = text.partition(":")
    if not colon:
        raise ValueError(f"--env-kwargs takes name:value, got {text!r}.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"--env-kwargs takes numbers, or text in quotes of its own, got {text!r}.") from error


def _choose_task(env: VecEnv, options: argparse.Namespace) -> Any:
    if options.task is None:
        return env.env_method("sample_tasks", 1, options.seed, "test", indices=0)[0][0]
    given = options.task[0] if len(options.task) == 1 else options.task
    return env.env_method("check_task", given, indices=0)[0]


def play_episode(
    env: VecEnv, policy: ActorCriticPolicy, task: Any, seed: int, deterministic: bool = False
) -> tuple[float, list[np.ndarray | None]]:
    """
    Play one episode where it can be seen.

    :param env: one worker, from the manager's ``create_viewer``
    :param policy: who plays
    :param task: the task
    :param seed: of the environment
    :param deterministic: play the mean action instead of drawn ones
    :return: the return and, where the worker draws pictures, one per step
    """
    draws = env.render_mode == "rgb_array"
    env.env_method("set_task", task)
    env.seed(seed)
    observation, dones, frames = env.reset(), np.zeros(1, dtype=bool), []
    while not dones[0]:
        if draws:
            frames.append(env.get_images()[0])
        action, _ = policy.predict(observation, deterministic=deterministic)  # type: ignore[arg-type]
        observation, _, dones, infos = env.step(action)
    return infos[0]["episode"]["r"], frames

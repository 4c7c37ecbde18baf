"""What the commands that look at a trained model share: which model, which task, and the policies after each inner step."""

from __future__ import annotations

import argparse
import ast
import os
import pathlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_sgmrl.algorithms import ALGORITHMS
from sb3_sgmrl.cli.command_line import import_env
from sb3_sgmrl.cli.zoo.run_folder import saved_env_kwargs, saved_hyperparameters
from sb3_sgmrl.common.adaptation import fit_to_model
from sb3_sgmrl.common.saving import is_legacy_file
from sb3_sgmrl.util.validation import check_positive, check_seed
from sb3_sgmrl.vec_env.task_workers import ask

if TYPE_CHECKING:
    from sb3_sgmrl.cli.zoo.manager import MetaExperimentManager
    from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm


TRUSTED = "read also pickles, which run code: models of before 0.1, and their vecnormalize.pkl"


def make_model_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """
    :param prog: the command
    :param description: what it does
    :return: a parser with the options that choose a model and how it is played
    """
    parser = argparse.ArgumentParser(prog, usage="%(prog)s [options]", description=description, allow_abbrev=False)
    model = parser.add_argument_group("the model")
    model.add_argument("--algo", default="sgmrl", choices=list(ALGORITHMS), help="algorithm (sgmrl)")
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
    model.add_argument("--trusted", action="store_true", help=TRUSTED)
    play = parser.add_argument_group("the episodes")
    play.add_argument(
        "--n-episodes",
        type=int,
        help="episodes per task to adapt with and to measure, per inner step; as in training unless given",
    )
    play.add_argument("--seed", type=int, default=0, help="seed of what is drawn, tasks and episodes (%(default)s)")
    play.add_argument(
        "--env-kwargs",
        nargs="+",
        default=[],
        metavar="NAME:VALUE",
        help="arguments of the environment, over those of training",
    )
    play.add_argument("--gym-packages", nargs="+", default=[], metavar="MODULE", help="imported to register environments")
    parser.add_argument("--verbose", type=int, default=1, help="2 also shows tracebacks of errors (1)")
    return parser


def make_parser(prog: str, description: str, adapt_steps: int | None = 3) -> argparse.ArgumentParser:
    """
    :param prog: the command
    :param description: what it does
    :param adapt_steps: number of inner steps unless given; as in training when None
    :return: a parser with the options that choose a model and a task
    """
    parser = make_model_parser(prog, description)
    task = parser.add_argument_group("the task")
    task.add_argument(
        "--task",
        nargs="+",
        type=_literal,
        metavar="VALUE",
        help="the task: numbers, such as 0.3 -0.4 for a goal in the plane, or Python, such as \"{'g': 9.8}\"; one drawn with "
        "the seed unless given",
    )
    usual = "as in training" if adapt_steps is None else adapt_steps
    task.add_argument("--adapt-steps", type=int, default=adapt_steps, help=f"number of inner steps ({usual})")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    return parser


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@dataclass(frozen=True)
class TrainedModel:
    """
    A trained model and where it plays.

    :param path: the file of the model
    :param manager: makes environments as in training
    :param model: the model
    :param env: workers to adapt in
    :param hyperparams: of the run, none for a model alone
    """

    path: pathlib.Path
    manager: MetaExperimentManager
    model: MetaOnPolicyAlgorithm
    env: VecEnv
    hyperparams: dict[str, Any]

    @property
    def env_id(self) -> str:
        """Of the task family."""
        return self.manager.env_name.gym_id

    @property
    def name(self) -> str:
        """RL Zoo's name of the model and its repository."""
        return f"{self.manager.algo}-{self.manager.env_name}"

    @property
    def settings_folder(self) -> pathlib.Path:
        """Where RL Zoo keeps the settings of the run, if it was one."""
        return pathlib.Path(self.manager.statistics_folder)


@dataclass(frozen=True)
class Run(TrainedModel):
    """
    A trained model at a task.

    :param options: of a parser made by :func:`make_parser`
    :param task: the task
    """

    options: argparse.Namespace
    task: Any

    @property
    def n_episodes(self) -> int:
        """Episodes per inner step."""
        return self.options.n_episodes or self.model.n_episodes

    def policies(self) -> Iterator[tuple[int, ActorCriticPolicy]]:
        """The number of inner steps, from 0, and the policy after them."""
        n_steps = self.options.adapt_steps or self.model.n_inner_steps
        adapted = self.model.adapt_stepwise(self.env, self.task, n_steps, self.n_episodes, self.options.seed)
        yield from enumerate([self.model.policy, *adapted])


@contextmanager
def load_model(
    path: pathlib.Path,
    algo: str,
    env_id: str,
    env_kwargs: dict[str, Any] | None = None,
    n_tasks: int = 1,
    n_episodes: int | None = None,
    device: str = "auto",
    packages: Sequence[str] = (),
    trusted: bool = False,
) -> Iterator[TrainedModel]:
    """
    Load a model and make what it was trained in, for a ``with`` statement.

    :param path: the file of the model; settings of a run beside it, in RL Zoo's layout, are heeded
    :param algo: name of the algorithm in RL Zoo, such as ``sgmrl``
    :param env_id: id of the task family, which is registered
    :param env_kwargs: arguments of the environment, over those of training
    :param n_tasks: how many will be played side by side
    :param n_episodes: per task and inner step; as in training when None
    :param device: PyTorch device
    :param packages: modules that the user named, whose wrappers the settings may use
    :param trusted: whether files of before 0.1, which are pickles, may be read too
    :return: the model and where it plays
    :raises ValueError: for a file that is not such a model, or an environment that does not fit to it
    """
    from sb3_sgmrl.cli.zoo.manager import MetaExperimentManager, MetaOptions

    hyperparams, env_kwargs_of_run = _saved_settings(path.parent, env_id, packages)
    _check_normalization(hyperparams, path, env_id)
    manager = MetaExperimentManager(
        *(argparse.Namespace(), algo, env_id, str(path.parent)),
        env_kwargs={**env_kwargs_of_run, **(env_kwargs or {})},
        trained_agent=str(path),
        n_eval_envs=0,
        n_eval_episodes=n_episodes or 0,
        verbose=0,
        device=device,
        meta=MetaOptions(n_tasks=n_tasks, trusted=trusted),
    )
    manager.use_hyperparameters(hyperparams)
    model = ALGORITHMS[algo].cls.load(path, device=device, trusted=trusted)
    env = manager.create_envs(0, eval_env=True)
    try:
        fit_to_model(model, env)
        yield TrainedModel(path, manager, model, env, hyperparams)
    finally:
        env.close()


def open_model(options: argparse.Namespace, n_tasks: int = 1) -> AbstractContextManager[TrainedModel]:
    """
    Find and load a model, for a ``with`` statement.

    :param options: of a parser made by :func:`make_model_parser`
    :param n_tasks: how many will be played side by side
    :return: the model and where it plays
    :raises ValueError: for a model that is not there or an environment that is not registered
    """
    check_positive(n_episodes=1 if options.n_episodes is None else options.n_episodes)
    check_seed(options.seed)
    env_id = import_env(options.env, options.gym_packages)
    path = _find_model(options, env_id)
    env_kwargs = dict(_name_and_value(text) for text in options.env_kwargs)
    of_user = {"device": options.device, "packages": options.gym_packages, "trusted": options.trusted}
    return load_model(path, options.algo, env_id, env_kwargs, n_tasks, options.n_episodes, **of_user)


@contextmanager
def open_run(options: argparse.Namespace) -> Iterator[Run]:
    """
    Load a model and choose its task, for a ``with`` statement.

    :param options: of a parser made by :func:`make_parser`
    :return: the model at its task
    :raises ValueError: for a model that is not there, an environment that is not registered or a task it does not have
    """
    check_positive(adapt_steps=1 if options.adapt_steps is None else options.adapt_steps)
    with open_model(options) as trained:
        yield Run(**vars(trained), options=options, task=_choose_task(trained.env, options))


def _find_model(options: argparse.Namespace, env_id: str) -> pathlib.Path:
    from huggingface_sb3 import EnvironmentName
    from rl_zoo3.utils import get_model_path

    if options.trained_agent is not None:
        if not os.path.isfile(options.trained_agent):
            raise ValueError(f"-i {options.trained_agent} is not a file.")
        return pathlib.Path(options.trained_agent)
    _, path, _ = get_model_path(
        *(options.exp_id, options.folder, options.algo, EnvironmentName(env_id)),
        *(options.load_best, options.load_checkpoint, options.load_last_checkpoint),
    )
    return pathlib.Path(path)


def _saved_settings(folder: pathlib.Path, env_id: str, packages: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Hyperparameters and arguments of the environment that a run in RL Zoo's layout was trained with."""
    from huggingface_sb3 import EnvironmentName

    settings = folder / EnvironmentName(env_id)
    hyperparams = saved_hyperparameters(settings, packages)
    env_kwargs = {**(hyperparams.pop("env_kwargs", None) or {}), **saved_env_kwargs(settings)}
    return hyperparams, env_kwargs


def _check_normalization(hyperparams: dict[str, Any], path: pathlib.Path, env_id: str) -> None:
    """The model's own file says how it is normalised; one of before 0.1 has it in a file beside it."""
    if not is_legacy_file(path):
        hyperparams.pop("normalize", None)
    elif hyperparams.get("normalize") and not (path.parent / env_id / "vecnormalize.pkl").exists():
        raise ValueError(
            f"{path} was trained in a VecNormalize, whose {path.parent / env_id / 'vecnormalize.pkl'} is missing."
        )


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
        return ask(env, "sample_tasks", 1, options.seed, "test", indices=0)[0][0]
    given = options.task[0] if len(options.task) == 1 else options.task
    return ask(env, "check_task", given, indices=0)[0]


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
    ask(env, "set_task", task)
    env.seed(seed)
    observation, dones, frames = env.reset(), np.zeros(1, dtype=bool), []
    while not dones[0]:
        if draws:
            frames.append(env.get_images()[0])
        action, _ = policy.predict(observation, deterministic=deterministic)  # type: ignore[arg-type]
        observation, _, dones, infos = env.step(action)
    return infos[0]["episode"]["r"], frames

"""Parts that the commands for trained models share: options, loading a model, and the policies after each inner step."""

from __future__ import annotations

import argparse
import ast
import glob
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_sgmrl.algorithms import ALGORITHMS, why_missing
from sb3_sgmrl.cli.command_line import import_env, import_packages, name_and_value
from sb3_sgmrl.cli.zoo.run_folder import saved_env_kwargs, saved_hyperparameters
from sb3_sgmrl.common.adaptation import fit_to_model
from sb3_sgmrl.common.saving import is_legacy_file
from sb3_sgmrl.tasks.columns import task_like
from sb3_sgmrl.util.validation import check_positive, check_seed
from sb3_sgmrl.vec_env.task_workers import ask

if TYPE_CHECKING:
    from sb3_sgmrl.cli.zoo.manager import MetaExperimentManager
    from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm


TRUSTED = "also read pickles, which run code: models of before 0.1 and their vecnormalize.pkl"


def make_model_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """
    Make a parser with the options that select a model and its episodes.

    :param prog: The command
    :param description: The description of the command
    :return: The parser
    """
    parser = argparse.ArgumentParser(prog, usage="%(prog)s [options]", description=description, allow_abbrev=False)
    model = parser.add_argument_group("the model")
    model.add_argument("--algo", default="sgmrl", choices=list(ALGORITHMS), help="algorithm (sgmrl)")
    model.add_argument(
        "--env",
        default="Navigation2D-v0",
        metavar="ID",
        help="task family of the run and of the episodes; MODULE:ID imports the module that registers it (Navigation2D-v0)",
    )
    model.add_argument("-f", "--folder", default="logs", help="log folder of the training (logs)")
    model.add_argument(
        "--exp-id", type=int, default=0, help="number of the run; 0, the default: the latest run; -1: no run folder"
    )
    which = model.add_mutually_exclusive_group()
    which.add_argument("--load-best", action="store_true", help="load the model with the best return after adaptation")
    which.add_argument("--load-checkpoint", type=int, metavar="STEPS", help="load the checkpoint after this number of steps")
    which.add_argument("--load-last-checkpoint", action="store_true", help="load the last checkpoint")
    which.add_argument(
        "-i", "--trained-agent", metavar="FILE.zip", help="load this file, which may also be trained without RL Zoo"
    )
    model.add_argument("--device", default="auto", help="PyTorch device (auto)")
    model.add_argument("--trusted", action="store_true", help=TRUSTED)
    play = parser.add_argument_group("the episodes")
    play.add_argument(
        "--n-episodes",
        type=int,
        help="episodes per task and inner step, to adapt with and to measure (as in training)",
    )
    play.add_argument("--seed", type=int, default=0, help="seed of tasks and episodes (%(default)s)")
    play.add_argument(
        "--env-kwargs",
        nargs="+",
        default=[],
        metavar="NAME:VALUE",
        help="arguments of the environment, which override the arguments of training",
    )
    play.add_argument("--gym-packages", nargs="+", default=[], metavar="MODULE", help="modules that register environments")
    parser.add_argument("--verbose", type=int, default=1, help="2 also shows the tracebacks of errors (1)")
    return parser


def make_parser(prog: str, description: str, adapt_steps: int | None = 3) -> argparse.ArgumentParser:
    """
    Make a parser with the options that select a model and a task.

    :param prog: The command
    :param description: The description of the command
    :param adapt_steps: The default number of inner steps; as in training when None
    :return: The parser
    """
    parser = make_model_parser(prog, description)
    task = parser.add_argument_group("the task")
    which = task.add_mutually_exclusive_group()
    which.add_argument(
        "--task",
        nargs="+",
        metavar="VALUE",
        help="task as numbers, such as 0.3 -0.4 for a goal in the plane, or as Python, such as \"{'g': 9.8}\" (a random task)",
    )
    which.add_argument(
        "--task-file", metavar="FILE.json", help='task from a file of JSON, such as {"mass": 2, "goal": [0, 1]}'
    )
    usual = "as in training" if adapt_steps is None else adapt_steps
    task.add_argument("--adapt-steps", type=int, default=adapt_steps, help=f"number of inner steps ({usual})")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    return parser


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@dataclass(frozen=True)
class TrainedModel:
    """
    A trained model and its environment.

    :param path: The file of the model
    :param manager: The experiment manager, which makes environments as in training
    :param model: The model
    :param env: The workers to adapt in
    :param hyperparams: The hyperparameters of the run; empty for a model without a run
    """

    path: pathlib.Path
    manager: MetaExperimentManager
    model: MetaOnPolicyAlgorithm
    env: VecEnv
    hyperparams: dict[str, Any]

    @property
    def env_id(self) -> str:
        """The id of the task family."""
        return self.manager.env_name.gym_id

    @property
    def name(self) -> str:
        """The name of the model and its repository, as in RL Zoo."""
        return f"{self.manager.algo}-{self.manager.env_name}"

    @property
    def settings_folder(self) -> pathlib.Path:
        """The folder in which RL Zoo keeps the settings of the run; it does not exist for a model without a run."""
        return pathlib.Path(self.manager.statistics_folder)


@dataclass(frozen=True)
class Run(TrainedModel):
    """
    A trained model at a task.

    :param options: The options of a parser made by :func:`make_parser`
    :param task: The task
    """

    options: argparse.Namespace
    task: Any

    @property
    def n_episodes(self) -> int:
        """The number of episodes per inner step."""
        return self.options.n_episodes or self.model.n_episodes

    def policies(self) -> Iterator[tuple[int, ActorCriticPolicy]]:
        """
        Adapt the model to the task.

        :return: An iterator over the number of inner steps, from 0, and the policy after them
        """
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
    Load a model and make its environment, for a ``with`` statement.

    :param path: The file of the model; the settings of a run beside it, in RL Zoo's layout, are applied
    :param algo: The name of the algorithm in RL Zoo, such as ``sgmrl``
    :param env_id: The id of the task family, which is registered
    :param env_kwargs: The arguments of the environment, which override the arguments of training
    :param n_tasks: The number of tasks to play in parallel
    :param n_episodes: The number of episodes per task and inner step; as in training when None
    :param device: The PyTorch device
    :param packages: The modules that the user named, whose wrappers the settings may use
    :param trusted: Whether to also read pickles of before 0.1, which run code
    :return: The model and its environment
    :raises ValueError: When the file is not such a model, or the environment does not fit the model
    """
    from sb3_sgmrl.cli.zoo.manager import MetaExperimentManager
    from sb3_sgmrl.cli.zoo.options import MetaOptions

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

    :param options: The options of a parser made by :func:`make_model_parser`
    :param n_tasks: The number of tasks to play in parallel
    :return: The model and its environment
    :raises ValueError: When the model does not exist, or the environment is not registered
    """
    check_positive(**{"--n-episodes": 1 if options.n_episodes is None else options.n_episodes})
    check_seed(options.seed)
    env_id = import_env(options.env, options.gym_packages)
    path = _find_model(options, env_id)
    env_kwargs = dict(name_and_value(text) for text in options.env_kwargs)
    of_user = {"device": options.device, "packages": options.gym_packages, "trusted": options.trusted}
    return load_model(path, options.algo, env_id, env_kwargs, n_tasks, options.n_episodes, **of_user)


def load_without_env(options: argparse.Namespace) -> tuple[pathlib.Path, MetaOnPolicyAlgorithm]:
    """
    Find and load a model without its environment, which need not be registered with ``-i``.

    :param options: The options of a parser made by :func:`make_model_parser`
    :return: The file and the model
    :raises ValueError: When the model does not exist, or is from before 0.1
    """
    if options.trained_agent is None:
        env_id = import_env(options.env, options.gym_packages)
    else:
        env_id = options.env
        import_packages(options.gym_packages)
    path = _find_model(options, env_id)
    if is_legacy_file(path):  # it may lack the statistics of its VecNormalize
        raise ValueError(f"{path} is from before 0.1: convert it by python -m sb3_sgmrl.convert first.")
    return path, ALGORITHMS[options.algo].cls.load(path, device=options.device)


@contextmanager
def open_run(options: argparse.Namespace) -> Iterator[Run]:
    """
    Load a model and choose its task, for a ``with`` statement.

    :param options: The options of a parser made by :func:`make_parser`
    :return: The model at its task
    :raises ValueError: When the model does not exist, the environment is not registered, or the task is not in the
        environment's task space
    """
    check_positive(**{"--adapt-steps": 1 if options.adapt_steps is None else options.adapt_steps})
    with open_model(options) as trained:
        yield Run(**vars(trained), options=options, task=_choose_task(trained.env, options))


def _find_model(options: argparse.Namespace, env_id: str) -> pathlib.Path:
    from huggingface_sb3 import EnvironmentName
    from rl_zoo3.utils import get_model_path

    if options.trained_agent is not None:
        if not os.path.isfile(options.trained_agent):
            raise ValueError(f"`-i` must be an existing file, got {options.trained_agent}.")
        return pathlib.Path(options.trained_agent)
    try:
        _, path, _ = get_model_path(
            *(options.exp_id, options.folder, options.algo, EnvironmentName(env_id)),
            *(options.load_best, options.load_checkpoint, options.load_last_checkpoint),
        )
    except (ValueError, AssertionError) as error:
        if any(pathlib.Path(options.folder, options.algo).glob(f"{glob.escape(EnvironmentName(env_id))}_*")):
            raise  # it names the missing file of the run
        raise ValueError(why_missing(env_id, options.algo, options.folder, prefix="--")) from error
    return pathlib.Path(path)


def _saved_settings(folder: pathlib.Path, env_id: str, packages: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the hyperparameters and environment arguments of a run in RL Zoo's layout."""
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


def _choose_task(env: VecEnv, options: argparse.Namespace) -> Any:
    example = ask(env, "sample_tasks", 1, options.seed, "test", indices=0)[0][0]
    if options.task is None and options.task_file is None:
        return example
    if options.task_file is not None:
        given = _read_json(options.task_file)
    elif isinstance(example, str):
        given = " ".join(options.task)
    else:
        values = [_literal(text) for text in options.task]
        given = values[0] if len(values) == 1 else values
    return ask(env, "check_task", task_like(given, example), indices=0)[0]


def _read_json(path: str) -> Any:
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"`--task-file` must be a file that can be read, got {path}.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`--task-file` must hold a task as JSON, but {path} does not: {error}.") from error


def play_episode(
    env: VecEnv,
    policy: ActorCriticPolicy,
    task: Any,
    seed: int,
    deterministic: bool = False,
    on_step: Callable[[], object] = lambda: None,
    shown: Container[int] | None = None,
) -> tuple[float, list[np.ndarray | None]]:
    """
    Play one episode and collect its pictures.

    :param env: One worker, from the manager's ``create_viewer``
    :param policy: The policy
    :param task: The task
    :param seed: The seed of the environment
    :param deterministic: Whether to play the mean action instead of sampled actions
    :param on_step: Called before each step
    :param shown: The steps to draw; all when None
    :return: The return, and one picture per step if the worker renders pictures
    """
    draws = env.render_mode == "rgb_array"
    ask(env, "set_task", task)
    env.seed(seed)
    observation, dones, frames = env.reset(), np.zeros(1, dtype=bool), []
    for step in itertools.count():
        if dones[0]:
            break
        on_step()
        if draws and (shown is None or step in shown):
            frames.append(env.get_images()[0])
        action, _ = policy.predict(observation, deterministic=deterministic)  # type: ignore[arg-type]
        observation, _, dones, infos = env.step(action)
    return infos[0]["episode"]["r"], frames

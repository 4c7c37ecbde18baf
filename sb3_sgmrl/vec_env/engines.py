"""Build the fastest VecEnv of tasks for the user's ``env``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args
from weakref import WeakSet

import gymnasium as gym
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from stable_baselines3.common.env_util import is_wrapped, unwrap_wrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from sb3_sgmrl.data.spaces import check_spaces
from sb3_sgmrl.tasks.sources import make_env
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv
from sb3_sgmrl.util.user_warnings import warn_user
from sb3_sgmrl.util.validation import check_choice, check_positive
from sb3_sgmrl.vec_env.clones import edited_model_fields, make_task_vec_env
from sb3_sgmrl.vec_env.from_vector_env import wrap_vector_env
from sb3_sgmrl.vec_env.process_vec_env import ProcessVecEnv
from sb3_sgmrl.vec_env.task_vec_env import TaskVecEnv
from sb3_sgmrl.vec_env.task_vector_env import TaskVectorEnv
from sb3_sgmrl.vec_env.task_workers import check_task_workers

EngineName = Literal["auto", "batched", "in_process", "subprocess"]

# More workers cost no more per step, and need fewer calls of the policy and of other processes.
DEFAULT_WORKERS = 64
DEFAULT_COLUMNS = 400

# The VecEnv of each engine of clones.
_CLONES: dict[str, type[VecEnv]] = {"in_process": DummyVecEnv, "subprocess": ProcessVecEnv}

# VecEnvs made here, in contrast to those of the user's.
_MADE: WeakSet[VecEnv] = WeakSet()


def as_task_vec_env(
    env: Any, n_envs: int | None = None, n_columns: int | None = None, engine: EngineName = "auto", verbose: int = 0
) -> VecEnv:
    """
    Build a VecEnv of tasks from an environment.

    The engines are

    - ``batched``: the batched form of a registered family;
    - ``in_process``: clones in this process;
    - ``subprocess``: clones in one process per processor;
    - ``auto``: the batched form if there is one, else clones in this process.

    :param env: A TaskDistEnv, an environment with its own tasks, the id of a registered family, or a VecEnv
    :param n_envs: The number of workers, chosen automatically by default; not for a VecEnv, which has its own workers
    :param n_columns: The number of episodes that can run side by side, which limits the default number of workers
    :param engine: The name of the engine
    :param verbose: The verbosity; 1 prints the choice
    :return: The VecEnv passed as ``env``, or the VecEnv of the engine
    :raises ValueError: When ``env`` has no tasks, an unsupported space or a Monitor with a file, or lacks the engine
    """
    check_choice("engine", engine, get_args(EngineName))
    if n_envs is not None:
        check_positive(n_envs=n_envs)
    if isinstance(env, VecEnv):
        check_spaces(env.observation_space, env.action_space)
        for name, given in (("n_envs", n_envs is not None), ("engine", engine != "auto")):
            if given:
                raise ValueError(f"`{name}` applies to a single environment; the VecEnv given as `env` has its own workers.")
        return env
    if isinstance(env, str):
        env = make_env(env, {})
    if not is_wrapped(env, TaskDistEnv):
        env = TaskDistEnv(env)
    check_spaces(env.observation_space, env.action_space)
    monitor = unwrap_wrapper(env, Monitor)
    if isinstance(monitor, Monitor) and monitor.results_writer is not None:
        raise ValueError(
            "`env` has a Monitor that writes a file, which its copies cannot share: pass "
            "make_vec_env(..., monitor_dir=...) instead."
        )
    vec_env: VecEnv | None = None
    if engine in ("auto", "batched"):
        inner = env.env if isinstance(env, Monitor) else env
        vec_env = _batched(inner, n_envs or n_columns or DEFAULT_COLUMNS, foreign=engine == "batched")
    if vec_env is None and engine == "batched":
        raise ValueError(
            f"`engine='batched'` needs a registered environment with tasks and a batched form, got {env}: omit `engine`."
        )
    if vec_env is None:
        n_workers = n_envs or min(DEFAULT_WORKERS, n_columns or DEFAULT_WORKERS)
        vec_env = make_task_vec_env(env, n_workers, vec_env_cls=_CLONES.get(engine, DummyVecEnv))
    if verbose >= 1:
        print(f"Running {vec_env.num_envs} environments side by side in a {type(vec_env).__name__}.")
    _MADE.add(vec_env)
    return vec_env


def is_made(vec_env: VecEnv) -> bool:
    """
    Return whether :func:`as_task_vec_env` made a VecEnv from one environment.

    :param vec_env: A VecEnv, with wrappers or without
    :return: Whether it was made; false for a VecEnv of the user's
    """
    while vec_env not in _MADE and isinstance(vec_env, VecEnvWrapper):
        vec_env = vec_env.venv
    return vec_env in _MADE


def _batched(env: gym.Env, n_columns: int, foreign: bool) -> VecEnv | None:
    """
    Build the batched form of a registered family with the same options, or of any registered environment.

    :param env: The environment, a TaskDistEnv
    :param n_columns: The number of columns
    :param foreign: Whether batched forms outside this package are allowed
    :return: The VecEnv, or ``None`` when there is no batched form
    :raises ValueError: When the MuJoCo model was edited, or the batched form cannot be made
    """
    if not isinstance(env, TaskDistEnv) or not env.sets_own_tasks:
        return None
    layer = env.env
    while isinstance(layer, (OrderEnforcing, PassiveEnvChecker, TimeLimit)):
        layer = layer.env
    spec = env.env.spec
    if layer is not env.unwrapped or spec is None or spec.vector_entry_point is None:
        return None
    if edited := edited_model_fields(env):
        raise ValueError(
            f"The MuJoCo model of {spec.id} was edited ({', '.join(edited)}), but its batched form would lose the edits: pass "
            "make_vec_env(<a function that makes the edited environment>, n_envs=...) as `env`."
        )
    # The spec records an outer TimeLimit, even if an inner one is shorter.
    spec = replace(spec, max_episode_steps=env.horizon)
    try:
        vector_env = gym.make_vec(spec, num_envs=n_columns, vectorization_mode="vector_entry_point")
    except Exception as error:
        if foreign and not isinstance(error, ImportError):
            raise ValueError(
                f"`engine='batched'` needs a vector_entry_point that makes a VectorEnv, but that of {spec.id} failed with "
                f"{type(error).__name__}: {error}."
            ) from error
        warn_user(f"The batched form of {spec.id} is not available ({error}); its environments are stepped one by one.")
        return None
    if isinstance(vector_env, TaskVectorEnv):
        return TaskVecEnv(vector_env, env)
    if foreign:
        return wrap_vector_env(vector_env, env)
    vector_env.close()  # it may play differently from the single environment
    return None


def make_task_env(env: GymEnv | str, n_columns: int | None = None) -> VecEnv:
    """
    Make workers for an adaptation before the model is known.

    :param env: The environment, as for the algorithms
    :param n_columns: The number of episodes that can run side by side
    :return: The VecEnv passed as ``env``, or a new one, which :func:`close_task_env` closes
    :raises ValueError: When ``env`` has no tasks
    """
    vec_env = as_task_vec_env(env, n_columns=n_columns)
    try:
        check_task_workers(vec_env)
    except ValueError:
        close_task_env(vec_env, env)
        raise
    return vec_env


def close_task_env(vec_env: VecEnv, env: GymEnv | str) -> None:
    """
    Close the VecEnv that :func:`make_task_env` made, and keep the user's environment open.

    :param vec_env: The result of :func:`make_task_env`
    :param env: The argument of :func:`make_task_env`
    """
    if vec_env is not env:
        # The template of a batched family is the user's environment.
        (vec_env.vector_env if isinstance(vec_env, TaskVecEnv) else vec_env).close()

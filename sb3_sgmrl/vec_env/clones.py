"""One environment to many workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv
from sb3_sgmrl.util.mujoco_warnings import quiet_compiler

_ADVICE = "pass make_vec_env(<a function that makes it>, n_envs=...) instead of one environment"


def make_task_vec_env(
    env: gym.Env,
    n_envs: int,
    seed: int | None = None,
    vec_env_cls: Callable[[list[Callable[[], gym.Env]]], VecEnv] = DummyVecEnv,
) -> VecEnv:
    """
    Copy one environment to several workers, each under a ``Monitor``. The environment itself is not among them and stays as it
    is.

    Copies are made by pickling. They share the state of the random generators of the original, so each is seeded anew, at
    random if ``seed`` is not given.

    :param env: the environment, usually a :class:`TaskDistEnv`
    :param n_envs: number of workers
    :param seed: worker ``i`` is seeded by ``seed + i``, as in Stable-Baselines3
    :param vec_env_cls: what makes the VecEnv of the functions that make the workers
    :return: the vectorised environment
    :raises ValueError: when ``n_envs`` is not positive, or the copies could not be made or would differ from the environment
    """
    if n_envs <= 0:
        raise ValueError(f"n_envs must be a positive integer, got {n_envs}.")
    try:
        pickled = cloudpickle.dumps(env)
        _load(pickled).close()
    except Exception as error:
        raise ValueError(f"{env} cannot be copied to {n_envs} workers ({_one_line(error)}): {_ADVICE}.") from error
    if edited := edited_model_fields(env):
        raise ValueError(f"The MuJoCo model of {env} was edited ({', '.join(edited)}) and its copies would not be: {_ADVICE}.")
    seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
    vec_env = vec_env_cls([partial(_copy, pickled, seed + i) for i in range(n_envs)])
    vec_env.seed(seed)
    return vec_env


def _load(pickled: bytes) -> gym.Env:
    with quiet_compiler() if b"mujoco" in pickled else nullcontext():
        return cloudpickle.loads(pickled)


def _copy(pickled: bytes, seed: int) -> gym.Env:
    env = _load(pickled)
    # seeds of a VecEnv come into force at the next reset; nothing must be drawn from a shared state before
    env.np_random = np.random.default_rng(seed)
    env.action_space.seed(seed)
    return env if is_wrapped(env, Monitor) else Monitor(env)


def edited_model_fields(env: gym.Env) -> list[str]:
    """
    The fields of an environment's MuJoCo models that were edited by hand, so that an environment made anew, by pickling or
    from the specification, would not have them. A task that is in force, and what a reset changes, do not count.

    :param env: an environment that can be pickled
    :return: names such as ``body_mass`` or ``opt.gravity``; empty without MuJoCo
    """
    originals = _models(env)
    if not originals:
        return []
    probe = cloudpickle.loads(cloudpickle.dumps(env))
    before = [dict(_fields(model)) for model in _models(probe)]
    _reset_with_same_task(probe)
    after = [dict(_fields(model)) for model in _models(probe)]
    probe.close()
    return sorted(
        {
            name
            for original, fresh, played in zip(originals, before, after, strict=True)
            for name, value in _fields(original)
            # A field that is different after a reset holds a task or the place of a goal.
            if not np.array_equal(value, fresh[name]) and np.array_equal(fresh[name], played[name])
        }
    )


def _reset_with_same_task(env: gym.Env) -> None:
    task_env = _task_env(env)
    if task_env is None:
        env.reset(seed=0)
        return
    task_env.set_schedule(None)
    # A list of environments: each has a model of its own, and is reset by its own task.
    tasks = [task_env._task] if task_env.members is None else range(len(task_env.members))
    for task in tasks:
        task_env.set_task(task)
        task_env.reset(seed=0)


def _task_env(env: gym.Env) -> TaskDistEnv | None:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, TaskDistEnv):
            return env
        env = env.env
    return None


def _models(env: gym.Env) -> list[Any]:
    task_env = _task_env(env)
    bases = [env] if task_env is None or task_env.members is None else task_env.members
    models = (getattr(base.unwrapped, "model", None) for base in bases)
    return [model for model in models if type(model).__name__ == "MjModel"]


def _fields(model: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Every array of the model and every option of its solver, copied."""
    for prefix, part in (("", model), ("opt.", model.opt)):
        for name in dir(part):
            # pickling loses the signature of what was compiled
            value = None if name.startswith("_") or name == "signature" else getattr(part, name)
            if isinstance(value, (np.ndarray, int, float)):
                yield prefix + name, np.array(value)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"

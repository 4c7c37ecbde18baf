"""Copy one environment to many workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from sb3_sgmrl.util.mujoco_warnings import quiet_compiler
from sb3_sgmrl.vec_env.probe import copies_problem, find_task_env

_ADVICE = (
    "pass make_vec_env(<a function that makes it>, n_envs=...) instead of one environment, or --vec-env dummy on the "
    "command line"
)


def make_task_vec_env(
    env: gym.Env,
    n_envs: int,
    seed: int | None = None,
    vec_env_cls: Callable[[list[Callable[[], gym.Env]]], VecEnv] = DummyVecEnv,
) -> VecEnv:
    """
    Copy one environment to several workers, each under a ``Monitor``. The environment itself stays unchanged.

    Copies are made by pickling. Two of them are tested first: whether they disturb each other, as handles to one simulator
    do, and whether tasks make a difference. Copies share the state of the original's random generators. Each copy is
    therefore seeded anew, at random without a ``seed``.

    :param env: The environment, usually a :class:`~sb3_sgmrl.TaskDistEnv`
    :param n_envs: The number of workers
    :param seed: The seed of worker 0; worker ``i`` gets ``seed + i``, as in Stable-Baselines3
    :param vec_env_cls: A callable that makes the VecEnv from the functions that make the workers
    :return: The vectorised environment
    :raises ValueError: When ``n_envs`` is not positive, or copies are impossible or would differ from the environment
    """
    if n_envs <= 0:
        raise ValueError(f"`n_envs` must be a positive integer, got {n_envs}.")
    try:
        pickled = cloudpickle.dumps(env)
        load = partial(_load, pickled)
        copy = load()
    except Exception as error:
        raise ValueError(f"{env} cannot be copied to {n_envs} workers ({_one_line(error)}): {_ADVICE}.") from error
    if edited := edited_model_fields(env):
        raise ValueError(
            f"The MuJoCo model of {env} was edited ({', '.join(edited)}), but its copies would lose the edits: {_ADVICE}."
        )
    if problem := copies_problem(copy, load):
        raise ValueError(f"{env} cannot be copied to {n_envs} workers ({problem}): {_ADVICE}.")
    seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
    vec_env = vec_env_cls([partial(_copy, pickled, seed + i) for i in range(n_envs)])
    vec_env.seed(seed)
    return vec_env


def _load(pickled: bytes) -> gym.Env:
    with quiet_compiler() if b"mujoco" in pickled else nullcontext():
        return cloudpickle.loads(pickled)


def _copy(pickled: bytes, seed: int) -> gym.Env:
    env = _load(pickled)
    # A VecEnv applies seeds at the next reset; until then, no worker may draw from a shared state.
    env.np_random = np.random.default_rng(seed)
    env.action_space.seed(seed)
    if (task_env := find_task_env(env)) is not None:
        task_env.trust_set_task()  # the first copy was checked
    return env if is_wrapped(env, Monitor) else Monitor(env)


def edited_model_fields(env: gym.Env) -> list[str]:
    """
    List the fields of an environment's MuJoCo models that the user edited.

    An environment made anew, by pickling or from the specification, would lose these edits. Fields that a task or a reset
    changes do not count.

    :param env: An environment that can be pickled
    :return: The names, such as ``body_mass`` or ``opt.gravity``; empty without MuJoCo
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
            # A field that changes in a reset holds a task or the position of a goal.
            if not np.array_equal(value, fresh[name]) and np.array_equal(fresh[name], played[name])
        }
    )


def _reset_with_same_task(env: gym.Env) -> None:
    task_env = find_task_env(env)
    if task_env is None:
        env.reset(seed=0)
        return
    task_env.set_schedule(None)
    # Each environment of a list has its own model, and its task resets it.
    tasks = [task_env._task] if task_env.members is None else range(len(task_env.members))
    for task in tasks:
        task_env.set_task(task)
        task_env.reset(seed=0)


def _models(env: gym.Env) -> list[Any]:
    task_env = find_task_env(env)
    bases = [env] if task_env is None or task_env.members is None else task_env.members
    models = (getattr(base.unwrapped, "model", None) for base in bases)
    return [model for model in models if type(model).__name__ == "MjModel"]


def _fields(model: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a copy of every array of the model and every option of its solver."""
    for prefix, part in (("", model), ("opt.", model.opt)):
        for name in dir(part):
            # Pickling changes the signature of a model.
            value = None if name.startswith("_") or name == "signature" else getattr(part, name)
            if isinstance(value, (np.ndarray, int, float)):
                yield prefix + name, np.array(value)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


def copy_wrappers(env: VecEnv | None, memo: dict[int, Any]) -> None:
    """
    Copy the wrappers around workers, for the ``copy.deepcopy`` of an object that holds them.

    SB3's wrappers keep attributes of their class, which cannot be copied. A VecNormalize copies itself without its workers.

    :param env: The workers in their wrappers
    :param memo: The memo of ``copy.deepcopy``, to which the copies are added
    """
    layers = []
    while isinstance(env, VecEnvWrapper):
        layers.append(env)
        memo[id(env)] = type(env).__new__(type(env))
        env = env.venv
    for layer in layers:
        own = {name: value if name == "class_attributes" else deepcopy(value, memo) for name, value in vars(layer).items()}
        vars(memo[id(layer)]).update(own)

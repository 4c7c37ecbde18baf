"""Find the tasks of an environment, and the way to set one."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Number
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from sb3_sgmrl.tasks.distribution import Sampler, Task
from sb3_sgmrl.tasks.interface import layers
from sb3_sgmrl.util.validation import shown

EnvLike = gym.Env | str | EnvSpec | Callable[..., gym.Env]
SetTask = Callable[[Any, Any], Any] | str | Sequence[str]


class Attributes:
    """
    Sets attributes of the base environment to a task.

    :param names: The names of the attributes: a single one, or one per number of the task
    :param env: The environment, wrapped or not
    """

    def __init__(self, names: Sequence[str], env: gym.Env):
        self.names = names
        for name in names:
            if not isinstance(name, str) or not hasattr(env.unwrapped, name):
                on_wrapper = isinstance(name, str) and env.has_wrapper_attr(name)
                advice = ": a wrapper that has it needs a method `set_task(task)` instead" if on_wrapper else ""
                raise ValueError(
                    f"`set_task` names {name!r}, but {type(env.unwrapped).__name__} has no such attribute{advice}."
                )

    def __call__(self, env: gym.Env, task: Task) -> None:
        for name, value in self.values(env, task).items():
            setattr(env, name, value)

    def verify(self, env: gym.Env, task: Task) -> None:
        """
        Check that ``reset`` kept the task.

        :param env: The base environment
        :param task: The task
        :raises RuntimeError: When an attribute has another value
        """
        for name, value in self.values(env, task).items():
            if not np.array_equal(getattr(env, name), value):
                raise RuntimeError(
                    f"`set_task` names {name!r}, which `reset` of {type(env).__name__} overwrites: use something that `reset` "
                    "keeps, such as a callable that changes what `reset` reads."
                )

    def values(self, env: gym.Env, task: Task) -> dict[str, Any]:
        """
        Compute the values of the attributes for a task.

        :param env: The base environment
        :param task: The task
        :return: The values by name, each a number or an array like its attribute
        :raises ValueError: When the number or the shape of the attributes does not fit the task
        """
        parts = [task] if len(self.names) == 1 else np.ravel(np.asarray(task)).tolist()
        if len(parts) != len(self.names):
            raise ValueError(f"`set_task` must name {len(parts)} attributes, one per number of a task, got {self.names}.")
        return {name: self._like(getattr(env, name), name, part) for name, part in zip(self.names, parts, strict=True)}

    @staticmethod
    def _like(current: Any, name: str, value: Any) -> Any:
        if not isinstance(current, (Number, np.ndarray)):
            return value
        shape, array = np.asarray(current).shape, np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"`set_task` names {name!r}, a number or an array that cannot hold the task {shown(value)}.")
        if array.size != math.prod(shape):
            raise ValueError(f"`set_task` names {name!r} of shape {shape}, which cannot hold a task of shape {array.shape}.")
        return array.reshape(shape) if isinstance(current, np.ndarray) else array.item()


def labels_of(env: gym.Env, setter: Callable[[Any, Task], Any] | None) -> list[str] | None:
    """
    Find the labels of the numbers of a task.

    :param env: The environment, wrapped or not
    :param setter: The result of :func:`make_setter`
    :return: The names of the attributes, or the environment's own ``task_labels`` where it sets its own task; None if unknown
    """
    if isinstance(setter, Attributes):
        return list(setter.names)
    if setter is not None:
        return None
    # a wrapper with tasks of its own hides the labels of the environment's tasks
    owner = next((layer for layer in layers(env) if hasattr(layer, "set_task")), env.unwrapped)
    labels = getattr(owner, "task_labels", None)
    return None if labels is None else [str(label) for label in labels]


def find_tasks(
    env: gym.Env, task_space: Any, tasks: list[Task] | None, set_task: SetTask | None
) -> tuple[Sampler | None, spaces.Space | None]:
    """
    Find the sampler and the space of tasks.

    :param env: The environment
    :param task_space: The space of tasks passed by the user
    :param tasks: The list of tasks passed by the user
    :param set_task: The setter passed by the user
    :return: The environment's own sampler, or ``None`` if unused, and the space of tasks, passed or the environment's own
    :raises TypeError: When ``task_space`` is not a space, or a method of the environment takes other arguments
    :raises ValueError: When there are no tasks, or no way to set one
    """
    if task_space is not None and not isinstance(task_space, spaces.Space):
        raise TypeError(f"`task_space` must be a gymnasium space, got {shown(task_space)}.")
    given = task_space is not None or tasks is not None
    sampler, own_space = own_attribute(env, "sample_tasks"), own_attribute(env, "task_space")
    # tasks and set_task of the user may be of another kind than the environment's own space
    if task_space is None and isinstance(own_space, spaces.Space) and (tasks is None or set_task is None):
        task_space = own_space
    has_tasks = tasks is not None or task_space is not None or callable(sampler)
    if not has_tasks or (set_task is None and not callable(own_attribute(env, "set_task"))):
        raise ValueError(
            f"`env` has no tasks, or no way to set one: pass TaskDistEnv(env, tasks=<a list> or task_space=<a space>, "
            f"set_task=<a callable or attribute names>), or give {env} methods `sample_tasks(n, rng)` and `set_task(task)`."
        )
    if set_task is None:
        check_takes("`set_task` of the environment", own_attribute(env, "set_task"), "task")
    if given or not callable(sampler):
        return None, task_space
    check_takes("`sample_tasks` of the environment", sampler, "n", "rng")
    return sampler, task_space


def make_setter(env: gym.Env, set_task: SetTask | None) -> Callable[[Any, Task], Any] | None:
    """
    Build the function that sets a task.

    :param env: The environment, wrapped or not
    :param set_task: A callable, or the names of attributes
    :return: A callable that takes the base environment and a task, or ``None`` when the environment sets its own task
    :raises TypeError: When ``set_task`` is neither, or the callable takes other arguments
    :raises ValueError: When the base environment has no such attribute
    """
    if set_task is None:
        return None
    if callable(set_task):
        check_takes("`set_task`", set_task, "base_env", "task")
        return set_task
    if not isinstance(set_task, Sequence):
        raise TypeError(f"`set_task` must be a callable (base_env, task) or the names of attributes, got {shown(set_task)}.")
    return Attributes([set_task] if isinstance(set_task, str) else list(set_task), env)


def check_takes(name: str, function: Callable[..., Any], *arguments: str) -> None:
    """
    Check that a function can be called with the given arguments.

    :param name: The name of the function in an error
    :param function: A function or method of the user
    :param arguments: The names of the positional arguments
    :raises TypeError: When the function takes another number of arguments
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions outside Python have no signature
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        raise TypeError(f"{name} must take the arguments ({', '.join(arguments)}), but takes {signature}.") from None


def read_tasks(name: str, tasks: Any) -> list[Task] | None:
    """
    Read an argument that holds a list of tasks.

    :param name: The name of the argument
    :param tasks: The value of the argument
    :return: The list of tasks, or ``None`` when ``tasks`` is ``None``
    :raises TypeError: When ``tasks`` is not a list
    """
    if tasks is None:
        return None
    no_list = isinstance(tasks, (str, bytes, spaces.Space)) or getattr(tasks, "shape", None) == ()
    if no_list or not isinstance(tasks, Iterable):
        advice = ": pass a space of tasks as `task_space`" if isinstance(tasks, spaces.Space) else ""
        raise TypeError(f"`{name}` must be a list of tasks, got {shown(tasks)}{advice}.")
    return list(tasks)


def own_attribute(env: gym.Env, name: str) -> Any:
    """
    Read an attribute of an environment or of one of its wrappers.

    :param env: The environment
    :param name: The name of the attribute
    :return: The value, or ``None`` when the attribute does not exist
    """
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None


def make_env(env: Any, env_kwargs: dict[str, Any]) -> gym.Env:
    """
    Make an environment.

    :param env: An environment, a registered id, its specification, or a callable that returns an environment
    :param env_kwargs: The keyword arguments of the id or the callable
    :return: The environment
    :raises TypeError: When ``env`` gives no environment, or is an existing one that takes no arguments
    :raises ValueError: When no environment has this id
    """
    if isinstance(env, gym.Env):
        if env_kwargs:
            names = ", ".join(f"`{name}`" for name in env_kwargs)
            raise TypeError(f"{names} cannot be passed to an existing environment: pass an id or a callable as `env`.")
        made = env
    elif isinstance(env, (str, EnvSpec)):
        try:
            made = gym.make(env, **env_kwargs)
        except gym.error.Error as error:
            if isinstance(error, gym.error.DependencyNotInstalled):
                raise
            text = " ".join(str(error).split()).rstrip(".")
            raise ValueError(f"`env` must be a registered id, got {shown(env)}: {text}.") from error
    elif callable(env):
        made = env(**env_kwargs)
    else:
        raise TypeError(
            f"`env` must be a gymnasium.Env, a registered id, a callable that returns one, or a list, got {shown(env)}."
        )
    if not isinstance(made, gym.Env):
        raise TypeError(f"`env` must return a gymnasium.Env when called, got {shown(made)}.")
    return made


def make_members(envs: Sequence[Any], env_kwargs: dict[str, Any]) -> list[gym.Env]:
    """
    Make the environments of a list.

    :param envs: The environments, one per task, each as in :func:`make_env`
    :param env_kwargs: The keyword arguments for all of them
    :return: The environments
    :raises ValueError: When the list is empty, contains one environment twice, or their spaces differ
    """
    if not envs:
        raise ValueError("`env` must not be an empty list: pass one environment per task.")
    members = [make_env(env, env_kwargs) for env in envs]
    if len({id(env.unwrapped) for env in members}) < len(members):
        raise ValueError(
            "All environments of the list `env` must be different objects, but the list contains one of them twice."
        )
    for i, env in enumerate(members):
        for name in ("observation_space", "action_space"):
            if getattr(env, name) != getattr(members[0], name):
                raise ValueError(
                    f"All environments of the list `env` must have the same spaces, but {name} of environment {i} is "
                    f"{getattr(env, name)} and {name} of environment 0 is {getattr(members[0], name)}."
                )
    return members


def time_limit(env: gym.Env) -> int | None:
    """
    Find the time limit of an environment.

    :param env: The environment
    :return: The number of steps after which an episode is truncated, or ``None`` when no limit is known
    """
    limits = [env.spec.max_episode_steps if env.spec is not None else None]
    # Read the attribute instead of checking the class, because RL Zoo replaces the class TimeLimit.
    limits += [getattr(layer, "_max_episode_steps", None) for layer in layers(env) if isinstance(layer, gym.Wrapper)]
    return min((limit for limit in limits if limit is not None), default=None)

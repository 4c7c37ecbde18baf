"""Workers to adapt in: made, checked against the model, and closed again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_sgmrl.common.engines import as_task_vec_env
from sb3_sgmrl.common.sampling import check_task_workers, find_horizon
from sb3_sgmrl.common.vec_tasks import TaskVecEnv

if TYPE_CHECKING:
    from sb3_sgmrl.common.meta_model import MetaModel


def make_task_env(env: GymEnv | str, n_columns: int | None = None) -> VecEnv:
    """
    Workers to adapt in, before the model is known.

    :param env: as for the algorithms
    :param n_columns: episodes that can be played side by side
    :return: a VecEnv as it was given, or a new one, to be closed by :func:`close_task_env`
    :raises ValueError: for an environment without tasks or without time limit
    """
    vec_env = as_task_vec_env(env, n_columns=n_columns)
    try:
        check_task_workers(vec_env)
        find_horizon(vec_env)
    except ValueError:
        close_task_env(vec_env, env)
        raise
    return vec_env


def close_task_env(vec_env: VecEnv, env: GymEnv | str) -> None:
    """
    Close what :func:`make_task_env` made of ``env``, and nothing that was there before.

    :param vec_env: what it returned
    :param env: what it was given
    """
    if vec_env is not env:
        # the template of a batched family is the environment that was given
        (vec_env.vector_env if isinstance(vec_env, TaskVecEnv) else vec_env).close()


def fit_to_model(model: MetaModel, vec_env: VecEnv) -> VecEnv:
    """
    :param model: a model
    :param vec_env: workers that take tasks
    :return: the same in the wrapper for images that the model needs
    :raises ValueError: when its spaces are not those of the model, or observations, or rewards where they matter, are
        normalised in one of the two only
    """
    vec_env = model._wrap_env(vec_env)
    for name in ("observation_space", "action_space"):
        wanted, found = getattr(model, name), getattr(vec_env, name)
        if wanted != found:
            raise ValueError(f"`env` must have the {name} of the model, {_one_line(wanted)}, but has {_one_line(found)}.")
    training, here = model.get_vec_normalize_env(), unwrap_vec_normalize(vec_env)
    if training is not None and (here is None or here.norm_obs != training.norm_obs):
        raise ValueError(
            "`env` must be in a VecNormalize as the environment of the model is, with the same norm_obs: the policy does not "
            "know observations that are not normalised as in training."
        )
    scale_matters = not model.normalize_advantage or model.baseline == "critic"
    if model.env is not None and scale_matters and _normalizes_rewards(training) != _normalizes_rewards(here):
        raise ValueError(
            "`env` must have the norm_reward of the model's environment: with normalize_advantage=False or baseline='critic' "
            "an inner step depends on the scale of rewards."
        )
    return vec_env


def _normalizes_rewards(normalizer: VecNormalize | None) -> bool:
    return normalizer is not None and normalizer.norm_reward


def _one_line(space: Any) -> str:
    return " ".join(str(space).split())


@contextmanager
def env_to_adapt_in(model: MetaModel, env: GymEnv | str | None, n_columns: int | None = None) -> Iterator[VecEnv]:
    """
    Workers to adapt the model in, for a ``with`` statement. At its end those are closed that were made for it.

    :param model: a model
    :param env: as for the algorithms; the model's environment when None
    :param n_columns: episodes that can be played side by side
    :return: workers that take tasks, with the spaces and the normalisation of the model
    :raises ValueError: for an environment without tasks or time limit, with other spaces, or not normalised as in training
    """
    env = model.env if env is None else env
    if env is None:
        raise ValueError("`env` is missing, and the model has no environment of its own.")
    vec_env = make_task_env(env, n_columns)
    try:
        yield fit_to_model(model, vec_env)
    finally:
        close_task_env(vec_env, env)

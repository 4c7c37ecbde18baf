"""Errors a person can cause, raised before anything is sampled."""

from __future__ import annotations

import inspect
import math
import os
import warnings
from dataclasses import fields
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_sgmrl.gradient.advantages import AdvantageSettings
from sb3_sgmrl.gradient.inner import INNER_SURROGATES
from sb3_sgmrl.score_terms.control_variates import CONTROL_VARIATES, FIRST_ORDER, LEAVE_ONE_OUT
from sb3_sgmrl.util.validation import check_choice, check_positive, is_number, is_positive_and_finite


def argument_names(algorithm: type[BaseAlgorithm]) -> set[str]:
    """
    :param algorithm: a class of algorithms
    :return: names of the arguments of its constructor, also of those that it passes on to the constructors it inherits
    """
    classes = algorithm.__mro__[: algorithm.__mro__.index(BaseAlgorithm)]
    constructors = [vars(cls)["__init__"] for cls in classes if "__init__" in vars(cls)]
    names = {name for constructor in constructors for name in inspect.signature(constructor).parameters}
    return names - {"self", "args", "kwargs", "_init_setup_model"}


def check_arguments(model: Any) -> None:
    """
    :param model: an algorithm whose constructor arguments are set as attributes
    :raises ValueError: for the first argument outside its range
    """
    outer = model.n_episodes if model.n_outer_episodes is None else model.n_outer_episodes
    if model.n_threads is not None:
        check_positive(n_threads=model.n_threads)
    check_positive(
        meta_batch_size=model.meta_batch_size,
        n_episodes=model.n_episodes,
        n_outer_episodes=outer,
        n_inner_steps=model.n_inner_steps,
        vf_epochs=model.vf_epochs,
    )
    rate = model.learning_rate
    if not callable(rate) and not (is_number(rate) and math.isfinite(rate) and rate >= 0):
        raise ValueError(f"`learning_rate` must be a finite number that is not negative, or a function, got {rate!r}.")
    if not is_positive_and_finite(model.inner_lr):
        raise ValueError(f"`inner_lr` must be positive and finite, got {model.inner_lr!r}.")
    rate = model.inner_lr_learning_rate
    if rate is not None and not is_positive_and_finite(rate):
        raise ValueError(f"`inner_lr_learning_rate` must be positive and finite, or None for fixed step sizes, got {rate!r}.")
    if model.max_grad_norm is not None and not (is_number(model.max_grad_norm) and model.max_grad_norm > 0):
        raise ValueError(f"`max_grad_norm` must be positive, or None for no clipping, got {model.max_grad_norm!r}.")
    settings = tuple(setting.name for setting in fields(AdvantageSettings))
    for name in model.outer_advantage or {}:
        if name not in settings:
            raise ValueError(f"`outer_advantage` may hold {', '.join(settings)}, got {name!r}.")
    check_choice("inner_surrogate", model.inner_surrogate, INNER_SURROGATES)


def check_policy(policy_class: Any, policy_kwargs: dict[str, Any]) -> None:
    """
    :param policy_class: of the policy
    :param policy_kwargs: its further arguments
    :raises ValueError: for a policy that does not map an observation to a distribution of actions, or an optimiser that steps
        by itself
    """
    if not issubclass(policy_class, ActorCriticPolicy) or issubclass(policy_class, RecurrentActorCriticPolicy):
        raise ValueError(f"`policy` must be an ActorCriticPolicy that is not recurrent, got {policy_class.__name__}.")
    if policy_kwargs.get("use_sde"):
        raise ValueError("`policy_kwargs` must not ask for `use_sde`: noise that lasts for several steps has no score.")
    optimizer = policy_kwargs.get("optimizer_class")
    if isinstance(optimizer, type) and issubclass(optimizer, th.optim.LBFGS):
        raise ValueError("`policy_kwargs` must not hold the optimizer LBFGS, which evaluates the objective more than once.")


def check_memory(n_episodes: int, n_steps: int, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    :param n_episodes: episodes of a meta-iteration, all of which are kept until it ends
    :param n_steps: steps of the longest
    :param observation_space: of the environment
    :param action_space: of the environment
    :raises ValueError: when they are more than the machine has memory for
    """
    if not hasattr(os, "sysconf"):
        return
    parts = observation_space.spaces.values() if isinstance(observation_space, spaces.Dict) else [observation_space]
    per_step = sum(math.prod(part.shape or ()) * np.dtype(part.dtype).itemsize for part in parts)
    # an action, and a reward, a weight and a flag
    per_step += math.prod(action_space.shape or ()) * 4 + 8 + 8 + 1
    needed, there_is = n_episodes * n_steps * per_step, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there_is:
        raise ValueError(
            f"A meta-iteration would take {needed / 2**30:.0f} GiB and the machine has {there_is / 2**30:.0f}: "
            "`meta_batch_size`, `n_episodes` or the time limit of `env` must be smaller."
        )


def check_counted_once(inner_surrogate: str) -> None:
    """
    :param inner_surrogate: that of an algorithm with a score term
    :raises ValueError: when it counts what the score term counts
    """
    if inner_surrogate != "pathwise":
        raise ValueError(
            f"`inner_surrogate={inner_surrogate!r}` already holds the derivative of the sampling distribution, which "
            "the score term of formula (A) would count a second time: use `inner_surrogate='pathwise'`, or no score term "
            "(`score_coef=0`, or MAML)."
        )


def check_score_term(model: Any) -> None:
    """
    :param model: an algorithm with a score term whose constructor arguments are set as attributes
    :raises ValueError: for an argument outside its range, or that does not go together with a score term
    """
    check_choice("control_variate", model.control_variate, CONTROL_VARIATES)
    if model.score_coef != "auto" and not (is_number(model.score_coef) and 0 <= model.score_coef <= 1):
        raise ValueError(f"`score_coef` must lie in [0, 1] or be 'auto', got {model.score_coef!r}.")
    if not (is_number(model.score_gae_lambda) and 0 <= model.score_gae_lambda <= 1):
        raise ValueError(f"`score_gae_lambda` must lie in [0, 1], got {model.score_gae_lambda!r}.")
    if model.score_coef == 0:
        return
    check_counted_once(model.inner_surrogate)
    if model.control_variate_scaling and model.control_variate in FIRST_ORDER:
        raise ValueError(
            f"`control_variate_scaling` must be False with `control_variate={model.control_variate!r}`, which has no separate "
            "return to scale."
        )
    if model.control_variate in LEAVE_ONE_OUT and model.n_episodes < 2:
        raise ValueError(
            f"`n_episodes` must be at least 2 with `control_variate={model.control_variate!r}`, which leaves one episode out."
        )
    if model.control_variate == "leave_one_task_out" and model.meta_batch_size < 2:
        raise ValueError("`meta_batch_size` must be at least 2 with `control_variate='leave_one_task_out'`.")
    if model.first_order:
        warnings.warn(
            "`first_order=True` together with a score term is the most biased combination: the second-order term and the "
            "score term largely cancel, so keep both or neither.",
            stacklevel=5,
        )

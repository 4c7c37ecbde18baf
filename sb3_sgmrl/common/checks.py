"""Errors a person can cause, raised before anything is sampled."""

from __future__ import annotations

import math
import warnings
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

from sb3_sgmrl.common.advantages import AdvantageSettings
from sb3_sgmrl.common.control_variates import CONTROL_VARIATES, LEAVE_ONE_OUT
from sb3_sgmrl.common.inner import INNER_SURROGATES


def check_positive(**counts: Any) -> None:
    """
    :param counts: arguments by name
    :raises ValueError: for the first that is not a positive integer
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """
    :param name: of the argument
    :param value: what was given
    :param allowed: what may be given
    :raises ValueError: when it is none of them
    """
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real)


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
    if not (_is_number(model.inner_lr) and math.isfinite(model.inner_lr) and model.inner_lr > 0):
        raise ValueError(f"`inner_lr` must be positive and finite, got {model.inner_lr!r}.")
    if not (_is_number(model.score_coef) and 0 <= model.score_coef <= 1):
        raise ValueError(f"`score_coef` must lie in [0, 1], got {model.score_coef!r}.")
    if model.max_grad_norm is not None and not (_is_number(model.max_grad_norm) and model.max_grad_norm > 0):
        raise ValueError(f"`max_grad_norm` must be positive, or None for no clipping, got {model.max_grad_norm!r}.")
    settings = tuple(setting.name for setting in fields(AdvantageSettings))
    for name in model.outer_advantage or {}:
        if name not in settings:
            raise ValueError(f"`outer_advantage` may hold {', '.join(settings)}, got {name!r}.")
    check_choice("inner_surrogate", model.inner_surrogate, INNER_SURROGATES)
    check_choice("control_variate", model.control_variate, CONTROL_VARIATES)
    if model.score_coef == 0:
        return
    if model.inner_surrogate != "pathwise":
        raise ValueError(
            f"`inner_surrogate={model.inner_surrogate!r}` already holds the derivative of the sampling distribution, which "
            "the score term of formula (A) would count a second time: use `inner_surrogate='pathwise'` or `score_coef=0`."
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
            stacklevel=4,
        )

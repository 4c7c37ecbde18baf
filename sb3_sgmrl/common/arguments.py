"""
The table of constructor arguments, with their meaning, their values and their kind.

Docstrings, checks, hyperparameter files, TensorBoard and model cards read this table. A class of algorithms has its table as
``arguments``. A class with further arguments adds them to the table of its base class.
"""

from __future__ import annotations

import inspect
import math
import os
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_sgmrl.gradient.advantages import AdvantageSettings
from sb3_sgmrl.gradient.baselines import MANY_FEATURES, n_baseline_features
from sb3_sgmrl.gradient.inner import InnerSurrogateName
from sb3_sgmrl.gradient.step_sizes import StepSizeOwner
from sb3_sgmrl.util.validation import check_choice, check_positive, is_number, is_positive_and_finite

Algorithm = TypeVar("Algorithm", bound=type[BaseAlgorithm])
# the number of unknowns above which the linear baseline warns
_SLOW_BASELINE = 1500
# called with the name and the value; raises a ValueError
Check = Callable[[str, Any], None]
# ``learning`` affects results, ``playing`` only speed; ``run`` belongs to one run; ``model`` has no number or name
Kind = Literal["model", "learning", "playing", "log", "run"]


@dataclass(frozen=True)
class Argument:
    """
    A constructor argument.

    :param doc: The description, as after ``:param name:``
    :param check: The check, which raises a ValueError for a value outside the range; None accepts every value
    :param kind: The kind, see ``Kind``
    """

    doc: str
    check: Check | None = None
    kind: Kind = "learning"


def positive(name: str, value: Any) -> None:
    """
    Check that a value is a positive integer.

    :param name: The argument
    :param value: Its value
    :raises ValueError: When it is not a positive integer
    """
    check_positive(**{name: value})


def optional(check: Check) -> Check:
    """
    Make a check that also accepts None.

    :param check: The check of a value
    :return: The same check, which accepts None
    """

    def check_value(name: str, value: Any) -> None:
        if value is not None:
            check(name, value)

    return check_value


def one_of(choice: Any) -> Check:
    """
    Make a check that accepts the values of a ``Literal`` type only.

    :param choice: A ``Literal`` type
    :return: A check that raises a ValueError for values that are not in it
    """
    return lambda name, value: check_choice(name, value, get_args(choice))


def fraction(name: str, value: Any) -> None:
    """
    Check that a value is a number in [0, 1].

    :param name: The argument
    :param value: Its value
    :raises ValueError: When it is not a number in [0, 1]
    """
    if not (is_number(value) and 0 <= value <= 1):
        raise ValueError(f"`{name}` must lie in [0, 1], got {value!r}.")


def _learning_rate(name: str, value: Any) -> None:
    if not callable(value) and not (is_number(value) and math.isfinite(value) and value >= 0):
        raise ValueError(f"`{name}` must be a finite number of at least 0, or a function, got {value!r}.")


def _inner_lr(name: str, value: Any) -> None:
    if not is_positive_and_finite(value):
        raise ValueError(f"`{name}` must be positive and finite, got {value!r}.")


def _step_size_rate(name: str, value: Any) -> None:
    if not is_positive_and_finite(value):
        raise ValueError(f"`{name}` must be positive and finite, or None for fixed step sizes, got {value!r}.")


def _patterns(name: str, value: Any) -> None:
    patterns = [value] if isinstance(value, str) else value
    if not (isinstance(patterns, Sequence) and len(patterns) > 0 and all(isinstance(one, str) for one in patterns)):
        raise ValueError(f"`{name}` must be a pattern of parameter names, a list of them, or None for all, got {value!r}.")


def _max_norm(name: str, value: Any) -> None:
    if not (is_number(value) and value > 0):
        raise ValueError(f"`{name}` must be positive, or None for no clipping, got {value!r}.")


def _clip_range(name: str, value: Any) -> None:
    if not callable(value) and not is_positive_and_finite(value):
        raise ValueError(f"`{name}` must be positive and finite, or a function, got {value!r}.")


def _target_kl(name: str, value: Any) -> None:
    if not is_positive_and_finite(value):
        raise ValueError(f"`{name}` must be positive and finite, or None for no limit, got {value!r}.")


def _advantage_settings(name: str, value: Any) -> None:
    settings = tuple(setting.name for setting in fields(AdvantageSettings))
    for key in value:
        if key not in settings:
            raise ValueError(f"`{name}` must hold only {', '.join(settings)}, got {key!r}.")


ARGUMENTS: dict[str, Argument] = {
    "policy": Argument("The policy: ``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy`` or a class", kind="model"),
    "env": Argument(
        "The :class:`~sb3_sgmrl.TaskDistEnv`, a VecEnv of them, or the id of a registered task family", kind="model"
    ),
    "learning_rate": Argument(
        "The step size of the meta-optimiser: a number or a function of the remaining progress", _learning_rate
    ),
    "meta_batch_size": Argument("The number of tasks per meta-iteration", positive),
    "n_episodes": Argument("The number of episodes per task in each adaptation phase", positive),
    "n_outer_episodes": Argument(
        "The number of episodes per task of the adapted policy; ``n_episodes`` when None", optional(positive)
    ),
    "n_inner_steps": Argument("The number ζ of inner steps", positive),
    "inner_lr": Argument("The step size α of an inner step", _inner_lr),
    "inner_lr_learning_rate": Argument(
        "The rate at which step sizes are learned, all starting at ``inner_lr``. Adam follows "
        "the derivative of the post-adaptation return and moves each by up to this fraction of ``inner_lr`` per "
        "meta-iteration. Step sizes that would become negative become zero. None keeps the step sizes fixed",
        optional(_step_size_rate),
    ),
    "inner_lr_per": Argument(
        "The owner of a learned step size: ``tensor`` learns one for each parameter tensor, ``entry`` one for each of its "
        "entries, as in Meta-SGD",
        one_of(StepSizeOwner),
    ),
    "adapt_only": Argument(
        "The parameters that inner steps change: a pattern of their names, such as ``action_net*`` for the head alone "
        "(ANIL), or a list of patterns. The others are learned, but not adapted. None adapts all",
        optional(_patterns),
    ),
    "gamma": Argument("The discount factor"),
    "gae_lambda": Argument("The λ of generalised advantage estimation"),
    "baseline": Argument(
        "The baseline: ``linear`` (features of observation and time, fitted per task and phase), ``critic`` (the policy's "
        "value net, trained on all episodes) or ``none``"
    ),
    "normalize_advantage": Argument("Whether to normalise the advantages of each task and phase"),
    "discount_from": Argument(
        "The start of discounting: ``step`` discounts rewards-to-go from their step, as is customary; ``episode`` from the "
        "start of the episode, as in eq. (4) of the paper"
    ),
    "time_reduction": Argument(
        "The reduction over time: ``mean`` takes means over all steps; ``sum`` takes sums over the steps of an episode and "
        "means over episodes, as in the paper"
    ),
    "outer_advantage": Argument(
        "The settings of :class:`~sb3_sgmrl.gradient.advantages.AdvantageSettings` that differ in the outer surrogate",
        optional(_advantage_settings),
    ),
    "inner_surrogate": Argument("The inner surrogate: ``pathwise``, ``lvc`` or ``dice``", one_of(InnerSurrogateName)),
    "first_order": Argument("Whether to leave out second derivatives"),
    "max_grad_norm": Argument("The norm the meta-gradient is clipped at; None does not clip", optional(_max_norm)),
    "n_epochs": Argument(
        "The number of outer steps on the episodes of a meta-iteration; later steps follow a clipped local "
        "surrogate, see :class:`~sb3_sgmrl.outer_steps.clipped_epochs.ClippedEpochs`",
        positive,
    ),
    "clip_range": Argument(
        "The clip range ε of likelihood ratios, with ``n_epochs`` above 1: a number or a function of the remaining progress",
        _clip_range,
    ),
    "target_kl": Argument(
        "The KL divergence of the adapted policies at which the epochs end early, as in SB3's PPO; None sets no limit",
        optional(_target_kl),
    ),
    "vf_epochs": Argument(
        'The number of gradient steps on the value loss per meta-iteration, with ``baseline="critic"``', positive
    ),
    "n_envs": Argument("The number of workers made from a single environment; None chooses", kind="playing"),
    "engine": Argument(
        "The engine that plays a single environment: ``batched`` is the batched form of a registered family; ``in_process`` "
        "are clones in this process; ``subprocess`` are clones in one process per processor; ``auto`` takes the batched form "
        "where there is one, else clones in this process",
        kind="playing",
    ),
    "n_threads": Argument("The number of threads for gradients; None takes one per processor", optional(positive), "playing"),
    "stats_window_size": Argument("The number of episodes that the rollout statistics average over", kind="log"),
    "tensorboard_log": Argument("The folder of TensorBoard logs; None writes none", kind="run"),
    "policy_kwargs": Argument(
        "The further arguments of the policy; without ``ortho_init`` its layers start with Glorot-uniform weights and "
        "zero biases"
    ),
    "verbose": Argument("The verbosity: 0 no output, 1 info, 2 debug", kind="run"),
    "seed": Argument("The seed of everything random; None draws one", kind="run"),
    "device": Argument("The device of the policy", kind="run"),
    "_init_setup_model": Argument("Whether to build the network at construction", kind="run"),
}


def with_arguments(algorithm: Algorithm) -> Algorithm:
    """
    Complete the docstring of a class by the arguments of its constructor.

    :param algorithm: The class
    :return: The same class
    """
    table: Mapping[str, Argument] = algorithm.arguments  # type: ignore[attr-defined]
    texts = [f":param {name}: {table[name].doc}" for name in inspect.signature(algorithm).parameters]
    lines = [textwrap.fill(text, 120, subsequent_indent="    ", break_long_words=False) for text in texts]
    lines.append(":raises ValueError: When an argument is outside its range; the message names it")
    algorithm.__doc__ = "\n".join([inspect.cleandoc(algorithm.__doc__ or ""), "", *lines])
    return algorithm


def argument_names(algorithm: type[BaseAlgorithm], *kinds: Kind) -> set[str]:
    """
    List the constructor arguments of some kinds.

    :param algorithm: A class of algorithms
    :param kinds: The kinds to list; all kinds when none is given
    :return: The names of the arguments
    """
    table: Mapping[str, Argument] = algorithm.arguments  # type: ignore[attr-defined]
    return {name for name, argument in table.items() if not kinds or argument.kind in kinds} - {"_init_setup_model"}


def check_arguments(model: Any) -> None:
    """
    Check the values of all arguments.

    :param model: An algorithm whose constructor arguments are set as attributes
    :raises ValueError: When an argument is outside its range; the message names the first one
    """
    for name, argument in model.arguments.items():
        if argument.check is not None:
            argument.check(name, getattr(model, name))


def check_policy(policy_class: Any, policy_kwargs: dict[str, Any]) -> None:
    """
    Check that meta-learning supports a policy.

    :param policy_class: The class of the policy
    :param policy_kwargs: The further arguments of the policy
    :raises ValueError: When the policy is no ActorCriticPolicy, is recurrent or uses gSDE, or the optimiser is LBFGS
    """
    if not issubclass(policy_class, ActorCriticPolicy) or issubclass(policy_class, RecurrentActorCriticPolicy):
        raise ValueError(f"`policy` must be an ActorCriticPolicy that is not recurrent, got {policy_class.__name__}.")
    if policy_kwargs.get("use_sde"):
        raise ValueError("`policy_kwargs` must not set `use_sde`, because noise that lasts for several steps has no score.")
    optimizer = policy_kwargs.get("optimizer_class")
    if isinstance(optimizer, type) and issubclass(optimizer, th.optim.LBFGS):
        raise ValueError("`policy_kwargs` must not hold the optimizer LBFGS, which evaluates the objective more than once.")


def check_memory(n_episodes: int, n_steps: int, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    Check that a meta-iteration fits into memory.

    :param n_episodes: The number of episodes of a meta-iteration, which keeps all of them
    :param n_steps: The number of steps of the longest episode
    :param observation_space: The space of the environment
    :param action_space: The space of the environment
    :raises ValueError: When the episodes do not fit into the machine's memory
    """
    parts = observation_space.spaces.values() if isinstance(observation_space, spaces.Dict) else [observation_space]
    per_step = sum(math.prod(part.shape or ()) * np.dtype(part.dtype).itemsize for part in parts)
    # the bytes of an action, a reward, a weight and a flag
    per_step += math.prod(action_space.shape or ()) * 4 + 8 + 8 + 1
    _check_fits(
        "A meta-iteration", n_episodes * n_steps * per_step, "`meta_batch_size`, `n_episodes` or the time limit of `env`"
    )


def check_linear_baseline(n_episodes: int, n_steps: int, observation_space: spaces.Space) -> None:
    """
    Check that the linear baseline fits into memory, and warn when it is slow.

    :param n_episodes: The number of episodes of a task
    :param n_steps: The number of steps of the longest episode
    :param observation_space: The space of the environment
    :raises ValueError: When the matrices of a task do not fit into the machine's memory
    """
    n = n_baseline_features(observation_space)
    if n > MANY_FEATURES:
        n = min(n, n_episodes * n_steps)
    # the matrices of each episode, of all others, and of the solver
    _check_fits("`baseline='linear'`", 4 * n_episodes * n**2 * 8, "`n_episodes`, the time limit or the observations of `env`")
    if n > _SLOW_BASELINE:
        warnings.warn(
            f"`baseline='linear'` solves equations with {n} unknowns for each episode, which may take longer than the policy: "
            "use `baseline='critic'` to avoid this.",
            stacklevel=3,
        )


def _check_fits(what: str, needed: int, smaller: str) -> None:
    if not hasattr(os, "sysconf"):
        return
    there_is = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there_is:
        raise ValueError(
            f"{what} would take {needed / 2**30:.0f} GiB and the machine has {there_is / 2**30:.0f}: "
            f"{smaller} must be smaller."
        )

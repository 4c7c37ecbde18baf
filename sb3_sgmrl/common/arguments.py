"""
The table of constructor arguments, with their meaning, their values and their kind.

Docstrings, checks, hyperparameter files, TensorBoard and model cards read this table. A class of algorithms has its table as
``arguments``. A class with further arguments adds them to the table of its base class.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, get_args

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_sgmrl.gradient.advantages import AdvantageSettings, DiscountStart, TimeReduction
from sb3_sgmrl.gradient.baselines import BaselineName
from sb3_sgmrl.gradient.inner import InnerSurrogateName
from sb3_sgmrl.gradient.step_sizes import StepSizeOwner
from sb3_sgmrl.util.validation import (
    check_bool,
    check_choice,
    check_device,
    check_inner_steps,
    check_mapping,
    check_model_seed,
    check_names,
    check_path,
    check_positive,
    check_verbosity,
    is_number,
    is_positive_and_finite,
    shown,
)
from sb3_sgmrl.vec_env.engines import EngineName
from sb3_sgmrl.vec_env.normalization import NormalizerUpdate

Algorithm = TypeVar("Algorithm", bound=type[BaseAlgorithm])
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
    :param instead: What to do instead of setting the attribute of a finished model; None when setting it has an effect
    :param earlier: The value in files of versions without the argument; None for the default
    """

    doc: str
    check: Check | None = None
    kind: Kind = "learning"
    instead: str | None = None
    earlier: Any = None


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
        raise ValueError(f"`{name}` must lie in [0, 1], got {shown(value)}.")


def scheduled(check: Check, at_beginning: Check | None = None) -> Check:
    """
    Make a check that also accepts a function of the remaining progress.

    :param check: The check of a value
    :param at_beginning: The check of a function's value at the beginning; the same as of a value when None
    :return: The check of a value or a function
    """

    def check_value(name: str, value: Any) -> None:
        if not callable(value):
            return check(name, value)
        try:
            first = value(1.0)
        except Exception as error:
            raise ValueError(
                f"`{name}` must be a number, or a function of the remaining progress, got {shown(value)}: {error}."
            ) from error
        (at_beginning or check)(f"{name}(1.0)", first)

    return check_value


def _not_negative(name: str, value: Any) -> None:
    if not (is_number(value) and math.isfinite(value) and value >= 0):
        raise ValueError(f"`{name}` must be a finite number of at least 0, or a function, got {shown(value)}.")


def _inner_lr(name: str, value: Any) -> None:
    if not is_positive_and_finite(value):
        raise ValueError(f"`{name}` must be positive and finite, got {shown(value)}.")


def _step_size_rate(name: str, value: Any) -> None:
    if not is_positive_and_finite(value):
        raise ValueError(f"`{name}` must be positive and finite, or None for fixed step sizes, got {shown(value)}.")


def _patterns(name: str, value: Any) -> None:
    patterns = [value] if isinstance(value, str) else value
    if not (isinstance(patterns, Sequence) and len(patterns) > 0 and all(isinstance(one, str) for one in patterns)):
        raise ValueError(
            f"`{name}` must be a pattern of parameter names, a list of them, or None for all, got {shown(value)}."
        )


def _max_norm(name: str, value: Any) -> None:
    if not (is_number(value) and value > 0):
        raise ValueError(f"`{name}` must be positive, or None for no clipping, got {shown(value)}.")


def _clip_range(name: str, value: Any) -> None:
    if not is_positive_and_finite(value):
        raise ValueError(f"`{name}` must be positive and finite, or a function, got {shown(value)}.")


def _target_kl(name: str, value: Any) -> None:
    if not is_positive_and_finite(value):
        raise ValueError(f"`{name}` must be positive and finite, or None for no limit, got {shown(value)}.")


def _advantage_settings(name: str, value: Any) -> None:
    check_mapping(name, value)
    settings = tuple(setting.name for setting in fields(AdvantageSettings))
    for key in value:
        if key not in settings:
            raise ValueError(f"`{name}` must hold only {', '.join(settings)}, got {key!r}.")
    check_bool(f"{name}['normalize']", value.get("normalize", True))


# what to do instead of setting an attribute
_NEW_MODEL, _OTHER_WORKERS = "make a new model", "pass a VecEnv to set_env"
ARGUMENTS: dict[str, Argument] = {
    "policy": Argument("The policy: ``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy`` or a class", kind="model"),
    "env": Argument(
        "The :class:`~sb3_sgmrl.TaskDistEnv`, a VecEnv of them, or the id of a registered task family", kind="model"
    ),
    "learning_rate": Argument(
        "The step size of the meta-optimiser: a number or a function of the remaining progress", scheduled(_not_negative)
    ),
    "meta_batch_size": Argument("The number of tasks per meta-iteration", positive),
    "n_episodes": Argument("The number of episodes per task in each adaptation phase", positive),
    "n_outer_episodes": Argument(
        "The number of episodes per task of the adapted policy; ``n_episodes`` when None", optional(positive)
    ),
    "n_inner_steps": Argument("The number ζ of inner steps", check_inner_steps),
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
    "gamma": Argument("The discount factor", fraction),
    "gae_lambda": Argument("The λ of generalised advantage estimation", fraction),
    "baseline": Argument(
        "The baseline: ``linear`` (features of observation and time, fitted per task and phase), ``critic`` (the policy's "
        "value net, trained on all episodes) or ``none``",
        one_of(BaselineName),
    ),
    "normalize_advantage": Argument("Whether to normalise the advantages of each task and phase", check_bool),
    "discount_from": Argument(
        "The start of discounting: ``step`` discounts rewards-to-go from their step, as is customary; ``episode`` from the "
        "start of the episode, as in eq. (4) of the paper",
        one_of(DiscountStart),
    ),
    "time_reduction": Argument(
        "The reduction over time: ``mean`` takes means over all steps; ``sum`` takes sums over the steps of an episode and "
        "means over episodes, as in the paper",
        one_of(TimeReduction),
    ),
    "outer_advantage": Argument(
        "The settings of :class:`~sb3_sgmrl.gradient.advantages.AdvantageSettings` that differ in the outer surrogate",
        optional(_advantage_settings),
    ),
    "inner_surrogate": Argument("The inner surrogate: ``pathwise``, ``lvc`` or ``dice``", one_of(InnerSurrogateName)),
    "first_order": Argument("Whether to leave out second derivatives", check_bool),
    "max_grad_norm": Argument("The norm the meta-gradient is clipped at; None does not clip", optional(_max_norm)),
    "n_epochs": Argument(
        "The number of outer steps on the episodes of a meta-iteration; later steps follow a clipped local "
        "surrogate, see :class:`~sb3_sgmrl.outer_steps.clipped_epochs.ClippedEpochs`",
        positive,
        earlier=1,
    ),
    "clip_range": Argument(
        "The clip range ε of likelihood ratios, with ``n_epochs`` above 1: a number or a function of the remaining progress",
        # RL Zoo's enjoy loads models with functions that are zero, as it trains nothing
        scheduled(_clip_range, _not_negative),
    ),
    "target_kl": Argument(
        "The KL divergence of the adapted policies at which the epochs end early, as in SB3's PPO; None sets no limit",
        optional(_target_kl),
    ),
    "vf_epochs": Argument(
        'The number of gradient steps on the value loss per meta-iteration, with ``baseline="critic"``', positive
    ),
    "normalizer_update": Argument(
        "When a VecNormalize of ``env`` learns: after every ``step``, as in SB3, or after every ``phase`` from all of its "
        "episodes in the order of the tasks. With ``phase``, results depend neither on the number of workers nor on that of "
        "processes, and torchrun needs it",
        one_of(NormalizerUpdate),
    ),
    "n_envs": Argument(
        "The number of workers made from a single environment; None chooses", optional(positive), "playing", _OTHER_WORKERS
    ),
    "engine": Argument(
        "The engine that plays a single environment: ``batched`` is the batched form of a registered family; ``in_process`` "
        "are clones in this process; ``subprocess`` are clones in one process per processor; ``auto`` takes the batched form "
        "where there is one, else clones in this process",
        one_of(EngineName),
        "playing",
        _OTHER_WORKERS,
    ),
    "n_threads": Argument("The number of threads for gradients; None takes one per processor", optional(positive), "playing"),
    "stats_window_size": Argument(
        "The number of episodes that the rollout statistics average over", positive, "log", _NEW_MODEL
    ),
    "tensorboard_log": Argument("The folder of TensorBoard logs; None writes none", optional(check_path), "run"),
    "policy_kwargs": Argument(
        "The further arguments of the policy; without ``ortho_init`` its layers start with Glorot-uniform weights and "
        "zero biases",
        optional(check_mapping),
        instead=_NEW_MODEL,
    ),
    "verbose": Argument("The verbosity: 0 no output, 1 info, 2 debug", check_verbosity, "run"),
    "seed": Argument(
        "The seed of everything random; None draws one", optional(check_model_seed), "run", "call set_random_seed(seed)"
    ),
    "device": Argument("The device of the policy", check_device, "run", "pass it to load"),
    "_init_setup_model": Argument("Whether to build the network at construction", check_bool, "run"),
}


def with_arguments(algorithm: Algorithm) -> Algorithm:
    """
    Complete the docstring of a class by the arguments of its constructor, which then refuses other names.

    :param algorithm: The class
    :return: The same class
    """
    table: Mapping[str, Argument] = algorithm.arguments  # type: ignore[attr-defined]
    texts = [f":param {name}: {table[name].doc}" for name in inspect.signature(algorithm).parameters]
    lines = [textwrap.fill(text, 120, subsequent_indent="    ", break_long_words=False) for text in texts]
    lines.append(":raises ValueError: When an argument is outside its range; the message names it")
    algorithm.__doc__ = "\n".join([inspect.cleandoc(algorithm.__doc__ or ""), "", *lines])
    if "__init__" in vars(algorithm):
        algorithm.__init__ = _with_known_names(algorithm.__init__)  # type: ignore[method-assign]
    return algorithm


def _with_known_names(init: Callable[..., None]) -> Callable[..., None]:
    known = list(inspect.signature(init).parameters)[1:]

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            check_names(kwargs, known, f"is not an argument of {type(self).__name__}")
        except ValueError as error:
            raise TypeError(str(error)) from None
        init(self, *args, **kwargs)

    return checked


def argument_names(algorithm: type[BaseAlgorithm], *kinds: Kind) -> set[str]:
    """
    List the constructor arguments of some kinds.

    :param algorithm: A class of algorithms
    :param kinds: The kinds to list; all kinds when none is given
    :return: The names of the arguments
    """
    table: Mapping[str, Argument] = algorithm.arguments  # type: ignore[attr-defined]
    return {name for name, argument in table.items() if not kinds or argument.kind in kinds} - {"_init_setup_model"}


def check_arguments(arguments: Mapping[str, Argument], values: Mapping[str, Any]) -> None:
    """
    Check the values of arguments.

    :param arguments: The table of arguments
    :param values: The values by name; arguments that are missing here are not checked
    :raises ValueError: When an argument is outside its range; the message names the first one
    """
    for name, argument in arguments.items():
        if argument.check is not None and name in values:
            argument.check(name, values[name])


def check_change(arguments: Mapping[str, Argument], name: str, value: Any, is_new: bool = False) -> None:
    """
    Check an attribute of a finished model before it is set.

    :param arguments: The table of arguments
    :param name: The name of the attribute, which may be none of the arguments
    :param value: Its new value
    :param is_new: Whether the model has no such attribute
    :raises ValueError: When the value is outside the range of the argument, or would have no effect, also because the name of
        the argument is misspelt
    """
    argument = arguments.get(name)
    if is_new and argument is None and (close := difflib.get_close_matches(name, arguments, n=1, cutoff=0.85)):
        raise ValueError(f"`{name}` is no attribute of a model: did you mean `{close[0]}`?")
    if argument is None:
        return
    if argument.instead is not None:
        raise ValueError(f"`{name}` cannot be changed after construction, got {shown(value)}: {argument.instead} instead.")
    check_arguments({name: argument}, {name: value})

"""Check the arguments ``policy`` and ``policy_kwargs``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN

from sb3_sgmrl.util.validation import check_bool, check_names, shown


def check_policy_name(policy: Any, known: Mapping[str, Any]) -> None:
    """
    Check the argument ``policy``.

    :param policy: Its value
    :param known: The classes by name
    :raises ValueError: When it is neither a class nor a known name
    """
    if not isinstance(policy, type) and not (isinstance(policy, str) and policy in known):
        raise ValueError(f"`policy` must be one of {', '.join(known)}, or a class, got {shown(policy)}.")


def check_policy(policy_class: Any, policy_kwargs: dict[str, Any], observation_space: spaces.Space) -> None:
    """
    Check that meta-learning supports a policy, and that the policy can read the observations.

    :param policy_class: The class of the policy
    :param policy_kwargs: The further arguments of the policy
    :param observation_space: The space of the environment
    :raises ValueError: When the policy is no ActorCriticPolicy, is recurrent, uses gSDE or cannot read the observations, an
        argument is unknown or no bool, or the optimiser is LBFGS
    """
    if not issubclass(policy_class, ActorCriticPolicy) or issubclass(policy_class, RecurrentActorCriticPolicy):
        raise ValueError(f"`policy` must be an ActorCriticPolicy that is not recurrent, got {policy_class.__name__}.")
    _check_reads(policy_class, policy_kwargs, observation_space)
    if policy_kwargs.get("use_sde"):
        raise ValueError("`policy_kwargs` must not set `use_sde`, because noise that lasts for several steps has no score.")
    optimizer = policy_kwargs.get("optimizer_class")
    if isinstance(optimizer, type) and issubclass(optimizer, th.optim.LBFGS):
        raise ValueError("`policy_kwargs` must not hold the optimizer LBFGS, which evaluates the objective more than once.")
    known = _policy_arguments(policy_class)
    if known is None:
        return
    check_names(policy_kwargs, known, f"of `policy_kwargs` is not an argument of {policy_class.__name__}")
    for name, value in policy_kwargs.items():
        if known[name].annotation in (bool, "bool"):
            check_bool(f"policy_kwargs['{name}']", value)


def _check_reads(
    policy_class: type[ActorCriticPolicy], policy_kwargs: dict[str, Any], observation_space: spaces.Space
) -> None:
    arguments = {name: one.default for name, one in inspect.signature(policy_class).parameters.items()} | policy_kwargs
    extractor = arguments.get("features_extractor_class")
    given = " ".join(str(observation_space).split())
    if extractor is CombinedExtractor and not isinstance(observation_space, spaces.Dict):
        raise ValueError(
            f"`policy` must be MlpPolicy, or CnnPolicy for images, because the observations are no Dict, got {given}."
        )
    normalized = not arguments.get("normalize_images", True)
    if extractor is NatureCNN and not is_image_space(observation_space, normalized_image=normalized):
        raise ValueError(
            f"`policy` must be MlpPolicy, because the observations are no images such as uint8 from 0 to 255, got {given}."
        )


def _policy_arguments(policy_class: type) -> dict[str, inspect.Parameter] | None:
    """List the arguments of a policy; None when it takes any."""
    found: dict[str, inspect.Parameter] = {}
    for cls in policy_class.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)["__init__"]).parameters
        found = {**parameters, **found}
        if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            return {name: found[name] for name in set(found) - {"self", "observation_space", "action_space", "lr_schedule"}}
    return None

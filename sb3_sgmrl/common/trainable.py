"""Checks that the current policy has everything that training needs."""

from __future__ import annotations

from typing import Any

from sb3_sgmrl.policies.functional import FunctionalPolicy
from sb3_sgmrl.util.user_warnings import warn_user


def check_derivatives(model: Any, policy: FunctionalPolicy) -> None:
    """
    Check that the policy has the derivatives that training needs.

    :param model: The algorithm, with its constructor arguments as attributes
    :param policy: The policy as a function
    :raises ValueError: When the algorithm needs second derivatives that the policy does not have
    """
    if policy.not_twice is not None and not (model.first_order and model.score_term is None):
        raise ValueError(
            f"`policy` has no second derivatives ({policy.not_twice}): use other modules, or `first_order=True` without a "
            "score term."
        )


def warn_of_shared_critic(model: Any, policy: FunctionalPolicy) -> None:
    """
    Warn when the critic shares adapted parameters with the actor.

    :param model: The algorithm, with its constructor arguments as attributes
    :param policy: The policy as a function
    """
    if model.objective.inner.predictor.needs_critic and policy.shared_with_critic:
        warn_user(
            "`baseline='critic'` biases every meta-gradient when actor and critic share a features extractor, because the "
            "values then depend on the adapted parameters: pass `policy_kwargs={'share_features_extractor': False}`.",
        )


def check_trainable(model: Any, policy: FunctionalPolicy) -> None:
    """
    Check that training reaches every parameter that it needs.

    :param model: The algorithm, with its constructor arguments as attributes
    :param policy: The policy as a function
    :raises ValueError: When a parameter of the actor, or of a critic that the algorithm uses, cannot be trained
    """
    check_derivatives(model, policy)
    if model.step_sizes is not None:
        unknown = [name for name in model.names_to_adapt if name not in model.step_sizes.names]
        if unknown:
            raise ValueError(
                f"`inner_lr_learning_rate` has no step size for {unknown[0]}, which was not adapted when the model was made."
            )
    optimizer = policy.policy.optimizer
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in policy.policy.named_parameters():
        needed = name in policy.adapted_names or model.objective.needs_critic
        if needed and parameter.requires_grad and id(parameter) not in held:
            raise ValueError(
                f"`policy.optimizer` does not hold {name}, which would not be trained: make a new optimizer of "
                "policy.parameters(), or freeze the parameter with requires_grad=False."
            )

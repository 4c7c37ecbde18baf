"""Export of adapted policies to SB3's own algorithms."""

from __future__ import annotations

from typing import Any, TypeVar

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv

from sb3_sgmrl.policies.structure import layers

SelfOnPolicyAlgorithm = TypeVar("SelfOnPolicyAlgorithm", bound=OnPolicyAlgorithm)

# the arguments that an algorithm passes to its policy itself
_OF_THE_ALGORITHM = {"observation_space", "action_space", "lr_schedule", "use_sde"}


def to_sb3(
    policy: ActorCriticPolicy, env: GymEnv | str, algorithm: type[SelfOnPolicyAlgorithm], **kwargs: Any
) -> SelfOnPolicyAlgorithm:
    """
    Copy a policy into an on-policy algorithm of SB3, to continue training in one environment.

    The environment may have the task that the policy was adapted to. The copy has the same actor and value net. Only
    ``baseline="critic"`` trains the value net, on all tasks. With other baselines it keeps its initial values, and the new
    algorithm trains it from scratch. The state of the optimiser is not copied.

    :param policy: The policy that :meth:`~sb3_sgmrl.common.base_class.MetaModel.adapt` returned
    :param env: The environment to train in; ``set_task`` pins its task
    :param algorithm: ``PPO``, ``A2C``, or another on-policy algorithm with an ``ActorCriticPolicy``
    :param kwargs: The further arguments of the algorithm, such as ``learning_rate`` or ``seed``
    :return: The model of this algorithm, not yet trained further
    :raises ValueError: When the policy, the algorithm or the spaces do not fit, ``policy_kwargs`` is given, or layers were
        changed after construction
    """
    if not isinstance(policy, ActorCriticPolicy):
        raise ValueError(f"`policy` must be an ActorCriticPolicy, as `adapt` returns it, got {type(policy).__name__}.")
    if not (isinstance(algorithm, type) and issubclass(algorithm, OnPolicyAlgorithm)):
        raise ValueError(f"`algorithm` must be an on-policy algorithm of SB3, such as PPO or A2C, got {algorithm!r}.")
    if "policy_kwargs" in kwargs:
        raise ValueError("`policy_kwargs` must be left out, because `policy` determines them.")
    parameters = policy._get_constructor_parameters()
    policy_kwargs = {name: value for name, value in parameters.items() if name not in _OF_THE_ALGORITHM}
    model = algorithm(type(policy), env, policy_kwargs=policy_kwargs, **kwargs)  # type: ignore[call-arg]
    for name in ("observation_space", "action_space"):
        wanted, found = getattr(policy, name), getattr(model, name)
        if wanted != found:
            raise ValueError(f"`env` must have the {name} of `policy`, {wanted}, but has {found}.")
    missing = set(layers(policy)).symmetric_difference(layers(model.policy))
    if missing:
        raise ValueError(
            f"`policy` was changed after it was made ({min(missing)}), beyond its `policy_kwargs`: change the policy of a "
            f"new {algorithm.__name__} in the same way."
        )
    model.policy.load_state_dict(policy.state_dict())
    for parameter, own in zip(model.policy.parameters(), policy.parameters(), strict=True):
        parameter.requires_grad_(own.requires_grad)
    return model

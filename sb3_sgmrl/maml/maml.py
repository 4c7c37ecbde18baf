from __future__ import annotations

from typing import Any, TypeVar

from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback

from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm

SelfMAML = TypeVar("SelfMAML", bound="MAML")


class MAML(MetaOnPolicyAlgorithm):
    """
    Model-Agnostic Meta-Learning for reinforcement learning with one policy-gradient step of the meta-optimiser per iteration.

    Differentiates through the inner step with its episodes held fixed and leaves out how θ shapes them, so its gradient is
    biased for the return after adaptation by sampled gradients; see :class:`~sb3_sgmrl.SGMRL`. ``first_order=True`` gives
    FO-MAML. Paper: https://arxiv.org/abs/1703.03400 (Finn, Abbeel, Levine 2017).

    :param policy: the policy, ``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy`` or a class
    :param env: a :class:`~sb3_sgmrl.TaskDistEnv`, a VecEnv of them, or the id of a registered task family
    :param kwargs: as for :class:`~sb3_sgmrl.common.meta_algorithm.MetaOnPolicyAlgorithm`, but without the score term
    """

    def __init__(self, policy: str | type[ActorCriticPolicy], env: GymEnv | str | None, **kwargs: Any) -> None:
        super().__init__(policy, env, score_coef=0.0, **kwargs)

    def learn(
        self: SelfMAML,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "MAML",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfMAML:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

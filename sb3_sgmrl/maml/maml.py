from __future__ import annotations

from typing import TypeVar

from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm

SelfMAML = TypeVar("SelfMAML", bound="MAML")


class MAML(MetaOnPolicyAlgorithm):
    """
    Model-Agnostic Meta-Learning for reinforcement learning with one policy-gradient step of the meta-optimiser per iteration.

    Differentiates through the inner step with its episodes held fixed and leaves out how θ shapes them, so its gradient is
    biased for the return after adaptation by sampled gradients; see :class:`~sb3_sgmrl.SGMRL`. ``first_order=True`` gives
    FO-MAML. Paper: https://arxiv.org/abs/1703.03400 (Finn, Abbeel, Levine 2017).

    Arguments are those of :class:`~sb3_sgmrl.common.meta_algorithm.MetaOnPolicyAlgorithm`.
    """

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

from __future__ import annotations

from typing import Any, TypeVar

from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback

from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm

SelfSGMRL = TypeVar("SelfSGMRL", bound="SGMRL")


class SGMRL(MetaOnPolicyAlgorithm):
    """
    Stochastic Gradient Meta-Reinforcement Learning (SG-MRL): debiased MAML.

    Maximises V(θ) = E_i E_D J_i(U(θ, D)), the return after adaptation by *sampled* policy gradients (eq. 6 of the paper),
    along an estimate of its gradient that counts how θ shapes the episodes adaptation learns from: the score term that MAML
    leaves out. Paper: https://arxiv.org/abs/2002.05135 (Fallah, Georgiev, Mokhtari, Ozdaglar 2021).

    The default ``control_variate="refitted"`` is the score term with the return after leaving each episode out subtracted, to
    first order, with the baseline and the normalisation refitted; the other forms are exact and noisier.

    :param policy: the policy, ``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy`` or a class
    :param env: a :class:`~sb3_sgmrl.TaskDistEnv`, a VecEnv of them, or the id of a registered task family
    :param score_coef: weight λ of the score term; 1 is SG-MRL, 0 is MAML
    :param control_variate: form of the score term: ``refitted``, or the exact return times score with ``none``,
        ``leave_one_task_out``, ``leave_one_out_return`` or ``task_regression`` subtracted
    :param kwargs: as for :class:`~sb3_sgmrl.common.meta_algorithm.MetaOnPolicyAlgorithm`
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        *,
        score_coef: float = 1.0,
        control_variate: str = "refitted",
        **kwargs: Any,
    ) -> None:
        super().__init__(policy, env, score_coef=score_coef, control_variate=control_variate, **kwargs)

    def learn(
        self: SelfSGMRL,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "SGMRL",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfSGMRL:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

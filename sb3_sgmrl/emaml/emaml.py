from __future__ import annotations

from typing import TypeVar

from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_sgmrl.common.arguments import check_counted_once
from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm, MetaRollout
from sb3_sgmrl.gradient.objective import ScoreCoefficients
from sb3_sgmrl.score_terms.returns import mean_reward_coefficients

SelfEMAML = TypeVar("SelfEMAML", bound="EMAML")


class EMAML(MetaOnPolicyAlgorithm):
    """
    E-MAML: MAML with a heuristic score term for exploration, in the form the SG-MRL paper compares with.

    To MAML's surrogate it adds, for each task, the mean reward after adaptation, standardised over all tasks, times the mean
    log-likelihood of the first batch of episodes. A mean stands where the exact gradient has a sum, so the term is small and
    fades with the number of samples; see :class:`~sb3_sgmrl.SGMRL` for the exact one. Paper:
    https://arxiv.org/abs/1803.01118 (Stadie et al. 2018).

    Arguments are those of :class:`~sb3_sgmrl.common.meta_algorithm.MetaOnPolicyAlgorithm`.
    """

    score_coef = 1.0

    def check_settings(self) -> None:
        super().check_settings()
        check_counted_once(self.inner_surrogate)

    def score_coefficients(self, rollout: MetaRollout) -> ScoreCoefficients:
        return mean_reward_coefficients(rollout.traces)

    def learn(
        self: SelfEMAML,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "EMAML",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfEMAML:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

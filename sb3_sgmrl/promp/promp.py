from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_sgmrl.common.arguments import Argument, optional, with_arguments
from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
from sb3_sgmrl.gradient.advantages import DiscountStart, TimeReduction
from sb3_sgmrl.gradient.baselines import BaselineName
from sb3_sgmrl.gradient.inner import InnerSurrogateName
from sb3_sgmrl.gradient.step_sizes import StepSizeOwner
from sb3_sgmrl.outer_steps.base import OuterStep
from sb3_sgmrl.outer_steps.clipped_epochs import ClippedEpochs
from sb3_sgmrl.outer_steps.kl_penalty import InnerKlPenalty
from sb3_sgmrl.util.validation import is_number, is_positive_and_finite, shown
from sb3_sgmrl.vec_env.engines import EngineName
from sb3_sgmrl.vec_env.normalization import NormalizerUpdate


def _coefficient(name: str, value: Any) -> None:
    if not (is_number(value) and 0 <= value < float("inf")):
        raise ValueError(f"`{name}` must be a finite number that is not negative, got {shown(value)}.")


def _target(name: str, value: Any) -> None:
    if not is_positive_and_finite(value):
        raise ValueError(f"`{name}` must be positive and finite, or None for a fixed coefficient, got {shown(value)}.")


KL_ARGUMENTS: dict[str, Argument] = {
    "inner_kl_coef": Argument(
        "The coefficient η at the beginning of the penalty on the KL divergence of the policies that play the inner episodes",
        _coefficient,
    ),
    "target_inner_kl": Argument(
        "The target of this divergence: the coefficient of an inner step is halved below the target / 1.5 and doubled above "
        "1.5 times the target, once per meta-iteration; None keeps the coefficient",
        optional(_target),
    ),
}


@with_arguments
class ProMP(MetaOnPolicyAlgorithm):
    """
    Proximal Meta-Policy Search (ProMP): MAML with a clipped outer surrogate and a penalty on the inner KL divergence.

    ProMP uses the low-variance curvature of the likelihood ratio and several epochs of the clipped outer surrogate.
    The penalty is on the KL divergence of the policies that play the inner episodes.

    The first epoch of a meta-iteration is a step of ``MAML(inner_surrogate="lvc")``. The penalty has no gradient there.
    Paper: https://arxiv.org/abs/1810.06784 (Rothfuss, Lee, Clavera, Asfour, Abbeel 2019).
    """

    arguments: ClassVar[dict[str, Argument]] = {**MetaOnPolicyAlgorithm.arguments, **KL_ARGUMENTS}
    changed_by_iterations = (*MetaOnPolicyAlgorithm.changed_by_iterations, "_kl_factors")

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 1e-3,
        meta_batch_size: int = 20,
        n_episodes: int = 20,
        n_outer_episodes: int | None = None,
        n_inner_steps: int = 1,
        inner_lr: float = 0.1,
        inner_lr_learning_rate: float | None = None,
        inner_lr_per: StepSizeOwner = "tensor",
        adapt_only: str | Sequence[str] | None = None,
        gamma: float = 0.99,
        gae_lambda: float = 0.997,
        baseline: BaselineName = "linear",
        normalize_advantage: bool = True,
        discount_from: DiscountStart = "step",
        time_reduction: TimeReduction = "mean",
        outer_advantage: dict[str, Any] | None = None,
        inner_surrogate: InnerSurrogateName = "lvc",
        first_order: bool = False,
        max_grad_norm: float | None = 0.5,
        n_epochs: int = 5,
        clip_range: float | Schedule = 0.3,
        target_kl: float | None = None,
        inner_kl_coef: float = 5e-4,
        target_inner_kl: float | None = 0.01,
        vf_epochs: int = 10,
        normalizer_update: NormalizerUpdate = "step",
        n_envs: int | None = None,
        engine: EngineName = "auto",
        n_threads: int | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        self.inner_kl_coef = inner_kl_coef
        self.target_inner_kl = target_inner_kl
        self._kl_factors: list[float] = []
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            meta_batch_size=meta_batch_size,
            n_episodes=n_episodes,
            n_outer_episodes=n_outer_episodes,
            n_inner_steps=n_inner_steps,
            inner_lr=inner_lr,
            inner_lr_learning_rate=inner_lr_learning_rate,
            inner_lr_per=inner_lr_per,
            adapt_only=adapt_only,
            gamma=gamma,
            gae_lambda=gae_lambda,
            baseline=baseline,
            normalize_advantage=normalize_advantage,
            discount_from=discount_from,
            time_reduction=time_reduction,
            outer_advantage=outer_advantage,
            inner_surrogate=inner_surrogate,
            first_order=first_order,
            max_grad_norm=max_grad_norm,
            n_epochs=n_epochs,
            clip_range=clip_range,
            target_kl=target_kl,
            vf_epochs=vf_epochs,
            normalizer_update=normalizer_update,
            n_envs=n_envs,
            engine=engine,
            n_threads=n_threads,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def check_settings(self) -> None:
        super().check_settings()
        for factor in self._kl_factors:  # from a file
            if not is_positive_and_finite(factor):
                raise ValueError(f"`_kl_factors` must hold positive and finite numbers, got {factor!r}.")

    @property
    def outer_step(self) -> OuterStep:
        penalty = InnerKlPenalty(self.inner_kl_coef, self.target_inner_kl, self._kl_factors)
        return ClippedEpochs(self.n_epochs, self.clip_range_now, self.target_kl, penalty)

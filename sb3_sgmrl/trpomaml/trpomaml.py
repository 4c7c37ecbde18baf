from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_sgmrl.common.arguments import Argument, fraction, positive, with_arguments
from sb3_sgmrl.gradient.advantages import DiscountStart, TimeReduction
from sb3_sgmrl.gradient.baselines import BaselineName
from sb3_sgmrl.gradient.inner import InnerSurrogateName
from sb3_sgmrl.gradient.step_sizes import StepSizeOwner
from sb3_sgmrl.outer_steps.base import OuterStep
from sb3_sgmrl.outer_steps.trust_region import TrustRegion
from sb3_sgmrl.score_terms.base import ScoreTerm
from sb3_sgmrl.score_terms.names import ControlVariateName
from sb3_sgmrl.sgmrl import SGMRL
from sb3_sgmrl.util.validation import is_number, is_positive_and_finite, shown
from sb3_sgmrl.vec_env.engines import EngineName
from sb3_sgmrl.vec_env.normalization import NormalizerUpdate


def _target_kl(name: str, value: Any) -> None:
    if not is_positive_and_finite(value):
        raise ValueError(f"`{name}` must be positive and finite, got {shown(value)}.")


def _damping(name: str, value: Any) -> None:
    if not (is_number(value) and 0 <= value < float("inf")):
        raise ValueError(f"`{name}` must be a finite number that is not negative, got {shown(value)}.")


def _shrinking(name: str, value: Any) -> None:
    if not (is_number(value) and 0 < value < 1):
        raise ValueError(f"`{name}` must lie between 0 and 1, got {shown(value)}.")


# what a trust region has no use for
_NOT_HERE = ("n_epochs", "clip_range", "max_grad_norm", "score_coef_prior")
TRUST_REGION_ARGUMENTS: dict[str, Argument] = {
    "learning_rate": Argument(
        'The step size of the critic\'s optimiser, with ``baseline="critic"``; ``target_kl`` bounds how far the policy moves',
        SGMRL.arguments["learning_rate"].check,
    ),
    "score_coef": Argument(
        "The weight λ of the score term: 0 is MAML, 1 is SG-MRL; a number, because values of the surrogate are compared",
        fraction,
    ),
    "target_kl": Argument("The bound of the KL divergence of the adapted policies from those that played", _target_kl),
    "cg_max_steps": Argument("The number of conjugate gradient steps", positive),
    "cg_damping": Argument("What is added to the diagonal of the Fisher information", _damping),
    "line_search_max_iter": Argument("The number of step lengths that the line search tries", positive),
    "line_search_shrinking_factor": Argument("What a rejected step length is multiplied with", _shrinking),
}


@with_arguments
class TRPOMAML(SGMRL):
    """
    MAML with a trust region: the longest step along the natural gradient whose adapted policies stay within a KL divergence.

    The Fisher information is that of the adapted policies, through the inner steps. A backtracking line search accepts a step
    when the surrogate rises and the divergence stays within ``target_kl``; otherwise the parameters stay as they are.
    ``score_coef=1`` follows the gradient of SG-MRL. Papers: https://arxiv.org/abs/1703.03400 (Finn, Abbeel, Levine 2017) and
    https://arxiv.org/abs/1502.05477 (Schulman et al. 2015).
    """

    arguments: ClassVar[dict[str, Argument]] = {
        **{name: argument for name, argument in SGMRL.arguments.items() if name not in _NOT_HERE},
        **TRUST_REGION_ARGUMENTS,
    }

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
        inner_surrogate: InnerSurrogateName = "pathwise",
        first_order: bool = False,
        score_coef: float = 0.0,
        control_variate: ControlVariateName | ScoreTerm = "refitted_causal",
        score_gae_lambda: float = 0.95,
        control_variate_scaling: bool = False,
        target_kl: float = 0.01,
        cg_max_steps: int = 15,
        cg_damping: float = 0.1,
        line_search_max_iter: int = 10,
        line_search_shrinking_factor: float = 0.8,
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
        self.cg_max_steps = cg_max_steps
        self.cg_damping = cg_damping
        self.line_search_max_iter = line_search_max_iter
        self.line_search_shrinking_factor = line_search_shrinking_factor
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
            score_coef=score_coef,
            control_variate=control_variate,
            score_gae_lambda=score_gae_lambda,
            control_variate_scaling=control_variate_scaling,
            n_epochs=1,
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
        if not self.objective.surrogate.has_local_form:
            raise ValueError(
                f"`inner_surrogate` must be 'pathwise' or 'lvc' with a trust region, got {self.inner_surrogate!r}, "
                "which has no local surrogate."
            )

    @property
    def outer_step(self) -> OuterStep:
        assert self.target_kl is not None  # its check
        return TrustRegion(
            self.target_kl,
            self.cg_max_steps,
            self.cg_damping,
            self.line_search_max_iter,
            self.line_search_shrinking_factor,
        )

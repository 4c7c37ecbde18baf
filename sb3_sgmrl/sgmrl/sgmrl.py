from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_sgmrl.common.arguments import Argument, fraction, with_arguments
from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
from sb3_sgmrl.gradient.advantages import DiscountStart, TimeReduction
from sb3_sgmrl.gradient.baselines import BaselineName
from sb3_sgmrl.gradient.inner import InnerSurrogateName
from sb3_sgmrl.gradient.meta_gradient import MetaGradient
from sb3_sgmrl.gradient.score_weight import ScoreLimits, ScoreWeights, SignalWeights
from sb3_sgmrl.gradient.step_sizes import StepSizeOwner
from sb3_sgmrl.outer_steps.base import OuterProblem
from sb3_sgmrl.score_terms.base import ScoreTerm
from sb3_sgmrl.score_terms.names import SCORE_TERMS, ControlVariateName, ScoreMemory, ScoreOptions
from sb3_sgmrl.score_terms.returns import ReturnTerm
from sb3_sgmrl.util.validation import check_bool, check_choice, is_number, shown
from sb3_sgmrl.vec_env.engines import EngineName
from sb3_sgmrl.vec_env.normalization import NormalizerUpdate


def _score_coef(name: str, value: Any) -> None:
    if not (isinstance(value, str) and value == "auto") and not (is_number(value) and 0 <= value <= 1):
        raise ValueError(f"`{name}` must lie in [0, 1] or be 'auto', got {shown(value)}.")


def _prior(name: str, value: Any) -> None:
    if not (is_number(value) and 0 <= value < math.inf):
        raise ValueError(f"`{name}` must be a finite number of at least 0, got {shown(value)}.")


def _control_variate(name: str, value: Any) -> None:
    if not isinstance(value, ScoreTerm):
        check_choice(name, value, tuple(SCORE_TERMS))


SCORE_ARGUMENTS: dict[str, Argument] = {
    "score_coef": Argument(
        "The weight λ of the score term: 1 is SG-MRL, 0 is MAML; ``auto`` weighs the term by how much it stood out from its "
        "noise in earlier iterations, see :class:`~sb3_sgmrl.gradient.score_weight.SignalWeight`",
        _score_coef,
    ),
    "score_coef_prior": Argument(
        "The number of iterations that a weight of one half counts in ``score_coef='auto'``, beside those observed; 0 trusts "
        "the first estimates alone",
        _prior,
        earlier=0,
    ),
    "control_variate": Argument(
        "The form of the score term: ``refitted_causal`` (formula C, the scores of steps weighted by what follows them), "
        "``refitted`` (formula C, the scores of episodes), ``linearized`` (the same without refitting, which is biased), or "
        "the exact return times score with ``none``, ``leave_one_task_out``, ``leave_one_out_return``, ``task_regression`` or "
        "``counterfactual`` subtracted; or a :class:`~sb3_sgmrl.score_terms.base.ScoreTerm` of your own",
        _control_variate,
    ),
    "score_gae_lambda": Argument(
        "The κ of ``refitted_causal``; a smaller value is quieter, and biased where the linear baseline predicts badly",
        fraction,
    ),
    "control_variate_scaling": Argument(
        "Whether to scale what is subtracted by a regression on earlier iterations; only with the exact forms",
        check_bool,
    ),
}


@with_arguments
class SGMRL(MetaOnPolicyAlgorithm):
    """
    Stochastic Gradient Meta-Reinforcement Learning (SG-MRL): debiased MAML.

    Maximises V(θ) = E_i E_D J_i(U(θ, D)), the return after adaptation by *sampled* policy gradients (eq. 6 of the paper),
    along an estimate of its gradient that counts how θ shapes the episodes adaptation learns from: the score term that MAML
    leaves out. Paper: https://arxiv.org/abs/2002.05135 (Fallah, Georgiev, Mokhtari, Ozdaglar 2021).

    The default form of the score term is formula (C) of the documentation, split over the steps: the return after leaving each
    episode out is subtracted, to first order, with the baseline and the normalisation refitted. It is weighted by its own
    signal to noise in earlier iterations. ``score_coef=1`` and an exact ``control_variate`` give an unbiased estimate when the
    outer surrogate has ``gae_lambda=1`` and ``discount_from="episode"``. ``counterfactual`` is (C) without the expansion, and
    costs more; the others are much noisier.
    """

    arguments: ClassVar[dict[str, Argument]] = {**MetaOnPolicyAlgorithm.arguments, **SCORE_ARGUMENTS}
    changed_by_iterations = (*MetaOnPolicyAlgorithm.changed_by_iterations, "_signal_weights", "_score_memory")

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
        score_coef: float | Literal["auto"] = "auto",
        score_coef_prior: float = 50,
        control_variate: ControlVariateName | ScoreTerm = "refitted_causal",
        score_gae_lambda: float = 0.95,
        control_variate_scaling: bool = False,
        max_grad_norm: float | None = 0.5,
        n_epochs: int = 5,
        clip_range: float | Schedule = 0.3,
        target_kl: float | None = None,
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
        self.score_coef = score_coef
        self.score_coef_prior = score_coef_prior
        self.control_variate = control_variate
        self.score_gae_lambda = score_gae_lambda
        self.control_variate_scaling = control_variate_scaling
        self._signal_weights = SignalWeights()
        self._score_memory = ScoreMemory()
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
        if self.score_coef != 0 and self.control_variate_scaling and not isinstance(self.score_term, ReturnTerm):
            raise ValueError(
                f"`control_variate_scaling` must be False with `control_variate={self.control_variate!r}`, which has no "
                "separate return to scale."
            )

    @property
    def score_term(self) -> ScoreTerm | None:
        if self.score_coef == 0:
            return None
        if isinstance(self.control_variate, ScoreTerm):
            return self.control_variate
        options = ScoreOptions(self.score_gae_lambda, self._score_memory, self.control_variate_scaling)
        return SCORE_TERMS[self.control_variate](options)

    def score_weights(self) -> float | ScoreWeights:
        if self.score_coef == "auto":
            return self._signal_weights.weights(self.n_inner_steps, self.score_coef_prior)
        return self.score_coef

    def score_limits(self) -> ScoreLimits:
        return self._signal_weights.limits(self.n_inner_steps) if self.score_coef == "auto" else ()

    def observe(self, problem: OuterProblem, estimate: MetaGradient) -> None:
        super().observe(problem, estimate)
        if self.score_coef == "auto":
            self._signal_weights.observe(estimate.unweighted)

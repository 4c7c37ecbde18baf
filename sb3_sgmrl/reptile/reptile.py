from __future__ import annotations

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_sgmrl.common.arguments import Argument, scheduled, with_arguments
from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
from sb3_sgmrl.gradient.advantages import DiscountStart, TimeReduction
from sb3_sgmrl.gradient.baselines import BaselineName
from sb3_sgmrl.outer_steps.interpolation import Interpolation
from sb3_sgmrl.util.validation import is_number, shown
from sb3_sgmrl.vec_env.engines import EngineName
from sb3_sgmrl.vec_env.normalization import NormalizerUpdate


def _fraction_of_the_way(name: str, value: Any) -> None:
    if not (is_number(value) and 0 <= value <= 1):
        raise ValueError(f"`{name}` must lie in [0, 1], or be a function, got {shown(value)}.")


# what has no meaning without a meta-gradient
_NOT_HERE = (
    *("inner_lr_learning_rate", "inner_lr_per", "adapt_only", "outer_advantage", "inner_surrogate", "first_order"),
    *("max_grad_norm", "n_epochs", "clip_range", "target_kl", "vf_epochs"),
)
REPTILE_ARGUMENTS: dict[str, Argument] = {
    "learning_rate": Argument(
        "The part ε of the way to the adapted parameters: a number or a function of the remaining progress",
        scheduled(_fraction_of_the_way),
    ),
    "n_outer_episodes": Argument(
        "The number of episodes per task of the adapted policy, which are played for the log alone; ``n_episodes`` when None",
        MetaOnPolicyAlgorithm.arguments["n_outer_episodes"].check,
    ),
}


@with_arguments
class Reptile(MetaOnPolicyAlgorithm):
    """
    Reptile: moves the parameters towards those after adaptation, without a meta-gradient.

    Use several inner steps: after one step with fresh episodes, the mean displacement is the policy gradient of the mean over
    tasks, and nothing is learned about adapting. Paper: https://arxiv.org/abs/1803.02999 (Nichol, Achiam, Schulman 2018).
    """

    arguments: ClassVar[dict[str, Argument]] = {
        **{name: argument for name, argument in MetaOnPolicyAlgorithm.arguments.items() if name not in _NOT_HERE},
        **REPTILE_ARGUMENTS,
    }
    outer_step = Interpolation()

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 0.1,
        meta_batch_size: int = 20,
        n_episodes: int = 20,
        n_outer_episodes: int | None = None,
        n_inner_steps: int = 3,
        inner_lr: float = 0.1,
        gamma: float = 0.99,
        gae_lambda: float = 0.997,
        baseline: BaselineName = "linear",
        normalize_advantage: bool = True,
        discount_from: DiscountStart = "step",
        time_reduction: TimeReduction = "mean",
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
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            meta_batch_size=meta_batch_size,
            n_episodes=n_episodes,
            n_outer_episodes=n_outer_episodes,
            n_inner_steps=n_inner_steps,
            inner_lr=inner_lr,
            gamma=gamma,
            gae_lambda=gae_lambda,
            baseline=baseline,
            normalize_advantage=normalize_advantage,
            discount_from=discount_from,
            time_reduction=time_reduction,
            first_order=True,
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
        if self.objective.needs_critic:
            raise ValueError(f"`baseline` must be 'linear' or 'none', got {self.baseline!r}: Reptile trains no critic.")

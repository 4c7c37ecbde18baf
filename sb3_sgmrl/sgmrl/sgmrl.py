from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from sb3_sgmrl.common.arguments import check_score_term
from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm, MetaRollout
from sb3_sgmrl.gradient.meta_gradient import MetaGradient
from sb3_sgmrl.gradient.objective import ScoreCoefficients
from sb3_sgmrl.gradient.score_weight import ScoreWeights, SignalWeights
from sb3_sgmrl.score_terms.control_variates import (
    FIRST_ORDER,
    RETURN_CONTROL_VARIATES,
    TaskRegression,
    VariateScaling,
    leave_one_out_return,
    leave_one_task_out,
)
from sb3_sgmrl.score_terms.counterfactual import Counterfactuals, counterfactual_baselines
from sb3_sgmrl.score_terms.refitted import causal_refitted_coefficients, linearized_coefficients, refitted_coefficients
from sb3_sgmrl.score_terms.returns import outer_returns, return_baselines, return_coefficients
from sb3_sgmrl.util.threads import thread_pool

SelfSGMRL = TypeVar("SelfSGMRL", bound="SGMRL")


class SGMRL(MetaOnPolicyAlgorithm):
    """
    Stochastic Gradient Meta-Reinforcement Learning (SG-MRL): debiased MAML.

    Maximises V(θ) = E_i E_D J_i(U(θ, D)), the return after adaptation by *sampled* policy gradients (eq. 6 of the paper),
    along an estimate of its gradient that counts how θ shapes the episodes adaptation learns from: the score term that MAML
    leaves out. Paper: https://arxiv.org/abs/2002.05135 (Fallah, Georgiev, Mokhtari, Ozdaglar 2021).

    The default form of the score term is formula (C) of the documentation, split over the steps: the return after leaving each
    episode out is subtracted, to first order, with the baseline and the normalisation refitted. It is weighted by its own
    signal to noise in earlier iterations. ``score_coef=1`` and an exact ``control_variate`` give an unbiased estimate;
    ``counterfactual`` is (C) without the expansion, and costs more; the others are much noisier.

    :param policy: the policy, ``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy`` or a class
    :param env: a :class:`~sb3_sgmrl.TaskDistEnv` or a VecEnv of them, or the id of a registered task family
    :param learning_rate: step size of the meta-optimiser, a number or a function of the remaining progress
    :param meta_batch_size: number of tasks per meta-iteration
    :param n_episodes: episodes per task in each adaptation phase
    :param n_outer_episodes: episodes per task of the adapted policy; ``n_episodes`` when None
    :param n_inner_steps: number ζ of inner steps
    :param inner_lr: step size α of an inner step
    :param inner_lr_learning_rate: learn a step size for each parameter tensor, all beginning at ``inner_lr``, by the
        derivative of the post-adaptation return: Adam moves one by up to this part of ``inner_lr`` per meta-iteration. Those
        that would become negative become zero. None leaves them alone
    :param gamma: discount factor
    :param gae_lambda: λ of generalised advantage estimation
    :param baseline: ``linear`` (features of observation and time, fitted per task and phase), ``critic`` (the policy's value
        net, trained on all episodes) or ``none``
    :param normalize_advantage: normalise the advantages of each task and phase
    :param discount_from: ``step``: rewards-to-go are discounted from their step, as is customary; ``episode``: from the start
        of the episode, as in eq. (4) of the paper
    :param time_reduction: ``mean``: surrogates are means over all steps; ``sum``: sums over the steps of an episode, means
        over episodes, as in the paper
    :param outer_advantage: settings of :class:`~sb3_sgmrl.gradient.advantages.AdvantageSettings` that differ in the outer
        surrogate
    :param inner_surrogate: ``pathwise``, ``lvc`` or ``dice``
    :param first_order: leave the second derivatives out
    :param score_coef: weight λ of the score term; 1 is SG-MRL, 0 is MAML; ``auto`` weighs it by how much it stood out from its
        noise in earlier iterations, see :class:`~sb3_sgmrl.gradient.score_weight.SignalWeight`
    :param control_variate: form of the score term: ``refitted_causal`` (formula C, the scores of steps weighted by what
        follows from them), ``refitted`` (formula C, the scores of episodes), ``linearized`` (the
        same without refitting, which is biased), or the exact return times score with ``none``, ``leave_one_task_out``,
        ``leave_one_out_return``, ``task_regression`` or ``counterfactual`` subtracted
    :param score_gae_lambda: κ of ``refitted_causal``; smaller is quieter, and biased where the linear baseline predicts badly
    :param control_variate_scaling: scale what is subtracted by a regression on earlier iterations; only with the exact forms
    :param max_grad_norm: the norm the meta-gradient is clipped at; None leaves it alone
    :param vf_epochs: gradient steps on the value loss per meta-iteration, with ``baseline="critic"``
    :param n_envs: number of workers made from a single environment; None chooses
    :param engine: what plays a single environment: ``batched``, the batched form of a registered family; ``in_process``,
        clones in this process; ``subprocess``, clones in one process per processor; ``auto``, the batched form where there is
        one, else clones in this process
    :param n_threads: threads for gradients; None takes one per processor
    :param stats_window_size: number of episodes the rollout statistics average over
    :param tensorboard_log: folder of TensorBoard logs; None writes none
    :param policy_kwargs: further arguments of the policy; without ``ortho_init`` its layers start with Glorot-uniform weights
        and zero biases
    :param verbose: 0 no output, 1 info, 2 debug
    :param seed: seed of everything random; None draws one
    :param device: device of the policy
    :param _init_setup_model: whether to build the network at construction
    :raises ValueError: for an argument outside its range, naming it
    """

    # of the iteration whose gradient was computed last
    _baselines: list[np.ndarray]
    _counterfactuals: Counterfactuals

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
        gamma: float = 0.99,
        gae_lambda: float = 0.997,
        baseline: str = "linear",
        normalize_advantage: bool = True,
        discount_from: str = "step",
        time_reduction: str = "mean",
        outer_advantage: dict[str, Any] | None = None,
        inner_surrogate: str = "pathwise",
        first_order: bool = False,
        score_coef: float | str = "auto",
        control_variate: str = "refitted_causal",
        score_gae_lambda: float = 0.95,
        control_variate_scaling: bool = False,
        max_grad_norm: float | None = 0.5,
        vf_epochs: int = 10,
        n_envs: int | None = None,
        engine: str = "auto",
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
        self.control_variate = control_variate
        self.score_gae_lambda = score_gae_lambda
        self.control_variate_scaling = control_variate_scaling
        self._signal_weights = SignalWeights()
        self._task_regression = TaskRegression()
        self._variate_scaling = VariateScaling()
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
            vf_epochs=vf_epochs,
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

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_baselines", "_counterfactuals"]

    def check_settings(self) -> None:
        super().check_settings()
        check_score_term(self)

    def score_coefficients(self, rollout: MetaRollout) -> ScoreCoefficients | None:
        if self.score_coef == 0:
            return None
        settings, space = self.objective.inner, self.observation_space
        if self.control_variate == "linearized":
            return linearized_coefficients
        if self.control_variate == "refitted":
            return refitted_coefficients(settings, space)
        if self.control_variate == "refitted_causal":
            return causal_refitted_coefficients(settings, space, self.score_gae_lambda)
        self._baselines = self._subtracted(rollout)
        scale = self._variate_scaling.scale if self.control_variate_scaling else list
        return return_coefficients(rollout.traces, self.objective.outer.gamma, scale(self._baselines))

    def _subtracted(self, rollout: MetaRollout) -> list[np.ndarray]:
        """The control variates before scaling, for each inner step (n_tasks, n_episodes)."""
        traces, gamma = rollout.traces, self.objective.outer.gamma
        if self.control_variate == "task_regression":
            predicted = self._task_regression.predict(self._task_features(rollout))
            return return_baselines(traces, gamma, lambda _, inner: np.broadcast_to(predicted[:, None], inner.shape))
        if self.control_variate == "counterfactual":
            # a single task has no others, but does not fall back either
            variate = leave_one_task_out if len(traces) > 1 else leave_one_out_return
            otherwise = return_baselines(traces, gamma, variate)
            with thread_pool(self.n_threads) as pool:
                self._counterfactuals = counterfactual_baselines(
                    self.functional, self.objective, self.observation_space, traces, otherwise, executor=pool
                )
            return self._counterfactuals.baselines
        return return_baselines(traces, gamma, RETURN_CONTROL_VARIATES[self.control_variate])

    def score_weights(self) -> float | ScoreWeights:
        if self.score_coef != "auto":
            return super().score_weights()
        return self._signal_weights.weights(self.n_inner_steps)

    def observe(self, rollout: MetaRollout, estimate: MetaGradient) -> None:
        if self.score_coef == 0:
            return
        if self.score_coef == "auto":
            self._signal_weights.observe(estimate.unweighted)
        if self.control_variate in FIRST_ORDER:
            return
        outer = outer_returns(rollout.traces, self.objective.outer.gamma)
        if self.control_variate == "task_regression":
            self._task_regression.observe(self._task_features(rollout), outer)
        if self.control_variate == "counterfactual":
            self.logger.record("train/effective_sample_size", float(self._counterfactuals.effective_sample_size.mean()))
            self.logger.record("train/counterfactual_fraction", float(self._counterfactuals.used.mean()))
        if self.control_variate_scaling:
            self.logger.record("train/control_variate_scale", self._variate_scaling.factors()[1])
            self._variate_scaling.observe(outer, self._baselines)

    def _task_features(self, rollout: MetaRollout) -> np.ndarray:
        return np.stack([self.env.env_method("task_features", task, indices=0)[0] for task in rollout.tasks])

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

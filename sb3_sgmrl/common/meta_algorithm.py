"""The meta-iteration of every algorithm of the package: learn, collect_rollouts, train, adapt."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import check_for_correct_spaces, safe_mean
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_sgmrl.common.adaptation import ADAPTATION, adapt_tasks, play_and_adapt, task_phases
from sb3_sgmrl.common.advantages import AdvantageSettings
from sb3_sgmrl.common.batch import PhaseBatch
from sb3_sgmrl.common.checks import check_arguments, check_positive
from sb3_sgmrl.common.control_variates import RETURN_CONTROL_VARIATES, TaskRegression
from sb3_sgmrl.common.critic import fit_critic
from sb3_sgmrl.common.engines import as_task_vec_env
from sb3_sgmrl.common.functional import FunctionalPolicy
from sb3_sgmrl.common.meta_gradient import (
    MetaGradient,
    MetaObjective,
    ScoreCoefficients,
    TaskPhase,
    meta_gradient,
    refitted_coefficients,
    return_coefficients,
)
from sb3_sgmrl.common.sampling import check_task_workers, check_tasks, find_horizon, tasks_released_afterwards
from sb3_sgmrl.common.saving import SafelySaved
from sb3_sgmrl.common.threads import thread_pool

SelfMetaAlgorithm = TypeVar("SelfMetaAlgorithm", bound="MetaOnPolicyAlgorithm")


@dataclass(frozen=True)
class MetaRollout:
    """
    The data of one meta-iteration.

    :param tasks: the tasks
    :param traces: ζ + 1 phases of every task
    """

    tasks: Sequence[Any]
    traces: list[list[TaskPhase]]


class MetaOnPolicyAlgorithm(SafelySaved):
    """
    Base of the gradient-based meta-RL algorithms. A meta-iteration samples tasks, plays ``n_episodes`` episodes of each with
    the meta-parameters θ, adapts to each task by ``n_inner_steps`` policy-gradient steps with fresh episodes, and moves θ
    along an estimate of the gradient of the post-adaptation return.

    :param policy: the policy, ``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy`` or a class
    :param env: a :class:`~sb3_sgmrl.TaskDistEnv` or a VecEnv of them, or the id of a registered task family
    :param learning_rate: step size of the meta-optimiser, a number or a function of the remaining progress
    :param meta_batch_size: number of tasks per meta-iteration
    :param n_episodes: episodes per task in each adaptation phase
    :param n_outer_episodes: episodes per task of the adapted policy; ``n_episodes`` when None
    :param n_inner_steps: number ζ of inner steps
    :param inner_lr: step size α of an inner step
    :param gamma: discount factor
    :param gae_lambda: λ of generalised advantage estimation
    :param baseline: ``linear`` (features of observation and time, fitted per task and phase), ``critic`` (the policy's value
        net, trained on all episodes) or ``none``
    :param normalize_advantage: normalise the advantages of each task and phase
    :param discount_from: ``step``: rewards-to-go are discounted from their step, as is customary; ``episode``: from the start
        of the episode, as in eq. (4) of the paper
    :param time_reduction: ``mean``: surrogates are means over all steps; ``sum``: sums over the steps of an episode, means
        over episodes, as in the paper
    :param outer_advantage: settings of :class:`~sb3_sgmrl.common.advantages.AdvantageSettings` that differ in the outer
        surrogate
    :param inner_surrogate: ``pathwise``, ``lvc`` or ``dice``
    :param first_order: leave the second derivatives out
    :param score_coef: weight λ of the score term; 1 debiases the gradient, 0 leaves the term out
    :param control_variate: form of the score term: ``refitted`` (formula C), or the exact return times score with ``none``,
        ``leave_one_task_out``, ``leave_one_out_return`` or ``task_regression`` subtracted
    :param max_grad_norm: the norm the meta-gradient is clipped at; None leaves it alone
    :param vf_epochs: gradient steps on the value loss per meta-iteration, with ``baseline="critic"``
    :param n_envs: number of workers made from a single environment; None chooses
    :param n_threads: threads for gradients; None takes one per processor
    :param stats_window_size: number of episodes the rollout statistics average over
    :param tensorboard_log: folder of TensorBoard logs; None writes none
    :param policy_kwargs: further arguments of the policy; ``ortho_init`` is False when not given
    :param verbose: 0 no output, 1 info, 2 debug
    :param seed: seed of everything random; None draws one
    :param device: device of the policy
    :param _init_setup_model: whether to build the network at construction
    :raises ValueError: for an argument outside its range, naming it
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
    }
    policy: ActorCriticPolicy
    env: VecEnv

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
        gamma: float = 0.99,
        gae_lambda: float = 0.997,
        baseline: str = "linear",
        normalize_advantage: bool = True,
        discount_from: str = "step",
        time_reduction: str = "mean",
        outer_advantage: dict[str, Any] | None = None,
        inner_surrogate: str = "pathwise",
        first_order: bool = False,
        score_coef: float = 0.0,
        control_variate: str = "refitted",
        max_grad_norm: float | None = 0.5,
        vf_epochs: int = 10,
        n_envs: int | None = None,
        n_threads: int | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        self.meta_batch_size = meta_batch_size
        self.n_episodes = n_episodes
        self.n_outer_episodes = n_outer_episodes
        self.n_inner_steps = n_inner_steps
        self.inner_lr = inner_lr
        self.gamma = gamma
        self.gae_lambda = gae_lambda
        self.baseline = baseline
        self.normalize_advantage = normalize_advantage
        self.discount_from = discount_from
        self.time_reduction = time_reduction
        self.outer_advantage = outer_advantage
        self.inner_surrogate = inner_surrogate
        self.first_order = first_order
        self.score_coef = score_coef
        self.control_variate = control_variate
        self.max_grad_norm = max_grad_norm
        self.vf_epochs = vf_epochs
        self.n_threads = n_threads
        check_arguments(self)
        self.objective  # noqa: B018  # checks its own settings
        if env is not None:
            env = as_task_vec_env(env, n_envs, meta_batch_size * max(n_episodes, n_outer_episodes or n_episodes), verbose)
        super().__init__(
            policy,
            env,
            learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
            support_multi_env=True,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
        )
        if self.env is not None:
            check_task_workers(self.env)
            find_horizon(self.env)
        # every random number follows from these two, so a loaded model goes on as if it had never stopped
        self._entropy = seed if seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
        self._iteration = 0
        self._task_regression = TaskRegression()
        if _init_setup_model:
            self._setup_model()

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        return BaseAlgorithm._wrap_env(as_task_vec_env(env, verbose=verbose), verbose, monitor_wrapper)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Use another environment. The number of workers may change: results do not depend on it.

        :param env: a TaskDistEnv or a VecEnv of them, with the same spaces
        :param force_reset: forget the last observation
        :raises ValueError: when the spaces differ, the workers cannot take a task or an episode might never end
        """
        env = self._wrap_env(env, self.verbose)
        check_task_workers(env)
        find_horizon(env)
        check_for_correct_spaces(env, self.observation_space, self.action_space)
        self._vec_normalize_env = unwrap_vec_normalize(env)
        if force_reset:
            self._last_obs = None
        self.n_envs = env.num_envs
        self.env = env

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        # SB3's orthogonal initialisation shrinks the last layer a hundredfold: an inner step of plain SGD would change little
        # but its bias, and adaptation would start from nothing
        policy_kwargs = {"ortho_init": False, **self.policy_kwargs}
        policy_class: Any = self.policy_class
        self.policy = policy_class(
            self.observation_space, self.action_space, self.lr_schedule, use_sde=False, **policy_kwargs
        ).to(self.device)
        # as functions of their parameters policies drop no units and change no running statistics: the critic must not either
        self.policy.set_training_mode(False)
        self.functional = FunctionalPolicy(self.policy)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "functional"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    @property
    def objective(self) -> MetaObjective:
        """The gradient that is followed, from the arguments of the constructor."""
        shared: dict[str, Any] = {
            "gamma": self.gamma,
            "gae_lambda": self.gae_lambda,
            "baseline": self.baseline,
            "normalize": self.normalize_advantage,
            "discount_from": self.discount_from,
            "time_reduction": self.time_reduction,
        }
        return MetaObjective(
            inner=AdvantageSettings(**shared),
            outer=AdvantageSettings(**{**shared, **(self.outer_advantage or {})}),
            inner_lr=self.inner_lr,
            inner_surrogate=self.inner_surrogate,
            first_order=self.first_order,
            score_coef=self.score_coef,
        )

    # ---------------------------------------------------------------- sampling

    def collect_rollouts(self, env: VecEnv, callback: BaseCallback) -> MetaRollout | None:
        """
        Play all phases of a meta-iteration.

        :param env: workers that take tasks
        :param callback: called after every step of the workers
        :return: the data of the iteration; None when the callback asked to stop
        """
        callback.on_rollout_start()
        seed = [self._entropy, self._iteration]
        tasks = env.env_method("sample_tasks", self.meta_batch_size, [*seed, 0], indices=0)[0]

        def on_step(step_locals: dict[str, Any], n_samples: int) -> bool:
            self.num_timesteps += n_samples
            callback.update_locals(step_locals)
            if not callback.on_step():
                return False
            if step_locals["dones"].any():  # only then do infos hold what the buffer wants
                self._update_info_buffer(step_locals["infos"], step_locals["dones"])
            return True

        traces = play_and_adapt(
            env,
            self.functional,
            self.objective,
            tasks,
            [*[self.n_episodes] * self.n_inner_steps, self.n_outer_episodes or self.n_episodes],
            [*seed, 1],
            n_threads=self.n_threads,
            on_step=on_step,
            on_phase=self._log_phase,
        )
        if traces is None:
            return None
        callback.update_locals(locals())
        callback.on_rollout_end()
        return MetaRollout(tasks, traces)

    def _log_phase(self, phase: int, batch: PhaseBatch) -> None:
        name = "pre" if phase == 0 else "post" if phase == self.n_inner_steps else f"step{phase}"
        self.logger.record(f"rollout/ep_rew_mean_{name}", float(batch.episode_returns.mean()))
        if phase == 0:
            self._pre_return = float(batch.episode_returns.mean())
        elif phase == self.n_inner_steps:
            self.logger.record("rollout/adaptation_gain", float(batch.episode_returns.mean()) - self._pre_return)

    # ---------------------------------------------------------------- training

    def _score_coefficients(self, rollout: MetaRollout) -> ScoreCoefficients | None:
        if self.score_coef == 0:
            return None
        if self.control_variate == "refitted":
            return refitted_coefficients(self.objective.inner, self.observation_space)
        if self.control_variate == "task_regression":
            predicted = self._task_regression.predict(self._task_features(rollout))

            def baseline(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
                return np.broadcast_to(predicted[:, None], inner.shape)

            return return_coefficients(rollout.traces, self.gamma, baseline)
        return return_coefficients(rollout.traces, self.gamma, RETURN_CONTROL_VARIATES[self.control_variate])

    def _task_features(self, rollout: MetaRollout) -> np.ndarray:
        return np.stack([self.env.env_method("task_features", task, indices=0)[0] for task in rollout.tasks])

    def meta_gradient(self, rollout: MetaRollout) -> MetaGradient:
        """
        The estimate of ∇V that :meth:`train` follows.

        :param rollout: the data of one meta-iteration
        :return: the gradient by parameter name, and its parts
        """
        with thread_pool(self.n_threads) as pool:
            return meta_gradient(self.functional, self.objective, self._score_coefficients(rollout), rollout.traces, pool)

    def train(self, rollout: MetaRollout) -> None:
        """
        One step of the meta-optimiser.

        :param rollout: the data of one meta-iteration
        :raises ValueError: when the meta-gradient is not finite
        """
        self._update_learning_rate(self.policy.optimizer)
        estimate = self.meta_gradient(rollout)
        if not all(th.isfinite(value).all() for value in estimate.gradient.values()):
            raise ValueError("The meta-gradient is NaN or infinite; a smaller `inner_lr` or `learning_rate` may help.")
        named = dict(self.policy.named_parameters())
        self.policy.optimizer.zero_grad()
        for name, value in estimate.gradient.items():
            named[name].grad = -value  # the optimiser descends
        if self.max_grad_norm is not None:
            th.nn.utils.clip_grad_norm_([named[name] for name in estimate.gradient], self.max_grad_norm)
        self.policy.optimizer.step()
        objective = self.objective
        if "critic" in (objective.inner.baseline, objective.outer.baseline):
            phases = [phase for trace in rollout.traces for phase in trace]
            self.logger.record("train/value_loss", fit_critic(self.functional, phases, self.gamma, self.vf_epochs))
        if self.score_coef > 0 and self.control_variate == "task_regression":
            outer = np.array([trace[-1].batch.returns(self.gamma).mean() for trace in rollout.traces])
            self._task_regression.observe(self._task_features(rollout), outer)
        self._n_updates += 1
        self._iteration += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for key, norm in estimate.norms().items():
            self.logger.record(f"train/{key}", norm)
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", float(self.policy.log_std.detach().exp().mean()))

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        # the last meta-iteration overshoots total_timesteps by up to its whole size; a schedule must not go negative
        super()._update_current_progress_remaining(min(num_timesteps, total_timesteps), total_timesteps)

    def dump_logs(self, iteration: int = 0) -> None:
        """
        Write the log of an iteration.

        :param iteration: number of meta-iterations of this call of :meth:`learn`
        """
        elapsed = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        if iteration > 0:
            self.logger.record("time/iterations", iteration, exclude="tensorboard")
        if self.ep_info_buffer:
            self.logger.record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
            self.logger.record("rollout/ep_len_mean", safe_mean([info["l"] for info in self.ep_info_buffer]))
        if self.ep_success_buffer:
            self.logger.record("rollout/success_rate", safe_mean(self.ep_success_buffer))
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)

    def learn(
        self: SelfMetaAlgorithm,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "MetaOnPolicyAlgorithm",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfMetaAlgorithm:
        """
        Play meta-iterations until ``total_timesteps`` samples of all phases were played; an iteration that was begun is
        finished.

        :param total_timesteps: number of samples
        :param callback: SB3 callbacks
        :param log_interval: iterations between two logs; None writes none
        :param tb_log_name: name of the run in TensorBoard
        :param reset_num_timesteps: start counting at zero
        :param progress_bar: show SB3's progress bar
        :return: the trained model
        """
        if self.env is None:
            raise ValueError("`env` is missing: pass it to `load(path, env=...)` or `set_env(env)` before learning.")
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        callback.on_training_start(locals(), globals())
        iteration = 0
        with tasks_released_afterwards(self.env):
            while self.num_timesteps < total_timesteps:
                rollout = self.collect_rollouts(self.env, callback)
                if rollout is None:
                    break
                iteration += 1
                self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
                self.train(rollout)
                if log_interval is not None and iteration % log_interval == 0:
                    self.dump_logs(iteration)
        callback.on_training_end()
        return self

    # ---------------------------------------------------------------- after training

    def adapt(
        self,
        env: GymEnv | str | None = None,
        task: Any = None,
        n_steps: int = 1,
        n_episodes: int | None = None,
        episodes: PhaseBatch | None = None,
        seed: int = 0,
    ) -> ActorCriticPolicy:
        """
        Adapt to a task and return an ordinary SB3 policy; the model itself stays as it is.

        :param env: where to play; the model's environment when None
        :param task: the task; the environment's own pinned task, or else a random one when None
        :param n_steps: number of inner steps, also more than in training
        :param n_episodes: episodes per inner step; as in training when None
        :param episodes: given episodes of one task, played with the model's policy, instead of playing; one inner step
        :param seed: seed of the episodes and of a random task
        :return: the adapted policy
        :raises ValueError: for non-positive counts, a task outside the space or parameters that become non-finite
        """
        n_episodes = self.n_episodes if n_episodes is None else n_episodes
        check_positive(n_steps=n_steps, n_episodes=n_episodes)
        # all phases are weighed for an inner step: nothing is played after the last one
        objective = replace(self.objective, outer=self.objective.inner)
        if episodes is not None:
            if n_steps != 1 or episodes.n_tasks != 1:
                raise ValueError(
                    "`episodes` must be of one task and allow `n_steps=1` only: they were played with one policy."
                )
            last = task_phases(self.functional, objective.inner, episodes, [self.functional.parameters()])
        else:
            vec_env = self.env if env is None else self._wrap_env(as_task_vec_env(env))
            if vec_env is None:
                raise ValueError("`env` is missing, and the model has no environment of its own.")
            check_task_workers(vec_env)
            task = vec_env.env_method("get_pinned_task", indices=0)[0] if task is None else task
            if task is None:
                task = vec_env.env_method("sample_tasks", 1, [seed, ADAPTATION, 0], indices=0)[0][0]
            check_tasks(vec_env, [task])
            counts = [n_episodes] * n_steps
            with tasks_released_afterwards(vec_env):
                traces = play_and_adapt(
                    vec_env, self.functional, objective, [task], counts, [seed, ADAPTATION, 1], self.n_threads
                )
            assert traces is not None
            last = [traces[0][-1]]
        adapted = adapt_tasks(self.functional, objective, last, [task], self.n_threads)[0]
        return self.functional.policy_with(adapted)

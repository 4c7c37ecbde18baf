"""The meta-iteration of every algorithm of the package: learn, collect_rollouts, train."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_sgmrl.common.adaptation import AdaptiveModel
from sb3_sgmrl.common.arguments import with_arguments
from sb3_sgmrl.common.boundary import Boundary
from sb3_sgmrl.common.callbacks import MetaProgressBarCallback, check_callback
from sb3_sgmrl.common.files.model_file import versions
from sb3_sgmrl.common.phases import play_and_adapt
from sb3_sgmrl.common.saving import SavePath
from sb3_sgmrl.common.trainable import check_trainable
from sb3_sgmrl.data.batch import PhaseBatch
from sb3_sgmrl.distributed import ALONE, Ranks
from sb3_sgmrl.distributed.callbacks import of_rank
from sb3_sgmrl.distributed.training import EndedEpisodes, check_together, on_ranks
from sb3_sgmrl.gradient.critic import fit_critic
from sb3_sgmrl.gradient.meta_gradient import MetaGradient
from sb3_sgmrl.gradient.objective import MetaRollout
from sb3_sgmrl.gradient.step_sizes import StepSizes
from sb3_sgmrl.outer_steps.base import OptimizerStep, OuterProblem, OuterStep
from sb3_sgmrl.outer_steps.clipped_epochs import ClippedEpochs
from sb3_sgmrl.score_terms.base import TermContext
from sb3_sgmrl.util.interrupts import undisturbed
from sb3_sgmrl.util.threads import thread_pool
from sb3_sgmrl.util.validation import check_bool, check_path, check_positive, is_number, shown
from sb3_sgmrl.vec_env.borrowing import tasks_released_afterwards
from sb3_sgmrl.vec_env.engines import is_made
from sb3_sgmrl.vec_env.normalization import frozen_statistics
from sb3_sgmrl.vec_env.task_workers import ask, early_resets_allowed, find_horizon

SelfMetaAlgorithm = TypeVar("SelfMetaAlgorithm", bound="MetaOnPolicyAlgorithm")


@with_arguments
class MetaOnPolicyAlgorithm(AdaptiveModel):
    """
    The base of the gradient-based meta-RL algorithms.

    A meta-iteration samples tasks, and plays ``n_episodes`` episodes of each task with the meta-parameters θ. It adapts to
    each task by ``n_inner_steps`` policy-gradient steps with fresh episodes. Then it moves θ along an estimate of the
    gradient of the post-adaptation return.
    """

    # the attributes that a meta-iteration changes, besides the parameters
    changed_by_iterations: ClassVar[tuple[str, ...]] = (
        *("num_timesteps", "_iteration", "_n_updates", "_episode_num", "_current_progress_remaining"),
        *("ep_info_buffer", "ep_success_buffer"),
    )
    _boundary: Boundary | None = None
    # the ranks that share a meta-iteration, while ``learn`` runs
    ranks: Ranks = ALONE

    # ---------------------------------------------------------------- sampling

    def collect_rollouts(self, env: VecEnv, callback: BaseCallback) -> MetaRollout | None:
        """
        Play all phases of a meta-iteration.

        :param env: The workers that take tasks
        :param callback: The callback, called after every step of the workers
        :return: The data of the iteration; None when the callback asked to stop
        """
        callback.update_locals({"env": env})
        callback.on_rollout_start()
        policy, ranks = self.functional, self.ranks  # a callback may have changed the policy
        n_played, ended = self.num_timesteps, EndedEpisodes(self)
        check_trainable(self, policy)
        seed = [self._entropy, self._iteration]
        tasks = ask(env, "sample_tasks", self.meta_batch_size, [*seed, 0], indices=0)[0]

        def on_step(step_locals: dict[str, Any], n_samples: int) -> bool:
            self.num_timesteps += n_samples
            callback.update_locals(step_locals)
            if not callback.on_step():
                return False
            if step_locals["dones"].any():  # only then do infos hold entries for the buffer
                ended.add(step_locals["infos"], step_locals["dones"])
            return True

        def on_phase(phase: int, batch: PhaseBatch) -> None:
            nonlocal n_played
            self.num_timesteps = n_played = n_played + int(batch.mask.sum())  # of all ranks
            ended.share()
            self._log_phase(phase, batch)

        traces = play_and_adapt(
            env,
            policy,
            self.objective,
            tasks,
            self.episodes_per_phase,
            [*seed, 1],
            n_threads=self.n_threads,
            on_step=on_step,
            on_phase=on_phase,
            ranks=ranks,
            normalizer_update=self.normalizer_update,
        )
        if traces is None:
            return None
        callback.update_locals(locals())
        callback.on_rollout_end()
        return MetaRollout(tasks, traces, policy=policy, ranks=ranks)

    def _log_phase(self, phase: int, batch: PhaseBatch) -> None:
        name = "pre" if phase == 0 else "post" if phase == self.n_inner_steps else f"step{phase}"
        self.logger.record(f"rollout/ep_rew_mean_{name}", float(batch.episode_returns.mean()))
        if phase == 0:
            self._pre_return = float(batch.episode_returns.mean())
        elif phase == self.n_inner_steps:
            self.logger.record("rollout/adaptation_gain", float(batch.episode_returns.mean()) - self._pre_return)

    # ---------------------------------------------------------------- training

    @property
    def outer_step(self) -> OuterStep:
        """The step that moves the meta-parameters. Override it in an algorithm with another outer step."""
        if self.n_epochs == 1:
            return OptimizerStep()
        return ClippedEpochs(self.n_epochs, self.clip_range_now, self.target_kl)

    @property
    def clip_range_now(self) -> float:
        """The clip range ε at the present progress of training."""
        return self.clip_range(self._current_progress_remaining) if callable(self.clip_range) else self.clip_range

    def outer_problem(self, rollout: MetaRollout, executor: ThreadPoolExecutor | None = None) -> OuterProblem:
        """
        Make the problem that the outer step solves.

        :param rollout: The data of one meta-iteration
        :param executor: Threads over tasks
        :return: The problem, with the score term prepared
        :raises ValueError: When the network was changed after the episodes were played
        """
        policy = rollout.policy or self.functional
        policy.check_same_network(self.policy)
        objective, term = self.objective, self.score_term
        if term is not None:
            if term.needs_task_features:
                features = [ask(self.env, "task_features", task, indices=0)[0] for task in rollout.tasks]
                rollout = replace(rollout, task_features=np.stack(features))
            term = term.prepare(rollout, TermContext(policy, objective, executor))
            rollout = term.weigh(rollout)
        return OuterProblem(self.policy, policy, objective, rollout, term, self.max_grad_norm, executor, self._record)

    def _record(self, name: str, value: float) -> None:
        self.logger.record(f"train/{name}", value)

    def meta_gradient(self, rollout: MetaRollout) -> MetaGradient:
        """
        Estimate the gradient ∇V that :meth:`train` follows.

        :param rollout: The data of one meta-iteration
        :return: The gradient by parameter name, and its parts
        """
        with thread_pool(self.n_threads) as pool:
            return self.outer_step.estimate(self.outer_problem(rollout, pool))

    def train(self, rollout: MetaRollout) -> None:
        """
        Move the meta-parameters by the outer step.

        :param rollout: The data of one meta-iteration
        :raises ValueError: When the meta-gradient is not finite
        """
        self._update_learning_rate(self.policy.optimizer)
        with thread_pool(self.n_threads) as pool:  # sums of torch in several threads depend on their number
            problem = self.outer_problem(rollout, pool)
            estimate = self.outer_step.update(problem)
            if self.step_sizes is not None:
                self._learn_step_sizes(self.step_sizes, estimate)
            if problem.objective.needs_critic:
                loss = fit_critic(problem.functional, rollout.traces, self.gamma, self.vf_epochs, rollout.ranks)
                self.logger.record("train/value_loss", loss)
            self._n_updates += 1
            self._iteration += 1
            self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
            for key, norm in estimate.norms().items():
                self.logger.record(f"train/{key}", norm)
            self.observe(problem, estimate)
            if hasattr(self.policy, "log_std"):
                self.logger.record("train/std", float(self.policy.log_std.detach().exp().mean()))

    def observe(self, problem: OuterProblem, estimate: MetaGradient) -> None:
        """
        Learn quantities for later estimates from a meta-iteration, and log them.

        :param problem: The problem that the outer step solved
        :param estimate: The gradient that was followed
        """
        if problem.score_term is not None:
            for key, value in problem.score_term.observe(problem.rollout, estimate).items():
                self._record(key, value)

    def _learn_step_sizes(self, step_sizes: StepSizes, estimate: MetaGradient) -> None:
        adapted = {name: estimate.relative_lr[name] for name in self.names_to_adapt}
        self.logger.record("train/inner_lr_clamped", step_sizes.ascend(adapted))
        relative = step_sizes.by_name().values()
        self.logger.record("train/inner_lr_min", self.inner_lr * min(float(value.min()) for value in relative))
        self.logger.record("train/inner_lr_max", self.inner_lr * max(float(value.max()) for value in relative))

    def _compared(self, total_timesteps: int) -> dict[str, Any]:
        """List what all ranks must have in common, besides the arguments of the algorithm."""
        assert self.env is not None
        layers = [self.env]
        while isinstance(layers[-1], VecEnvWrapper):
            layers.append(layers[-1].venv)
        return {
            **{f"The version of {name}": found for name, found in versions().items()},
            "`total_timesteps`": total_timesteps,
            "The kind of `env`": "one environment" if is_made(self.env) else "a VecEnv",
            "`env`": [type(layer).__name__ for layer in layers],
            "The observation space of `env`": self.observation_space,
            "The action space of `env`": self.action_space,
            "The time limit of `env`": find_horizon(self.env),
            "A task of `env`": ask(self.env, "sample_tasks", 1, [0], indices=0)[0],
        }

    # ---------------------------------------------------------------- whole iterations

    def _present(self) -> Boundary:
        return Boundary.of(self, self.changed_by_iterations)

    @contextmanager
    def _whole_iterations(self) -> Iterator[None]:
        """Restore the model to the last boundary when a meta-iteration does not finish."""
        self._boundary = self._present()
        try:
            yield
        finally:
            with undisturbed():
                boundary, self._boundary = self._boundary, None
                boundary.restore(self)

    def save(self, path: SavePath, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """
        Save the model. During a meta-iteration, as in a callback, it saves the state before that iteration. Training then
        resumes with the whole iteration.

        :param path: The file
        :param exclude: The attributes to exclude
        :param include: The attributes to include although they are excluded by default
        """
        if self._boundary is None:
            return super().save(path, exclude, include)
        present = self._present()
        with undisturbed():
            self._boundary.restore(self)
            try:
                super().save(path, exclude, include)
            finally:
                present.restore(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> MetaOnPolicyAlgorithm:
        clone = super().__deepcopy__(memo)
        assert isinstance(clone, MetaOnPolicyAlgorithm)
        if clone._boundary is not None:  # a copy made by a callback is a model by itself, as a saved one
            boundary, clone._boundary = clone._boundary, None
            boundary.restore(clone)
        return clone

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_boundary", "ranks"]

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        if progress_bar:
            given = CallbackList(callback) if isinstance(callback, list) else callback
            given = given if isinstance(given, BaseCallback) else ConvertCallback(given)
            callback = [given, MetaProgressBarCallback()]
        return super()._init_callback(of_rank(callback, self.ranks.rank))

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        # the last meta-iteration overshoots total_timesteps by up to its size, but a schedule must not become negative
        super()._update_current_progress_remaining(min(num_timesteps, total_timesteps), total_timesteps)

    def dump_logs(self, iteration: int = 0) -> None:
        """
        Write the log of an iteration.

        :param iteration: The number of meta-iterations in this call of :meth:`learn`
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
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfMetaAlgorithm:
        """
        Train for at least ``total_timesteps`` samples, counted over all phases. The last meta-iteration is always complete.

        :param total_timesteps: The number of samples
        :param callback: SB3 callbacks
        :param log_interval: The number of iterations between two logs; None writes none
        :param tb_log_name: The name of the run in TensorBoard; the class's name when None
        :param reset_num_timesteps: Whether to count timesteps from zero
        :param progress_bar: Whether to show SB3's progress bar, with the returns before and after adaptation; needs tqdm and
            rich
        :return: The trained model
        """
        if self.env is None:
            raise ValueError("`env` is missing: pass it to `load(path, env=...)` or `set_env(env)` before learning.")
        if not (is_number(total_timesteps) and total_timesteps >= 0):
            raise ValueError(f"`total_timesteps` must not be negative, got {shown(total_timesteps)}.")
        if log_interval is not None:
            check_positive(log_interval=log_interval)
        if tb_log_name is not None:
            check_path("tb_log_name", tb_log_name)
        check_bool("reset_num_timesteps", reset_num_timesteps)
        check_bool("progress_bar", progress_bar)
        check_callback(callback)
        tb_log_name = type(self).__name__ if tb_log_name is None else tb_log_name
        iteration = 0
        with on_ranks(self, lambda: self._compared(total_timesteps)):
            self.check_settings()  # attributes may have changed since construction
            with tasks_released_afterwards(self.env):
                ask(self.env, "set_schedule", [])
                # SB3 resets the workers here, and these episodes are not played
                with frozen_statistics(self.env), early_resets_allowed(self.env):
                    total_timesteps, callback = self._setup_learn(
                        total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
                    )
                callback.on_training_start(locals(), globals())
                with self._whole_iterations():
                    while self.num_timesteps < total_timesteps:
                        rollout = self.collect_rollouts(self.env, callback)
                        if rollout is None:
                            break
                        iteration += 1
                        self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
                        self.train(rollout)
                        self._boundary = self._present()
                        # frees the memory of these episodes before the next ones
                        del rollout
                        callback.update_locals({"traces": None})
                        if log_interval is not None and iteration % log_interval == 0:
                            self.dump_logs(iteration)
                        check_together(self, iteration)
            callback.on_training_end()
        return self

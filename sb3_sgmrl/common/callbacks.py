"""Evaluation of post-adaptation return while training."""

from __future__ import annotations

import os
import pathlib

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EventCallback
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import sync_envs_normalization, unwrap_vec_normalize

from sb3_sgmrl.common.checks import check_positive
from sb3_sgmrl.common.engines import as_task_vec_env
from sb3_sgmrl.common.evaluation import AdaptationReport, evaluate_adaptation
from sb3_sgmrl.common.saving import replace_when_complete


class MetaEvalCallback(EventCallback):
    """
    Evaluate adaptation every ``eval_freq`` meta-iterations and at the end, always on the same tasks, and keep the model with
    the best return after the last inner step.

    ``evaluations.npz`` in ``log_path`` holds ``timesteps`` (n_evaluations,), ``results`` (n_evaluations, n_tasks, n_steps + 1)
    and ``tasks`` (n_tasks, ...). A training that goes on adds to it.

    :param eval_env: where to evaluate: as for the algorithms
    :param callback_on_new_best: called when the return after adaptation is better than ever
    :param callback_after_eval: called after each evaluation
    :param n_tasks: number of tasks, from the test tasks when the environment keeps some
    :param n_steps: number of inner steps; as in training when None
    :param n_episodes: episodes per task and phase; as in training when None
    :param eval_freq: meta-iterations between two evaluations
    :param log_path: folder of ``evaluations.npz``; None writes none
    :param best_model_save_path: folder of ``best_model.zip``; None keeps none
    :param seed: seed of tasks and episodes
    :param verbose: 1 prints each evaluation
    """

    def __init__(
        self,
        eval_env: GymEnv | str,
        callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None,
        n_tasks: int = 40,
        n_steps: int | None = None,
        n_episodes: int | None = None,
        eval_freq: int = 10,
        log_path: str | None = None,
        best_model_save_path: str | None = None,
        seed: int = 0,
        verbose: int = 1,
    ) -> None:
        super().__init__(callback_after_eval, verbose)
        check_positive(n_tasks=n_tasks, eval_freq=eval_freq, n_steps=n_steps or 1, n_episodes=n_episodes or 1)
        self.eval_env = as_task_vec_env(eval_env)
        self.callback_on_new_best = callback_on_new_best
        self.n_tasks = n_tasks
        self.n_steps = n_steps
        self.n_episodes = n_episodes
        self.eval_freq = eval_freq
        self.log_path = log_path
        self.best_model_save_path = best_model_save_path
        self.seed = seed
        self.best_mean_reward = -np.inf
        self.last_report: AdaptationReport | None = None
        self._timesteps: list[int] = []
        self._results: list[np.ndarray] = []
        self._n_rollouts = 0
        self._go_on = True

    def _init_callback(self) -> None:
        if self.callback_on_new_best is not None:
            self.callback_on_new_best.init_callback(self.model)
        file = None if self.log_path is None else pathlib.Path(self.log_path) / "evaluations.npz"
        if file is not None and file.exists() and self.model.num_timesteps > 0 and not self._results:
            with np.load(file) as earlier:
                self._timesteps, self._results = list(earlier["timesteps"]), list(earlier["results"])
            self.best_mean_reward = max(float(result[:, -1].mean()) for result in self._results)

    def _on_rollout_start(self) -> None:
        if self._n_rollouts % self.eval_freq == 0:
            self._evaluate()
        self._n_rollouts += 1

    def _on_step(self) -> bool:
        return self._go_on

    def _on_training_end(self) -> None:
        if not self._timesteps or self._timesteps[-1] != self.num_timesteps:
            self._evaluate()

    def _evaluate(self) -> None:
        self.num_timesteps = self.model.num_timesteps
        if unwrap_vec_normalize(self.training_env) is not None and unwrap_vec_normalize(self.eval_env) is not None:
            sync_envs_normalization(self.training_env, self.eval_env)
        n_steps = self.n_steps or self.model.n_inner_steps  # type: ignore[attr-defined]
        report = evaluate_adaptation(
            self.model, self.eval_env, self.n_tasks, n_steps, self.n_episodes, seed=self.seed  # type: ignore[arg-type]
        )
        self.last_report = report
        self._timesteps.append(self.num_timesteps)
        self._results.append(report.returns)
        if self.log_path is not None:
            with replace_when_complete(os.path.join(self.log_path, "evaluations.npz")) as file:
                np.savez(file, timesteps=self._timesteps, results=self._results, tasks=np.array(report.tasks))
        means = report.mean_returns
        for k, mean in enumerate(means):
            self.logger.record(f"eval/mean_reward_after_{k}", float(mean))
        self.logger.record("eval/mean_reward", float(means[-1]))
        self.logger.record("eval/adaptation_gain", float(means[-1] - means[0]))
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        if self.verbose >= 1:
            print(f"Evaluation after {self.num_timesteps} samples\n{report}")
        if means[-1] > self.best_mean_reward:
            self.best_mean_reward = float(means[-1])
            if self.best_model_save_path is not None:
                self.model.save(os.path.join(self.best_model_save_path, "best_model"))
            if self.callback_on_new_best is not None:
                self._go_on = self.callback_on_new_best.on_step() and self._go_on
        if self.callback is not None:
            self._go_on = self._on_event() and self._go_on

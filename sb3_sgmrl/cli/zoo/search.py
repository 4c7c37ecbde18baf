"""Hyperparameter search in RL Zoo. Importing this module registers the search spaces."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
from rl_zoo3.utils import get_callback_list
from stable_baselines3.common.callbacks import BaseCallback
from tqdm.auto import tqdm

from sb3_sgmrl.algorithms import ALGORITHMS
from sb3_sgmrl.cli.command_line import free_path
from sb3_sgmrl.cli.zoo import checks as zoo_checks
from sb3_sgmrl.cli.zoo import tuning
from sb3_sgmrl.cli.zoo.interrupt import CtrlC
from sb3_sgmrl.cli.zoo.manager import MetaExperimentManager
from sb3_sgmrl.distributed import RankError, start
from sb3_sgmrl.distributed.training import check_n_tasks
from sb3_sgmrl.util.validation import check_positive

HYPERPARAMS_SAMPLER.update({algo: partial(tuning.sample_params, algo) for algo in ALGORITHMS})
HYPERPARAMS_CONVERTER.update(dict.fromkeys(ALGORITHMS, tuning.convert_params))


class SearchManager(MetaExperimentManager):
    """A manager that also handles ``-optimize`` and scores trials by the return after adaptation."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bar: tqdm | None = None
        self._ctrl_c = CtrlC()

    def objective(self, trial: optuna.Trial) -> float:
        """
        Train with sampled hyperparameters, together with the other ranks.

        :param trial: The trial of Optuna
        :return: The return after adaptation at the end
        :raises optuna.TrialPruned: When the trial is not promising, or its numbers overflow
        """
        sampled = HYPERPARAMS_SAMPLER[self.algo](trial, self.n_actions, self.n_envs, {})
        reporter, progress = tuning.ReportToTrial(trial), tuning.TrialProgress(self._bar, self.n_timesteps)
        try:
            if self._ctrl_c.was_pressed:  # Python drops an interrupt that comes while it collects garbage
                raise KeyboardInterrupt
            start().of_first(lambda: (trial.number, sampled))
            value = self._train_trial(trial.number, sampled, reporter, [progress])
        except (KeyboardInterrupt, RankError) as error:  # Ctrl-C may have ended another rank before this one
            self.interrupted = self._ctrl_c.was_pressed or isinstance(error, KeyboardInterrupt)
            if self.interrupted:
                raise KeyboardInterrupt from error
            raise
        finally:
            progress.finish()
        if reporter.is_pruned:
            raise optuna.TrialPruned
        return value

    def _follow(self) -> None:
        """Train the trials of rank 0, which decides on all of them."""
        while (trial := start().of_first(lambda: None)) is not None:
            with suppress(optuna.TrialPruned):
                self._train_trial(*trial)

    def _train_trial(
        self,
        number: int,
        sampled: dict[str, Any],
        after_eval: BaseCallback | None = None,
        callbacks: Sequence[BaseCallback] = (),
    ) -> float:
        ranks = start()
        hyperparams = tuning.merged(self._hyperparams, self._preprocess_schedules(sampled))
        folder = self.optimization_log_path and os.path.join(self.optimization_log_path, f"trial_{number}")
        with ranks.together():
            env = self.create_envs(self.n_envs, no_log=True)
            model = ALGORITHMS[self.algo].cls(
                env=env, seed=self.seed, verbose=max(0, self.verbose - 1), device=self.device, **hyperparams
            )
            evaluation = self._meta_eval_callback(
                self.n_timesteps // self.n_evaluations,
                hyperparams["meta_batch_size"],
                callback_after_eval=after_eval,
                best_model_save_path=folder,
                log_path=folder,
            )
        try:
            model.learn(self.n_timesteps, [*get_callback_list({"callback": self.specified_callbacks}), *callbacks, evaluation])
        except (ValueError, RankError) as error:
            if isinstance(error, RankError) and not error.of_values:
                raise
            print(f"Trial {number} is pruned: {error}")
            raise optuna.TrialPruned from error
        finally:
            env.close()
            evaluation.eval_env.close()
        assert evaluation.last_report is not None
        return float(evaluation.last_report.mean_returns[-1])

    def _check_ranks(self) -> None:
        ranks = start()
        if ranks.size > 1 and self.n_jobs > 1:
            raise ValueError(
                f"`--n-jobs` must be 1 under torchrun, whose processes train each trial together, got {self.n_jobs}."
            )
        sizes = getattr(tuning.search_space(self.algo, self.n_actions > 0).get("meta_batch_size"), "choices", ())
        check_n_tasks(ranks, min([self._settings["meta_batch_size"], *sizes]), " in a trial")

    def hyperparameters_optimization(self) -> None:
        """
        Search hyperparameters as RL Zoo does and write the best settings as an entry for ``--conf-file``.

        The study is kept in a file and starts with the current settings.

        :raises ValueError: When no trial finished, or a trial could have fewer tasks than there are ranks
        :raises KeyboardInterrupt: After everything is written, when Ctrl-C ended the search
        """
        check_positive(**{"--n-trials": self.n_trials, "--n-jobs": self.n_jobs})
        ALGORITHMS[self.algo].cls(env=None, _init_setup_model=False, **self._hyperparams)  # check them before a trial fails
        self._check_ranks()
        if start().rank > 0:
            return self._follow()
        entry = {**self._entry, **({"env_kwargs": self.env_kwargs} if self.env_kwargs else {})}
        path = self.meta.tuned_path or free_path(self.log_path, f"tuned_{self.env_name}", ".yml")
        tuning.check_entry(entry)
        if self.optimization_log_path:
            zoo_checks.check_folder("--optimization-log-path", self.optimization_log_path)
        if self.storage is None:  # use a new study, even if an older study has the same name
            stem, log = os.path.splitext(path)[0], ".log"
            self.storage = free_path(*os.path.split(stem), log) if os.path.exists(stem + log) else stem + log
        self.study_name = self.study_name or self.env_name
        self.tensorboard_log = None  # RL Zoo would only warn that it does not support this log here
        settings = {**self._settings, "policy_kwargs": self._hyperparams.get("policy_kwargs")}
        guess = tuning.first_guess(self.algo, settings, self.n_actions > 0)
        searched_with = {"--algo": self.algo, "--env": self.env_name.gym_id, "-n": self.n_timesteps}
        study = tuning.open_study(self.storage, self.study_name, guess, searched_with)
        resume = f"to resume this study, repeat the command with --storage {self.storage} --study-name {self.study_name}."
        with (
            self._ctrl_c if self.n_jobs == 1 else nullcontext(),  # a second Ctrl-C must end the wait for threads
            tuning.trials_bar(self.show_progress, self.n_trials, self.n_timesteps) as self._bar,
        ):
            try:
                super().hyperparameters_optimization()
            except ValueError as error:
                self.interrupted = self.interrupted or self._ctrl_c.was_pressed
                if tuning.has_best(study):
                    raise
                if not self.interrupted:
                    raise ValueError(f"No trial finished: all trials in {self.storage} were pruned or failed.") from error
            self.interrupted = self.interrupted or self._ctrl_c.was_pressed
            if tuning.has_best(study):
                tuning.write_entry(path, self.env_name.gym_id, entry, study.best_trial, self.n_timesteps)
                print(f"Wrote {path}, for --conf-file; {resume}")
        if not self.interrupted:  # Ctrl-C reaches all ranks
            start().of_first(lambda: None)
        else:
            raise KeyboardInterrupt(f"The best settings so far are in {path}; " * tuning.has_best(study) + resume)

"""Hyperparameter search in RL Zoo. Importing this module registers the search spaces."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
from rl_zoo3.utils import get_callback_list
from tqdm.auto import tqdm

from sb3_sgmrl.algorithms import ALGORITHMS
from sb3_sgmrl.cli.command_line import free_path
from sb3_sgmrl.cli.zoo import checks as zoo_checks
from sb3_sgmrl.cli.zoo import tuning
from sb3_sgmrl.cli.zoo.manager import MetaExperimentManager
from sb3_sgmrl.util.validation import check_positive

HYPERPARAMS_SAMPLER.update({algo: partial(tuning.sample_params, algo) for algo in ALGORITHMS})
HYPERPARAMS_CONVERTER.update(dict.fromkeys(ALGORITHMS, tuning.convert_params))


class SearchManager(MetaExperimentManager):
    """A manager that also handles ``-optimize`` and scores trials by the return after adaptation."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bar: tqdm | None = None

    def objective(self, trial: optuna.Trial) -> float:
        """
        Train with sampled hyperparameters.

        :param trial: The trial of Optuna
        :return: The return after adaptation at the end
        :raises optuna.TrialPruned: When the trial is not promising, or its numbers overflow
        """
        sampled = HYPERPARAMS_SAMPLER[self.algo](trial, self.n_actions, self.n_envs, {})
        hyperparams = tuning.merged(self._hyperparams, self._preprocess_schedules(sampled))
        env = self.create_envs(self.n_envs, no_log=True)
        model = ALGORITHMS[self.algo].cls(
            env=env, seed=self.seed, verbose=max(0, self.verbose - 1), device=self.device, **hyperparams
        )
        reporter, progress = tuning.ReportToTrial(trial), tuning.TrialProgress(self._bar, self.n_timesteps)
        folder = self.optimization_log_path and os.path.join(self.optimization_log_path, f"trial_{trial.number}")
        evaluation = self._meta_eval_callback(
            self.n_timesteps // self.n_evaluations,
            hyperparams["meta_batch_size"],
            callback_after_eval=reporter,
            best_model_save_path=folder,
            log_path=folder,
        )
        try:
            model.learn(self.n_timesteps, [*get_callback_list({"callback": self.specified_callbacks}), progress, evaluation])
        except ValueError as error:
            print(f"Trial {trial.number} is pruned: {error}")
            raise optuna.TrialPruned from error
        except KeyboardInterrupt:
            self.interrupted = True
            raise
        finally:
            env.close()
            evaluation.eval_env.close()
            progress.finish()
        if reporter.is_pruned:
            raise optuna.TrialPruned
        assert evaluation.last_report is not None
        return float(evaluation.last_report.mean_returns[-1])

    def hyperparameters_optimization(self) -> None:
        """
        Search hyperparameters as RL Zoo does and write the best settings as an entry for ``--conf-file``.

        The study is kept in a file and starts with the current settings.

        :raises ValueError: When no trial finished
        :raises KeyboardInterrupt: After everything is written, when Ctrl-C ended the search
        """
        check_positive(**{"--n-trials": self.n_trials, "--n-jobs": self.n_jobs})
        ALGORITHMS[self.algo].cls(env=None, _init_setup_model=False, **self._hyperparams)  # check them before a trial fails
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
        with tuning.trials_bar(self.show_progress, self.n_trials, self.n_timesteps) as self._bar:
            try:
                super().hyperparameters_optimization()
            except ValueError as error:
                if tuning.has_best(study):
                    raise
                if not self.interrupted:
                    raise ValueError(f"No trial finished: all trials in {self.storage} were pruned or failed.") from error
        resume = f"to resume this study, repeat the command with --storage {self.storage} --study-name {self.study_name}."
        if tuning.has_best(study):
            tuning.write_entry(path, self.env_name.gym_id, entry, study.best_trial, self.n_timesteps)
            print(f"Wrote {path}, for --conf-file; {resume}")
        if self.interrupted:
            raise KeyboardInterrupt(f"The best settings so far are in {path}; " * tuning.has_best(study) + resume)

"""
The algorithms in RL Zoo.

Importing this module registers the algorithms in RL Zoo. It also imports ``rl_zoo3``, which replaces Gymnasium's ``TimeLimit``
for the whole process, so only the commands import it.
"""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from typing import Any

import gymnasium as gym
from rl_zoo3.callbacks import SaveVecNormalizeCallback
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EveryNTimesteps, ProgressBarCallback
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize, sync_envs_normalization

from sb3_sgmrl.algorithms import ALGORITHMS
from sb3_sgmrl.cli.zoo import checks as zoo_checks
from sb3_sgmrl.cli.zoo import resume
from sb3_sgmrl.cli.zoo.interrupt import CtrlC
from sb3_sgmrl.cli.zoo.options import MetaOptions
from sb3_sgmrl.cli.zoo.ranks import check_options, checkpoint_callbacks, resume_if_restarted
from sb3_sgmrl.cli.zoo.report import ProgressTable, close_all, next_command, write_report
from sb3_sgmrl.common.adaptation import fit_to_model
from sb3_sgmrl.common.callbacks import MetaEvalCallback, MetaProgressBarCallback
from sb3_sgmrl.common.evaluation import evaluate_adaptation
from sb3_sgmrl.common.files.statistics import with_statistics
from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
from sb3_sgmrl.common.saving import read_file
from sb3_sgmrl.data.streams import EVAL_SEED, REPORT_SEED
from sb3_sgmrl.distributed import n_ranks, start
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv
from sb3_sgmrl.util.threads import n_processors
from sb3_sgmrl.util.validation import check_device, check_positive
from sb3_sgmrl.vec_env.engines import DEFAULT_WORKERS, as_task_vec_env
from sb3_sgmrl.vec_env.task_workers import likely_horizon

_N_EVALUATIONS = 10
# in a search: a trial has a quarter of the samples of a training and this number of evaluations
_TRIALS_PER_TRAINING = 4
_N_EVALUATIONS_OF_A_TRIAL = 4

ALGOS.update({name: algorithm.cls for name, algorithm in ALGORITHMS.items()})


class MetaExperimentManager(ExperimentManager):
    """
    RL Zoo's experiment manager for task families.

    Workers take tasks, in the family's batched form if it has one. Evaluations measure the return after adaptation. Each run
    ends with a report. Zero for ``eval_freq``, ``n_eval_envs`` or ``n_eval_episodes`` selects the default.

    :param args: The arguments of RL Zoo's manager, also as keywords
    :param meta: The options of this package
    """

    def __init__(self, *args: Any, meta: MetaOptions | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_device("--device", self.device)
        self.meta = meta or MetaOptions()
        check_options(self.args, self.meta)
        self._resumes = resume_if_restarted(self, ALGORITHMS[self.algo].cls) or self.meta.resume
        if self.continue_training:
            resume.check_algorithm(self.trained_agent, self.algo)
            if self.optimize_hyperparameters:
                raise ValueError(
                    f"`-optimize` searches with new models, without `--resume` or `-i`, got -i {self.trained_agent}."
                )
        elif self._resumes:
            raise ValueError("`--resume` must be used with `-i MODEL`, the model of the run to resume, and there is no `-i`.")
        for option, count in (("--eval-episodes", self.n_eval_episodes), ("--n-eval-envs", self.n_eval_envs)):
            if count < 0:
                raise ValueError(f"`{option}` must be positive, or 0 for the default, got {count}.")
        self.interrupted = False
        self._zoo_workers = self.meta.zoo_workers
        self._zoo_vec_env_class = self.vec_env_class
        self._given_n_envs: int | None = None
        self._changes: dict[str, Any] = self.custom_hyperparams or {}
        self._settings: dict[str, Any] = {}
        self._entry: dict[str, Any] = {}
        self._statistics: tuple[dict[str, Any] | None] | None = None

    # ---------------------------------------------------------------- hyperparameters

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        Read and check the hyperparameters.

        :return: The hyperparameters, and the hyperparameters to save
        :raises ValueError: When the file is not valid YAML, a name or schedule is unknown, or the number of steps is missing
        """
        if self.continue_training:
            resume.check_changes(self._changes)
            self.custom_hyperparams = (
                resume.saved_hyperparameters(self.trained_agent, ALGORITHMS[self.algo].cls, self.meta.trusted) | self._changes
            )
        given, self.env_kwargs = self.env_kwargs, {}
        with zoo_checks.reading(self.config):
            hyperparams, saved = super().read_hyperparameters()
        zoo_checks.check_hyperparameters(ALGORITHMS[self.algo].cls, hyperparams)
        # RL Zoo would forget the file's arguments for evaluation, and with any on the command line altogether
        of_file = hyperparams.get("env_kwargs") or {}
        self.env_kwargs = of_file | given
        self.eval_env_kwargs = of_file | (self._eval_env_kwargs_args or given)
        if self.env_kwargs:
            hyperparams["env_kwargs"] = saved["env_kwargs"] = self.env_kwargs
        if self.continue_training and "normalize" in hyperparams:
            resume.check_normalization(hyperparams["normalize"], self.trained_agent, self.meta.trusted)
        if self.n_timesteps <= 0:
            zoo_checks.check_n_timesteps(hyperparams.get("n_timesteps"), self.config)
            if self.optimize_hyperparameters:
                self.n_timesteps = max(1, int(hyperparams["n_timesteps"] / _TRIALS_PER_TRAINING))
        self._entry = dict(saved)
        return {"n_timesteps": self.n_timesteps, **hyperparams}, saved

    def _preprocess_hyperparams(
        self, hyperparams: dict[str, Any]
    ) -> tuple[dict[str, Any], Callable | None, list[BaseCallback], Callable | None]:
        self._given_n_envs = hyperparams.get("n_envs")
        n_threads = getattr(self.args, "num_threads", -1)
        if n_threads > 0 and hyperparams.get("n_threads") is None:
            hyperparams = {**hyperparams, "n_threads": n_threads}
        defaults = inspect.signature(ALGORITHMS[self.algo].cls.__init__).parameters
        self._settings = {name: parameter.default for name, parameter in defaults.items()} | hyperparams
        zoo_checks.check_counts(self._settings)
        for name in ("env_wrapper", "vec_env_wrapper", "callback"):
            zoo_checks.check_classes(name, hyperparams.get(name))
        self._zoo_workers = self._zoo_workers or hyperparams.get("env_wrapper") is not None
        if self.n_evaluations is None:
            self.n_evaluations = _N_EVALUATIONS_OF_A_TRIAL
        check_positive(**{"--n-evaluations": self.n_evaluations})
        hyperparams, wrapper, callbacks, vec_env_wrapper = super()._preprocess_hyperparams(
            {"n_envs": self._default_n_envs(), **hyperparams}
        )
        # below the wrappers of the hyperparameters, which may change observations but not the task
        task_wrapper = (lambda env: wrapper(_with_tasks(env))) if wrapper is not None else _with_tasks
        return hyperparams, task_wrapper, callbacks, vec_env_wrapper

    def use_hyperparameters(self, hyperparams: dict[str, Any]) -> None:
        """
        Make environments as a finished run did, without a new experiment.

        :param hyperparams: The hyperparameters of the run
        """
        _, self.env_wrapper, _, self.vec_env_wrapper = self._preprocess_hyperparams({"n_timesteps": 1, **hyperparams})

    def _default_n_envs(self) -> int:
        if self._zoo_workers:
            return n_processors() if self._zoo_vec_env_class is SubprocVecEnv else DEFAULT_WORKERS
        batched = gym.spec(self.env_name.gym_id).vector_entry_point is not None
        return self._n_episodes_side_by_side() if batched else DEFAULT_WORKERS

    def _n_episodes_side_by_side(self) -> int:
        return -(-self._settings["meta_batch_size"] // n_ranks()) * max(self._episode_counts())

    def _episode_counts(self) -> tuple[int, int]:
        inner = self._settings["n_episodes"]
        return inner, self._settings["n_outer_episodes"] or inner

    # ---------------------------------------------------------------- environments

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """
        Make workers that take tasks.

        :param n_envs: The number of workers, if RL Zoo's VecEnv of single environments plays
        :param eval_env: Whether the workers are for evaluation, which does not update statistics of VecNormalize
        :param no_log: Whether to write no monitor files
        :return: The workers, in all wrappers of the hyperparameters
        """
        if self._zoo_workers:
            self.vec_env_class = self._zoo_vec_env_class
            return super().create_envs(n_envs or self._default_n_envs(), eval_env, no_log)
        wanted = (n_envs or None) if eval_env else self._given_n_envs
        n_eval_columns = -(-self.meta.n_tasks // n_ranks()) * self._n_eval_episodes()
        columns = n_eval_columns if eval_env else self._n_episodes_side_by_side()
        env_kwargs = self.eval_env_kwargs if eval_env else self.env_kwargs
        verbose = 0 if eval_env or self.optimize_hyperparameters else self.verbose

        def make(_: list[Callable[[], gym.Env]]) -> VecEnv:
            env = _with_tasks(gym.make(self.env_name.gym_id, **env_kwargs))
            return as_task_vec_env(env, wanted, columns, verbose=verbose)

        self.vec_env_class = make  # type: ignore[assignment]  # RL Zoo only calls it
        return super().create_envs(1, eval_env, no_log)

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        print("The model keeps its settings and random streams: `-params` changes settings, and `--seed` has no effect.")
        changes = {name: value for name, value in hyperparams.items() if name in {*self._changes, "n_threads"}}
        return ALGORITHMS[self.algo].cls.load(  # RL Zoo's method would look for a pickle beside the model
            self.trained_agent,
            env=env,
            device=self.device,
            trusted=self.meta.trusted,
            tensorboard_log=self.tensorboard_log,
            verbose=self.verbose,
            **changes,
        )

    def create_viewer(self, render_mode: str) -> VecEnv:
        """
        Make a worker that renders its episodes.

        :param render_mode: The render mode: ``human`` for a window, ``rgb_array`` for pictures
        :return: One worker
        """
        self.vec_env_class, env_kwargs = DummyVecEnv, self.eval_env_kwargs
        self.eval_env_kwargs = {**env_kwargs, "render_mode": render_mode}
        try:
            return super().create_envs(1, eval_env=True)
        finally:
            self.eval_env_kwargs = env_kwargs

    def render_modes(self) -> list[str]:
        """
        Return the render modes of the environment.

        :return: The render modes
        """
        env = gym.make(self.env_name.gym_id, **self.env_kwargs)
        env.close()
        return list(env.metadata.get("render_modes", []))

    @property
    def statistics_folder(self) -> str:
        """The folder in which RL Zoo looks for the VecNormalize statistics of the loaded model."""
        return os.path.join(os.path.dirname(self.trained_agent), self.env_name)

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        statistics = self._saved_statistics()
        if statistics is not None:
            env = with_statistics(env, statistics)
        elif self.meta.trusted and self.trained_agent and os.path.exists(f"{self.statistics_folder}/vecnormalize.pkl"):
            env = VecNormalize.load(f"{self.statistics_folder}/vecnormalize.pkl", env)
        elif self.normalize:
            env = VecNormalize(env, **self.normalize_kwargs)
            if self.verbose > 0:
                print(f"Normalization activated: {self.normalize_kwargs or 'of observations and rewards'}")
        # so that the statistics of a resumed model are saved again
        self.normalize = self.normalize or isinstance(env, VecNormalize)
        if eval_env and isinstance(env, VecNormalize):
            # adaptation uses the rewards of training; reported returns are never normalised
            env.training = False
        return env

    def _saved_statistics(self) -> dict[str, Any] | None:
        """Return the statistics in the pretrained model's own file. RL Zoo's file of statistics, a pickle, is not read."""
        if not self.trained_agent:
            return None
        if self._statistics is None:
            self._statistics = (read_file(self.trained_agent, self.meta.trusted).statistics,)
        return self._statistics[0]

    # ---------------------------------------------------------------- evaluation

    def create_callbacks(self) -> None:
        """Make RL Zoo's callbacks, with a log for plots and an evaluation of adaptation instead of RL Zoo's evaluation."""
        eval_freq, self.eval_freq, save_freq, self.save_freq = self.eval_freq, -1, self.save_freq, -1
        super().create_callbacks()
        self.callbacks = [MetaProgressBarCallback() if type(c) is ProgressBarCallback else c for c in self.callbacks]
        if self.optimize_hyperparameters:
            return
        if save_freq > 0:  # RL Zoo would count calls and assume that all workers play in each call
            self.callbacks.append(EveryNTimesteps(save_freq, CheckpointCallback(1, self.save_path, verbose=self.verbose)))
        self.callbacks += checkpoint_callbacks(self.log_folder, self.save_path)
        self.callbacks.append(ProgressTable(self.save_path))
        if eval_freq < 0:
            return
        if self.meta.resume:
            resume.bring_evaluations(self.trained_agent, self.save_path, self.meta.trusted)
        save_statistics = SaveVecNormalizeCallback(save_freq=1, save_path=self.params_path)
        self.callbacks.append(
            self._meta_eval_callback(
                eval_freq or self.n_timesteps // _N_EVALUATIONS,
                callback_on_new_best=save_statistics,
                best_model_save_path=self.save_path,
                log_path=self.save_path,
            )
        )

    def _meta_eval_callback(self, eval_freq: int, meta_batch_size: int | None = None, **kwargs: Any) -> MetaEvalCallback:
        """Make a callback that evaluates about every ``eval_freq`` samples, at most once per meta-iteration."""
        env = self.create_envs(self.n_eval_envs, eval_env=True)
        n_inner, n_outer = self._episode_counts()
        n_episodes = self._settings["n_inner_steps"] * n_inner + n_outer
        samples = (meta_batch_size or self._settings["meta_batch_size"]) * n_episodes * likely_horizon(env)
        return MetaEvalCallback(
            env,
            n_tasks=self.meta.n_tasks,
            n_episodes=self._n_eval_episodes(),
            eval_freq=max(1, round(eval_freq / samples)),
            seed=EVAL_SEED,
            verbose=0,
            **kwargs,
        )

    def _n_eval_episodes(self) -> int:
        return self.n_eval_episodes or self._settings["n_episodes"]

    # ---------------------------------------------------------------- running

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        """
        Make the model, or search hyperparameters.

        :return: The model and its hyperparameters; None for ``-optimize``
        """
        result = None
        try:
            made = super().setup_experiment()
            if made is not None and self.eval_env_kwargs != self.env_kwargs:
                self._check_eval_env(made[0])
            result = made
        finally:
            if result is None:  # RL Zoo would use a folder without a model as the latest run
                shutil.rmtree(self.save_path, ignore_errors=True)
        return result

    def _check_eval_env(self, model: BaseAlgorithm) -> None:
        """Find wrong ``--eval-env-kwargs`` before training; without evaluations they first serve the report at its end."""
        assert isinstance(model, MetaOnPolicyAlgorithm)
        try:
            with closing(self.create_envs(self.n_eval_envs, eval_env=True)) as env:
                fit_to_model(model, env)
        except (ValueError, TypeError) as error:
            text = " ".join(str(error).split()).rstrip(".")
            raise ValueError(f"`--eval-env-kwargs` must make an environment as in training: {text}.") from error

    def learn(self, model: BaseAlgorithm) -> None:
        """
        Train until the end or Ctrl-C, and save the model.

        :param model: The model from :meth:`setup_experiment`
        """
        # in RL Zoo, -1 selects the algorithm's default interval, and a number below -1 means never
        kwargs: dict[str, Any] = (
            {} if self.log_interval == -1 else {"log_interval": self.log_interval if self.log_interval >= 0 else None}
        )
        with CtrlC() as ctrl_c:
            try:
                n_left = max(self.n_timesteps - model.num_timesteps * self._resumes, 0)
                model.learn(n_left, self.callbacks, reset_num_timesteps=not self._resumes, **kwargs)
                ctrl_c.spare_saving()
            except KeyboardInterrupt:
                self.interrupted = True
            except Exception:
                ctrl_c.spare_saving()
                if not ctrl_c.was_pressed:  # Ctrl-C also ends worker processes
                    if model.num_timesteps > 0:
                        super().save_trained_model(model)
                    else:
                        shutil.rmtree(self.save_path, ignore_errors=True)
                    raise
            finally:
                close_all(self.callbacks, model.env)
            super().save_trained_model(model)
        self.interrupted = self.interrupted or ctrl_c.was_pressed

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """
        Evaluate adaptation of the saved model on new tasks and write the report into the run's folder.

        :param model: The trained model
        :raises KeyboardInterrupt: When Ctrl-C ended training
        """
        if self.interrupted:
            raise KeyboardInterrupt(f"The model is saved in {self._model_path}.")
        assert isinstance(model, MetaOnPolicyAlgorithm) and model.env is not None
        n_tasks, n_steps = self.meta.n_tasks, self.meta.n_steps or max(3, model.n_inner_steps)
        try:
            with closing(self.create_envs(self.n_eval_envs, eval_env=True)) as env:
                sync_envs_normalization(model.env, env)
                ranks = start()
                n_episodes = self._n_eval_episodes()
                report = evaluate_adaptation(model, env, n_tasks, n_steps, n_episodes, seed=REPORT_SEED, ranks=ranks)
                print(f"\nReturn before and after adaptation of the trained policy, on {n_tasks} new tasks")
                print(f"{report}\n")
                if ranks.rank == 0:
                    write_report(self.save_path, model, env, report)
                    print(f"\nAdapt to one task: {next_command(self.algo, self.env_name.gym_id, self._model_path)}")
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"The trained model is saved in {self._model_path}.") from None

    @property
    def _model_path(self) -> str:
        return f"{self.save_path}/{self.env_name}.zip"


def _with_tasks(env: gym.Env) -> gym.Env:
    return env if is_wrapped(env, TaskDistEnv) else TaskDistEnv(env)

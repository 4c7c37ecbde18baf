"""Callbacks: evaluation of post-adaptation return while training, and a progress bar that shows it."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.utils.env_checker import data_equivalence
from stable_baselines3.common.callbacks import BaseCallback, EventCallback, ProgressBarCallback
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import unwrap_vec_normalize

from sb3_sgmrl.common.adaptation import AdaptiveModel, fit_to_model
from sb3_sgmrl.common.evaluation import AdaptationReport, draw_test_tasks, evaluate_adaptation
from sb3_sgmrl.distributed import ALONE, Ranks, n_ranks
from sb3_sgmrl.util.arrays import read_arrays
from sb3_sgmrl.util.files import replace_when_complete
from sb3_sgmrl.util.user_warnings import warn_user
from sb3_sgmrl.util.validation import check_path, check_positive, check_seed, check_verbosity, shown
from sb3_sgmrl.vec_env.engines import make_task_env

# the algorithms' default, for the number of columns before the model is known
_USUAL_EPISODES = 20
_OTHER_FOLDER = "choose another `log_path` or move the file away"


class MetaEvalCallback(EventCallback):
    """
    Evaluate adaptation on fixed tasks while training, and save the best model.

    It evaluates before every ``eval_freq``-th meta-iteration and at the end of training. The best model has the highest
    return after the last inner step. Pass the callback to ``learn`` itself, alone or in a list. Inside an event such as
    ``EveryNTimesteps(n_steps, ...)`` it would never evaluate, and raises a ValueError. A meta-iteration has
    ``meta_batch_size * (n_inner_steps * n_episodes + n_outer_episodes)`` episodes.

    ``evaluations.npz`` in ``log_path`` holds ``timesteps`` (n_evaluations,), ``results`` (n_evaluations, n_tasks, n_steps + 1)
    and ``tasks`` (n_tasks, ...), as JSON when tasks are not numbers. A resumed run appends to it. A new run, from timestep 0,
    replaces ``best_model.zip`` and renames an existing ``evaluations.npz`` to ``evaluations_1.npz`` and so on. Without
    ``log_path``, a new callback does not know the return of an existing ``best_model.zip``, and replaces it at the first
    evaluation.

    :param eval_env: The environment to evaluate in, as for the algorithms; wrap it in a VecNormalize if training uses one
    :param callback_on_new_best: The callback to call when the return after adaptation is the best so far
    :param callback_after_eval: The callback to call after each evaluation
    :param n_tasks: The number of tasks; test tasks when the environment has some
    :param n_steps: The number of inner steps; as in training when None
    :param n_episodes: The number of episodes per task and phase; as in training when None
    :param eval_freq: The number of meta-iterations between two evaluations
    :param log_path: The folder of ``evaluations.npz``; None writes none
    :param best_model_save_path: The folder of ``best_model.zip``; None keeps none
    :param seed: The seed of tasks and episodes
    :param verbose: The verbosity; 1 prints each evaluation
    :raises ValueError: When a count is not positive, the seed is negative, a path is not a folder, or the environment has no
        tasks or time limit. ``learn`` raises it when the environment does not match the model, or when it cannot append to
        ``evaluations.npz``
    """

    model: AdaptiveModel
    # the tasks of an evaluation are shared; rank 0 has the files
    on_every_rank = True

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
        events = {"callback_on_new_best": callback_on_new_best, "callback_after_eval": callback_after_eval}
        for name, event in events.items():
            if event is not None and not isinstance(event, BaseCallback):
                raise ValueError(f"`{name}` must be a BaseCallback, got {shown(event)}.")
        super().__init__(callback_after_eval, verbose)
        given = {"n_steps": n_steps, "n_episodes": n_episodes}
        counts = {name: value for name, value in given.items() if value is not None}
        check_positive(n_tasks=n_tasks, eval_freq=eval_freq, **counts)
        check_seed(seed)
        check_verbosity("verbose", verbose)
        for name, path in (("log_path", log_path), ("best_model_save_path", best_model_save_path)):
            if path is None:
                continue
            check_path(name, path)
            if os.path.isfile(path):
                raise ValueError(f"`{name}` must be a folder, but {path} is a file.")
        with _called_eval_env():
            self.eval_env = make_task_env(eval_env, -(-n_tasks // n_ranks()) * (n_episodes or _USUAL_EPISODES))
        self.callback_on_new_best = callback_on_new_best
        if callback_on_new_best is not None:
            callback_on_new_best.parent = self
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
        self._first_iteration = 0
        self._go_on = True

    @property
    def _file(self) -> pathlib.Path | None:
        return None if self.log_path is None else pathlib.Path(self.log_path) / "evaluations.npz"

    @property
    def evaluations_timesteps(self) -> list[int]:
        """The timesteps of the evaluations, as in SB3's EvalCallback."""
        return list(self._timesteps)

    def _n_steps(self) -> int:
        return self.model.n_inner_steps if self.n_steps is None else self.n_steps

    def _init_callback(self) -> None:
        with _called_eval_env():
            fit_to_model(self.model, self.eval_env)
        self._tasks = draw_test_tasks(self.eval_env, self.n_tasks, self.seed)
        self._go_on = True
        self._ranks: Ranks = getattr(self.model, "ranks", ALONE)
        if self._ranks.rank > 0:
            self._first_iteration = 0
        elif self.model.num_timesteps == 0:
            self._start_anew()
        else:
            self._continue()
        self._first_iteration = self._ranks.of_first(lambda: self._first_iteration)
        if self.callback_on_new_best is not None:
            self.callback_on_new_best.init_callback(self.model)

    def _start_anew(self) -> None:
        self._timesteps, self._results = [], []
        self._first_iteration = self.model._iteration
        self.best_mean_reward = -np.inf
        if self._file is not None:
            _move_aside(self._file)

    def _continue(self) -> None:
        if self._file is not None and self._file.exists():
            self._timesteps, self._results = self._read(self._file)
            self.best_mean_reward = max([float(result[:, -1].mean()) for result in self._results], default=-np.inf)
        rows = list(zip(self._timesteps, self._results, strict=True))
        kept = [row for row in rows if row[0] <= self.model.num_timesteps]
        if len(kept) == len(rows):
            return
        # the model is older than the last rows, which belong to another run
        self._timesteps, self._results = [timestep for timestep, _ in kept], [result for _, result in kept]
        if self._file is not None:
            _move_aside(self._file)
            self._write(self._file)

    def _read(self, file: pathlib.Path) -> tuple[list[int], list[np.ndarray]]:
        try:
            saved, results, tasks = read_arrays(file, ("timesteps", "results", "tasks"))
            timesteps = saved.tolist()
            shape = (len(timesteps), self.n_tasks, self._n_steps() + 1)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"`log_path` holds {file}, which is broken or was not written by a MetaEvalCallback: {_OTHER_FOLDER}."
            ) from error
        if results.shape != shape or not _are_same(tasks, _task_array(self._tasks)):
            raise ValueError(
                f"`log_path` holds {file} with other tasks or inner steps than `eval_env`, `n_tasks={self.n_tasks}`, "
                f"`n_steps={self._n_steps()}` and `seed={self.seed}` give: use those of before, or {_OTHER_FOLDER}."
            )
        return timesteps, list(results)

    def _write(self, path: pathlib.Path) -> None:
        with replace_when_complete(path) as file:
            np.savez(file, timesteps=self._timesteps, results=self._results, tasks=_task_array(self._tasks))

    def _on_training_start(self) -> None:
        super()._on_training_start()
        if isinstance(self.parent, EventCallback):
            raise ValueError(
                f"A MetaEvalCallback inside {type(self.parent).__name__} would never evaluate: pass it to "
                "`learn(callback=...)` itself, and set `eval_freq` to a number of meta-iterations."
            )

    def _on_rollout_start(self) -> None:
        if (self.model._iteration - self._first_iteration) % self.eval_freq == 0:
            self._evaluate()

    def _on_step(self) -> bool:
        return self._go_on

    def _on_training_end(self) -> None:
        self._evaluate()

    def _evaluate(self) -> None:
        self.num_timesteps = self.model.num_timesteps
        if self._ranks.of_first(lambda: self.num_timesteps in self._timesteps):
            return
        self._synchronise_statistics()
        report = evaluate_adaptation(
            self.model,
            self.eval_env,
            n_steps=self._n_steps(),
            n_episodes=self.n_episodes,
            tasks=self._tasks,
            seed=self.seed,
            ranks=self._ranks,
        )
        self.last_report = report
        if self._ranks.rank > 0:
            return
        self._timesteps.append(self.num_timesteps)
        self._results.append(report.returns)
        means = report.mean_returns
        # the model before its evaluation: a kill in between repeats the evaluation, and leaves the best model
        is_best = means[-1] > self.best_mean_reward
        if is_best and self.best_model_save_path is not None:
            self.model.save(os.path.join(self.best_model_save_path, "best_model"))
        if self._file is not None:
            self._write(self._file)
        for k, mean in enumerate(means):
            self.logger.record(f"eval/mean_reward_after_{k}", float(mean))
        self.logger.record("eval/mean_reward", float(means[-1]))
        self.logger.record("eval/adaptation_gain", float(means[-1] - means[0]))
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        if self.verbose >= 1:
            print(f"Evaluation after {self.num_timesteps} samples\n{report}")
        if is_best:
            self.best_mean_reward = float(means[-1])
            if self.callback_on_new_best is not None:
                self._go_on = self.callback_on_new_best.on_step() and self._go_on
        if self.callback is not None:
            self._go_on = self._on_event() and self._go_on

    def _synchronise_statistics(self) -> None:
        training, evaluation = self.model.get_vec_normalize_env(), unwrap_vec_normalize(self.eval_env)
        if training is None or evaluation is None:
            return
        # SB3's sync_envs_normalization needs the same wrappers in both environments
        for name in ("obs_rms", "ret_rms"):
            if hasattr(training, name):
                setattr(evaluation, name, deepcopy(getattr(training, name)))


def check_callback(callback: Any) -> None:
    """
    Check the argument ``callback`` of ``learn``.

    :param callback: Its value
    :raises ValueError: When it is neither a callback, a function, a list of callbacks nor None
    """
    given = callback if isinstance(callback, list) else [] if callback is None else [callback]
    for one in given:
        is_function = callable(one) and not isinstance(one, type) and not isinstance(callback, list)
        if not isinstance(one, BaseCallback) and not is_function:
            raise ValueError(f"`callback` must be a BaseCallback, a list of them, or a function, got {shown(one)}.")


@contextmanager
def _called_eval_env() -> Iterator[None]:
    """Name the argument of the callback in errors about an environment."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise type(error)(str(error).replace("`env`", "`eval_env`")) from error


def _task_array(tasks: Sequence[Any]) -> np.ndarray:
    """Make an array (n_tasks, …), or (n_tasks,) of JSON when tasks are not numbers or do not stack."""
    with suppress(ValueError):
        stacked = np.array(tasks)
        if stacked.dtype.kind in "biuf":
            return stacked
    return np.array([json.dumps(task, default=_plain) for task in tasks])


def _are_same(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other) if "U" in (one.dtype.kind, other.dtype.kind) else data_equivalence(one, other)


def _plain(value: Any) -> Any:
    """Convert arrays in tasks to lists, and anything else to text."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else repr(value)


def _move_aside(file: pathlib.Path) -> None:
    if not file.exists():
        return
    number = 1
    while (aside := file.with_name(f"{file.stem}_{number}{file.suffix}")).exists():
        number += 1
    file.rename(aside)
    warn_user(f"`log_path` holds {file.name} of another training, which is kept as {aside}.")


class MetaProgressBarCallback(ProgressBarCallback):
    """
    A progress bar with the number of the meta-iteration and its mean returns before and after adaptation.

    It is SB3's in a terminal, and a widget in a notebook.

    The time left refers to ``total_timesteps``.

    :raises ImportError: When tqdm or rich is missing
    """

    def _on_training_start(self) -> None:
        from tqdm.auto import tqdm

        self.pbar = tqdm(total=self.locals["total_timesteps"] - self.model.num_timesteps)
        self._iteration = 0
        self._timesteps_before = self.model.num_timesteps

    def _on_step(self) -> bool:
        # counts timesteps, because some workers may be idle; the last meta-iteration overshoots the total
        done = min(self.model.num_timesteps - self._timesteps_before, self.pbar.total)
        self.pbar.update(done - self.pbar.n)
        return True

    def _on_rollout_end(self) -> None:
        self._iteration += 1
        returns = [self.logger.name_to_value[f"rollout/ep_rew_mean_{name}"] for name in ("pre", "post")]
        self.pbar.set_description("iteration {}, return {:.1f} → {:.1f}".format(self._iteration, *returns))

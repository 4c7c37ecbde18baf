"""What adaptation is worth: returns before and after each inner step, on unseen tasks."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.type_aliases import GymEnv

from sb3_sgmrl.common.adaptation import EVALUATION, play_and_adapt
from sb3_sgmrl.common.batch import PhaseBatch
from sb3_sgmrl.common.checks import check_positive
from sb3_sgmrl.common.engines import as_task_vec_env
from sb3_sgmrl.common.sampling import check_task_workers, check_tasks, tasks_released_afterwards
from sb3_sgmrl.common.saving import replace_when_complete

if TYPE_CHECKING:
    from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm

_BOOTSTRAP_SAMPLES = 10_000


@dataclass(frozen=True)
class AdaptationReport:
    """
    Undiscounted returns of the meta-policy and of the policies adapted to each task.

    :param tasks: the tasks
    :param returns: mean over episodes, shape (n_tasks, n_steps + 1); column k is after k inner steps
    """

    tasks: Sequence[Any]
    returns: np.ndarray

    @property
    def mean_returns(self) -> np.ndarray:
        """Mean over tasks, shape (n_steps + 1,)."""
        return self.returns.mean(0)

    def confidence_interval(self, level: float = 0.95) -> np.ndarray:
        """
        Percentile bootstrap over tasks of :attr:`mean_returns`, the same whenever it is asked for.

        :param level: coverage, in (0, 1)
        :return: lower and upper ends, shape (n_steps + 1, 2)
        :raises ValueError: for a level outside (0, 1)
        """
        if not 0 < level < 1:
            raise ValueError(f"`level` must lie between 0 and 1, got {level}.")
        n = len(self.returns)
        index = np.random.default_rng(0).integers(n, size=(_BOOTSTRAP_SAMPLES, n))
        tails = [(1 - level) / 2, (1 + level) / 2]
        return np.quantile(self.returns[index].mean(1), tails, axis=0).T

    def to_csv(self, path: str | pathlib.Path) -> None:
        """
        Write one row per task: the task, then its return after 0, 1, … inner steps.

        :param path: the file; an existing one is replaced when everything was written
        """
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["task", *(f"return_after_{k}" for k in range(self.returns.shape[1]))])
        for task, row in zip(self.tasks, self.returns, strict=True):
            shown = " ".join(str(x) for x in np.ravel(task)) if isinstance(task, np.ndarray) else task
            writer.writerow([shown, *row])
        with replace_when_complete(path) as file:
            file.write(text.getvalue().encode())

    def __str__(self) -> str:
        rows = [f"{'inner steps':>11} {'mean return':>12}   95 % interval over {len(self.tasks)} tasks"]
        for k, (mean, (low, high)) in enumerate(zip(self.mean_returns, self.confidence_interval(), strict=True)):
            rows.append(f"{k:>11} {mean:>12.2f}   [{low:.2f}, {high:.2f}]")
        return "\n".join(rows)


def evaluate_adaptation(
    model: MetaOnPolicyAlgorithm,
    env: GymEnv | str | None = None,
    n_tasks: int = 40,
    n_steps: int = 1,
    n_episodes: int | None = None,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
) -> AdaptationReport:
    """
    Adapt to tasks and measure the return before and after each inner step. Actions are drawn from the policy, as in training.

    :param model: a trained model; it stays as it is
    :param env: where to play; the model's environment when None
    :param n_tasks: number of tasks drawn, from the test tasks when the environment keeps some
    :param n_steps: number of inner steps, also more than in training
    :param n_episodes: episodes per task, both to adapt with and to measure; as in training when None
    :param tasks: these tasks instead of drawn ones
    :param seed: seed of tasks and episodes; equal seeds give equal tasks and paired comparisons
    :return: the report
    :raises ValueError: for non-positive counts or an environment without tasks
    """
    n_episodes = model.n_episodes if n_episodes is None else n_episodes
    check_positive(n_tasks=n_tasks, n_steps=n_steps, n_episodes=n_episodes)
    vec_env = model.env if env is None else model._wrap_env(as_task_vec_env(env, n_columns=n_tasks * n_episodes))
    if vec_env is None:
        raise ValueError("`env` is missing, and the model has no environment of its own.")
    check_task_workers(vec_env)
    if tasks is None:
        tasks = vec_env.env_method("sample_tasks", n_tasks, [seed, EVALUATION, 0], "test", indices=0)[0]
    check_tasks(vec_env, tasks)
    columns: list[np.ndarray] = []

    def keep(index: int, phase: PhaseBatch) -> None:
        columns.append(phase.episode_returns.mean(1))

    counts = [n_episodes] * (n_steps + 1)
    with tasks_released_afterwards(vec_env):
        play_and_adapt(
            vec_env, model.functional, model.objective, tasks, counts, [seed, EVALUATION, 1], model.n_threads, on_phase=keep
        )
    return AdaptationReport(list(tasks), np.stack(columns, axis=1))

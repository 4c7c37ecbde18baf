"""Evaluation of adaptation: returns before and after each inner step, on unseen tasks."""

from __future__ import annotations

import csv
import io
import pathlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from sb3_sgmrl.common.adaptation import AdaptiveModel, env_to_adapt_in
from sb3_sgmrl.common.phases import play_and_adapt
from sb3_sgmrl.common.sampling import OnStep
from sb3_sgmrl.data.batch import PhaseBatch
from sb3_sgmrl.data.streams import EVALUATION
from sb3_sgmrl.distributed import ALONE, Ranks
from sb3_sgmrl.gradient.memory import check_memory
from sb3_sgmrl.tasks.columns import TASK, from_columns, is_record, read_cell, task_like, to_columns, write_text
from sb3_sgmrl.util.files import replace_when_complete
from sb3_sgmrl.util.progress import with_progress
from sb3_sgmrl.util.validation import check_bool, check_inner_steps, check_path, check_positive, check_seed, shown
from sb3_sgmrl.vec_env.borrowing import borrowed_workers
from sb3_sgmrl.vec_env.task_workers import ask, check_tasks, find_horizon

_BOOTSTRAP_SAMPLES = 10_000
# called with the number of episodes that ended in a step
Count = Callable[[int], None]


@runtime_checkable
class AdaptsByItself(Protocol):
    """A method of another kind, such as a baseline, that can be evaluated beside the meta-learners."""

    n_episodes: int

    def workers(self, env: GymEnv | str | None, n_tasks: int, n_episodes: int) -> AbstractContextManager[VecEnv]:
        """
        Provide workers to evaluate in.

        :param env: The environment; that of training when None
        :param n_tasks: The number of tasks
        :param n_episodes: The number of episodes per task and step
        :return: The workers, for a ``with`` statement
        """

    def adaptation_returns(
        self, env: VecEnv, tasks: Sequence[Any], n_steps: int, n_episodes: int, entropy: Sequence[int], count: Count
    ) -> np.ndarray:
        """
        Play and adapt, with as many episodes as a meta-learner.

        :param env: The workers
        :param tasks: The tasks
        :param n_steps: The number of steps of adaptation
        :param n_episodes: The number of episodes per task and step
        :param entropy: The entropy that names the random stream
        :param count: A function to call with the number of episodes that ended
        :return: The mean returns before and after each step, shape (n_tasks, n_steps + 1)
        """


def inner_steps(n: int) -> str:
    """
    Write a number of inner steps in words.

    :param n: The number
    :return: The text
    """
    return f"{n} inner step{'s' * (n != 1)}"


def after(k: int) -> str:
    """
    Write in words after how many inner steps something is measured.

    :param k: The number of inner steps
    :return: The text
    """
    return "before adaptation" if k == 0 else f"after {inner_steps(k)}"


@dataclass(frozen=True)
class AdaptationReport:
    """
    The undiscounted returns of the meta-policy and of the policies adapted to each task.

    :param tasks: The tasks
    :param returns: The means over episodes, shape (n_tasks, n_steps + 1); column k is after k inner steps
    :param measure: The name of the measure, for tables
    """

    tasks: Sequence[Any]
    returns: np.ndarray
    measure: str = "return"

    @property
    def mean_returns(self) -> np.ndarray:
        """The mean over tasks, shape (n_steps + 1,)."""
        return self.returns.mean(0)

    def confidence_interval(self, level: float = 0.95) -> np.ndarray:
        """
        Compute a percentile bootstrap interval of :attr:`mean_returns` over tasks. It is deterministic.

        :param level: The coverage, in (0, 1)
        :return: The lower and upper ends, shape (n_steps + 1, 2)
        :raises ValueError: When the level is outside (0, 1)
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

        Blanks separate the numbers of a task that is an array or a sequence. Each part of a dictionary or a dataclass has a
        column, such as ``task.goal.0``.

        :param path: The file; an existing one is replaced once everything is written
        """
        text = io.StringIO()
        writer = csv.writer(text)
        cells = [to_columns(task) if is_record(task) else None for task in self.tasks]
        if any(of_task is None for of_task in cells):
            cells = [{TASK: _written_task(task)} for task in self.tasks]
        names = list(dict.fromkeys(name for of_task in cells for name in of_task or {}))
        writer.writerow([*names, *(f"{self.measure.replace(' ', '_')}_after_{k}" for k in range(self.returns.shape[1]))])
        for of_task, row in zip(cells, self.returns, strict=True):
            writer.writerow([*((of_task or {}).get(name, "") for name in names), *row])
        with replace_when_complete(path) as file:
            file.write(text.getvalue().encode())

    @classmethod
    def from_csv(cls, path: str | pathlib.Path, example: Any = None) -> AdaptationReport:
        """
        Read what :meth:`to_csv` wrote.

        :param path: The file
        :param example: A task of the family, whose types the tasks get, such as its dataclass
        :return: The report; without an example, tasks of numbers become arrays, dataclasses dictionaries, other tasks text
        :raises ValueError: When the file is not such a report, or the tasks are not like the example
        """
        check_path("path", path)
        try:
            with open(path, newline="", encoding="utf-8") as file:
                header, *rows = [*csv.reader(file)] or [[]]
        except (UnicodeDecodeError, csv.Error):  # the file is not a table
            header, rows = [], []
        names = [name for name in header if name == TASK or name.startswith(f"{TASK}.")]
        n, n_returns = len(names), len(header) - len(names)
        measure = header[n].removesuffix("_after_0") if n_returns > 0 else ""
        expected = [*(names or [TASK]), *(f"{measure}_after_{k}" for k in range(n_returns))]
        try:
            returns = np.array([[float(text) for text in row[n:]] for row in rows])
        except ValueError:
            returns = np.empty(0)
        if header != expected or returns.shape != (len(rows), n_returns) or returns.size == 0:
            raise ValueError(
                f"{path} is not a report of an AdaptationReport: it must have a row per task, with returns after each step."
            )
        if names == [TASK]:
            tasks = [_read_task(row[0]) for row in rows]
        else:
            tasks = [from_columns(dict(zip(names, row, strict=False))) for row in rows]
        tasks = tasks if example is None else [task_like(task, example) for task in tasks]
        return cls(tasks, returns, measure.replace("_", " "))

    def _repr_html_(self) -> str:
        """Show a table in a notebook."""
        header = (
            f"<tr><th>inner steps</th><th>mean {self.measure}</th><th>95 % interval over {len(self.tasks)} tasks</th></tr>"
        )
        rows = [
            f"<tr><td>{k}</td><td>{mean:.2f}</td><td>[{low:.2f}, {high:.2f}]</td></tr>"
            for k, (mean, (low, high)) in enumerate(zip(self.mean_returns, self.confidence_interval(), strict=True))
        ]
        return f"<table>{header}{''.join(rows)}</table>"

    def __str__(self) -> str:
        rows = [f"{'inner steps':>11} {f'mean {self.measure}':>12}   95 % interval over {len(self.tasks)} tasks"]
        for k, (mean, (low, high)) in enumerate(zip(self.mean_returns, self.confidence_interval(), strict=True)):
            rows.append(f"{k:>11} {mean:>{max(12, 5 + len(self.measure))}.2f}   [{low:.2f}, {high:.2f}]")
        return "\n".join(rows)


def _written_task(task: Any) -> Any:
    if isinstance(task, Sequence) and not isinstance(task, str):
        try:
            numbers = np.asarray(task)
        except ValueError:  # the parts have different shapes
            return task
        task = numbers if numbers.dtype.kind in "iuf" else task
    if isinstance(task, str):
        return write_text(task)
    return " ".join(str(x) for x in np.ravel(task)) if isinstance(task, np.ndarray) else task


def _read_task(text: str) -> Any:
    try:
        return np.array([float(number) for number in text.split()])
    except ValueError:
        read = read_cell(text)
        return read if isinstance(read, str) else text


def tasks_of_a_file(tasks: Sequence[Any]) -> list[Any]:
    """
    Convert tasks to what :meth:`AdaptationReport.from_csv` reads of them.

    :param tasks: The tasks
    :return: The tasks of numbers as arrays, other tasks as text
    """
    return [_read_task(str(_written_task(task))) for task in tasks]


def check_task_list(tasks: Any) -> None:
    """
    Check a list of tasks.

    :param tasks: The value of the argument ``tasks``
    :raises ValueError: When it is not a list, or is empty
    """
    if isinstance(tasks, str) or not isinstance(tasks, (Sequence, np.ndarray)) or getattr(tasks, "shape", None) == ():
        raise ValueError(f"`tasks` must be a list of tasks, got {shown(tasks)}.")
    if len(tasks) == 0:
        raise ValueError("`tasks` must hold at least one task.")


def draw_test_tasks(env: VecEnv, n_tasks: int, seed: int) -> list[Any]:
    """
    Draw test tasks.

    :param env: The workers that take tasks
    :param n_tasks: The number of tasks
    :param seed: The seed; equal seeds give equal tasks
    :return: The test tasks, or training tasks where there are no test tasks
    """
    return ask(env, "sample_tasks", n_tasks, [seed, EVALUATION, 0], "test", indices=0)[0]


def play_inner_steps(
    model: AdaptiveModel,
    env: VecEnv,
    tasks: Sequence[Any],
    n_steps: int,
    n_episodes: int,
    entropy: Sequence[int],
    progress_bar: bool = False,
    ranks: Ranks = ALONE,
) -> list[PhaseBatch]:
    """
    Play before and after each inner step. The model does not change.

    :param model: A model
    :param env: The workers, from :func:`env_to_adapt_in`
    :param tasks: The tasks
    :param n_steps: The number of inner steps
    :param n_episodes: The number of episodes per task and phase
    :param entropy: The entropy that names the random stream
    :param progress_bar: Whether to show the number of finished episodes; needs tqdm
    :param ranks: The ranks that share the tasks. Other ranks' episodes have rewards and lengths only
    :return: The episodes of all tasks after 0, 1, … inner steps, n_steps + 1 phases
    :raises ValueError: When a task does not fit, or :meth:`learn` is using the workers
    """
    check_tasks(env, tasks)
    phases: list[PhaseBatch] = []
    n_phases = n_steps + 1
    with _counted(n_phases * len(tasks) * n_episodes, progress_bar) as count, borrowed_workers(env):
        play_and_adapt(
            env,
            model.functional,
            model.objective,
            tasks,
            [n_episodes] * n_phases,
            entropy,
            model.n_threads,
            on_step=counting(count),
            on_phase=lambda _, phase: phases.append(phase),
            ranks=ranks,
        )
    return phases


def counting(count: Count) -> OnStep:
    """
    Count the episodes of a phase.

    :param count: The function to call with the number of episodes that ended in a step
    :return: The function to call after each step; it never stops
    """

    def on_step(step_locals: dict[str, Any], _: int) -> bool:
        count(int(step_locals["dones"].sum()))
        return True

    return on_step


@contextmanager
def _counted(n_episodes: int, progress_bar: bool) -> Iterator[Count]:
    """Provide a function that counts episodes in a progress bar."""
    episodes = iter(with_progress(range(n_episodes), "episodes", progress_bar))
    yield lambda n: deque(islice(episodes, n), maxlen=0).clear()
    next(episodes, None)  # closes the bar


def evaluate_adaptation(
    model: AdaptiveModel | AdaptsByItself,
    env: GymEnv | str | None = None,
    n_tasks: int = 40,
    n_steps: int = 1,
    n_episodes: int | None = None,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
    progress_bar: bool = False,
    ranks: Ranks = ALONE,
) -> AdaptationReport:
    """
    Adapt to tasks and measure the return before and after each inner step. Actions are sampled, as in training.

    :param model: A trained model, which does not change, or a baseline (:mod:`sb3_sgmrl.baselines`)
    :param env: The environment to play in; the model's environment when None
    :param n_tasks: The number of tasks to draw; test tasks when the environment has some
    :param n_steps: The number of inner steps, which may exceed that of training
    :param n_episodes: The number of episodes per task, both to adapt and to measure; as in training when None
    :param tasks: The tasks; None draws them
    :param seed: The seed of tasks and episodes; equal seeds give equal tasks and paired comparisons
    :param progress_bar: Whether to show the number of finished episodes; needs tqdm
    :param ranks: The ranks that share the tasks, from :func:`sb3_sgmrl.distributed.start`; all of them must call this function
    :return: The report
    :raises ValueError: When a count is not positive, there are no tasks, or the environment does not match the model
    """
    if not isinstance(model, (AdaptiveModel, AdaptsByItself)):
        raise ValueError(f"`model` must be a trained model, such as an SGMRL, got {shown(model)}.")
    check_bool("progress_bar", progress_bar)
    n_episodes = model.n_episodes if n_episodes is None else n_episodes
    check_positive(n_tasks=n_tasks, n_episodes=n_episodes)
    check_inner_steps("n_steps", n_steps)
    check_seed(seed)
    if tasks is not None:
        check_task_list(tasks)
        n_tasks = len(tasks)
    if not isinstance(ranks, Ranks):
        raise ValueError(f"`ranks` must be the result of `sb3_sgmrl.distributed.start()`, got {shown(ranks)}.")
    if isinstance(model, AdaptsByItself):
        with model.workers(env, n_tasks, n_episodes) as vec_env:
            tasks = draw_test_tasks(vec_env, n_tasks, seed) if tasks is None else tasks
            check_tasks(vec_env, tasks)
            with _counted((n_steps + 1) * n_tasks * n_episodes, progress_bar) as count:
                returns = model.adaptation_returns(vec_env, tasks, n_steps, n_episodes, [seed, EVALUATION, 1], count)
        return AdaptationReport(list(tasks), returns)
    ranks = ranks if n_tasks >= ranks.size else ALONE
    with env_to_adapt_in(model, env, len(ranks.own(n_tasks)) * n_episodes) as vec_env:
        played = (n_steps + 1) * n_tasks * n_episodes, find_horizon(vec_env) or 1
        smaller = "`n_tasks`, `n_steps` or `n_episodes`"
        check_memory(*played, vec_env.observation_space, vec_env.action_space, "The evaluation", smaller)
        tasks = draw_test_tasks(vec_env, n_tasks, seed) if tasks is None else tasks
        phases = play_inner_steps(model, vec_env, tasks, n_steps, n_episodes, [seed, EVALUATION, 1], progress_bar, ranks)
    return AdaptationReport(list(tasks), np.stack([phase.episode_returns.mean(1) for phase in phases], axis=1))

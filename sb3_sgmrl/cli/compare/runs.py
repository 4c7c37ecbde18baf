"""One run of a comparison: a folder with rows and a checkpoint, resumed after any interruption."""

from __future__ import annotations

import csv
import io
import json
import pathlib
import shutil
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger, filter_excluded_keys

from sb3_sgmrl.cli.compare.kinds import KINDS
from sb3_sgmrl.cli.compare.methods import Method
from sb3_sgmrl.cli.compare.progress import ProgressLines
from sb3_sgmrl.cli.compare.protocol import Protocol
from sb3_sgmrl.common.evaluation import AdaptationReport, evaluate_adaptation
from sb3_sgmrl.data.streams import EVAL_SEED
from sb3_sgmrl.distributed import ALONE, RankError, Ranks
from sb3_sgmrl.distributed.programs import copy_files
from sb3_sgmrl.util.arrays import read_arrays
from sb3_sgmrl.util.files import only_writer, replace_when_complete

STEPS = "time/total_timesteps"
# the time in seconds after which an interruption loses no more
_CHECKPOINT_EVERY = 60.0
_MISSING = object()
_SETTINGS, _CHECKPOINT, _BEST, _FAILURE = "settings.json", "checkpoint.zip", "best.zip", "failure.json"


@dataclass(frozen=True)
class Run:
    """
    A method with a seed.

    :param protocol: The protocol of the comparison
    :param method: The method
    :param seed: The seed
    :param folder: The folder of the run
    """

    protocol: Protocol
    method: Method
    seed: int
    folder: pathlib.Path

    @property
    def name(self) -> str:
        """The name in messages."""
        return f"{self.method.name} seed {self.seed}"

    def report_file(self, timesteps: int, best: bool = False) -> pathlib.Path:
        """
        Name the file of a report.

        :param timesteps: The environment steps of training
        :param best: Whether the report is of the best policy of the learning curve
        :return: The file
        """
        return self.folder / f"{'best_' * best}adaptation_{timesteps}.csv"

    def report(self, timesteps: int, best: bool = False) -> AdaptationReport | None:
        """
        Read a report.

        :param timesteps: The environment steps of training
        :param best: Whether the report is of the best policy of the learning curve
        :return: The report; None before the run came so far
        """
        file = self.report_file(timesteps, best)
        return AdaptationReport.from_csv(file) if file.exists() else None

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        kinds = (False, True) if self.protocol.best else (False,)
        reports = [self.report_file(steps, best) for steps in self.protocol.timesteps for best in kinds]
        return self.failure is not None or all(file.exists() for file in reports)

    @property
    def failure(self) -> str | None:
        """The error that ended the run, such as parameters that are not finite; None without one."""
        file = self.folder / _FAILURE
        return str(_read_object(file).get("error", "an unknown error")) if file.exists() else None

    def check(self) -> None:
        """
        Check that the folder holds no run with other settings.

        :raises ValueError: When it does
        """
        file = self.folder / _SETTINGS
        if not file.exists():
            if self.folder.is_dir() and any(self.folder.glob("*adaptation*.csv")):
                raise ValueError(f"`--folder` must hold runs of this command, but {self.folder} has no {_SETTINGS}.")
            return
        old = _read_object(file)
        others = [
            name for name in dict.fromkeys([*old, *self.conditions]) if old.get(name, _MISSING) != self.conditions.get(name)
        ]
        others = [name for name in others if name in old or self.conditions[name] != self._defaults.get(name, _MISSING)]
        if others:
            differing = ", ".join(f"{name}={old.get(name)!r} in place of {self.conditions.get(name)!r}" for name in others[:3])
            raise ValueError(f"`--folder` must be another one, because {self.folder} was trained with {differing}.")

    @property
    def _defaults(self) -> dict[str, Any]:
        """The defaults, with which folders of before a setting existed agree."""
        defaults = KINDS[self.method.algo].defaults(self.protocol.env)
        return {f"{self.method.algo}.{name}": value for name, value in defaults.items()}

    @property
    def conditions(self) -> dict[str, Any]:
        """Everything that changes the run, except its seed and length."""
        return self.protocol.conditions(self.method)

    def train(self, n_threads: int, ranks: Ranks = ALONE) -> bool:
        """
        Train and measure what is missing.

        :param n_threads: The number of threads
        :param ranks: The ranks that share the tasks; all of them must call this method. Those above 0 get a copy of the files
        :return: Whether the run is finished; false while another process trains it
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with only_writer(self.folder / ".lock") as is_alone:
            if not ranks.of_first(lambda: is_alone):
                return False
            copy_files(ranks, self.folder)
            if not self.is_finished:
                self._write(_SETTINGS, json.dumps(self.conditions, indent=1))
                model = self._model(n_threads)
                keeper = Keeper(self, model, ranks)  # damaged files are no failure of the method
                if self.protocol.best and model.num_timesteps:
                    self._best(n_threads)  # a damaged file is found before the training
                try:
                    self._train(model, keeper, n_threads)
                except (ValueError, RankError) as error:  # of numbers that overflow; settings were checked before
                    if isinstance(error, RankError) and not error.of_values:
                        raise
                    self._write(_FAILURE, json.dumps({"error": " ".join(str(error).split())}))
        return True

    def _model(self, n_threads: int) -> Any:
        checkpoint = self.folder / _CHECKPOINT
        if checkpoint.exists():
            return self._load(checkpoint, n_threads)
        return self.method.make(self.protocol.make_env(), self.seed, n_threads)

    def _best(self, n_threads: int) -> Any:
        return self._load(self.folder / _BEST, n_threads)

    def _load(self, file: pathlib.Path, n_threads: int) -> Any:
        try:
            return self.method.load(file, self.protocol.make_env(), self.seed, n_threads)
        except (ValueError, FileNotFoundError) as error:
            raise _damaged(file, error) from error

    def _train(self, model: Any, keeper: Keeper, n_threads: int) -> None:
        model.set_logger(Logger(None, [keeper.rows]))
        for timesteps in self.protocol.timesteps:
            model.learn(max(timesteps - model.num_timesteps, 0), keeper, reset_num_timesteps=False)
            keeper.save()
            if self.protocol.best and not self.report_file(timesteps, True).exists():
                self._measure(self._best(n_threads), self.report_file(timesteps, True), keeper.ranks)
            if not self.report_file(timesteps).exists():
                self._measure(model, self.report_file(timesteps), keeper.ranks)
                # the name that the command plot reads
                shutil.copyfile(self.report_file(timesteps), self.folder / "adaptation.csv")

    def _measure(self, model: Any, file: pathlib.Path, ranks: Ranks) -> None:
        protocol = self.protocol
        report = evaluate_adaptation(
            model,
            protocol.make_env(),
            n_steps=protocol.n_steps,
            n_episodes=protocol.n_episodes,
            tasks=protocol.test_tasks(),
            seed=protocol.test_seed,
            ranks=ranks,
        )
        report.to_csv(file)

    def _write(self, name: str, text: str) -> None:
        with replace_when_complete(self.folder / name) as file:
            file.write(text.encode())


def _read_object(file: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"`--folder` must hold runs of this command, but {file} is not JSON of it.")
    return content


class DamagedRunError(OSError):
    """A file of a run is missing or cannot be read, which is no failure of the method."""


def _damaged(file: pathlib.Path, reason: object) -> DamagedRunError:
    return DamagedRunError(
        f"`--folder` must hold whole runs; restore {file}, or delete {file.parent} to repeat its run "
        f"({' '.join(str(reason).split()).rstrip('.')})."
    )


class Rows(KVWriter):
    """
    The rows of ``progress.csv``, kept in memory and written with each checkpoint.

    :param path: The file; rows after the checkpoint are dropped, because they are played again
    :param timesteps: The environment steps of the checkpoint
    """

    def __init__(self, path: pathlib.Path, timesteps: int) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists() and timesteps:
            try:
                with open(path, newline="", encoding="utf-8") as file:
                    self.rows = [dict(row) for row in csv.DictReader(file) if float(row[STEPS]) <= timesteps]
            except (ValueError, KeyError, TypeError, csv.Error) as error:
                raise _damaged(path, error) from error

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """
        Add a row.

        :param key_values: The values by key
        :param key_excluded: The formats that leave out a key
        :param step: The environment steps
        """
        self.rows.append({**filter_excluded_keys(key_values, key_excluded, "csv"), STEPS: step})

    def save(self) -> None:
        """Write the file."""
        if not self.rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, sorted({key for row in self.rows for key in row}))
        writer.writeheader()
        writer.writerows(self.rows)
        with replace_when_complete(self.path) as file:
            file.write(text.getvalue().encode())

    def close(self) -> None:
        """Do nothing; :meth:`save` writes."""


class Keeper(BaseCallback):
    """
    Save checkpoints between meta-iterations, and measure the points of the learning curve.

    ``evaluations.npz`` has the form of :class:`~sb3_sgmrl.MetaEvalCallback`.

    :param run: The run
    :param subject: The model or baseline, new or from a checkpoint
    :param ranks: The ranks that share the tasks
    """

    on_every_rank = True

    def __init__(self, run: Run, subject: Any, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.run, self.subject, self.ranks = run, subject, ranks
        timesteps = subject.num_timesteps
        self.rows = Rows(run.folder / "progress.csv", timesteps)
        self._lines = ProgressLines(run.name, timesteps, run.protocol.timesteps[-1])
        self._saved_at = time.monotonic()
        self._points: list[tuple[int, np.ndarray]] = []
        self._tasks = run.protocol.validation_tasks() if run.protocol.eval_every else []
        file = run.folder / "evaluations.npz"
        if file.exists() and timesteps:
            try:
                steps, results = read_arrays(file, ("timesteps", "results"))
                self._points = [(int(at), result) for at, result in zip(steps, results, strict=True) if at <= timesteps]
            except (ValueError, TypeError) as error:
                raise _damaged(file, error) from error

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._lines.show(self.subject.num_timesteps)
        if self._is_due():
            self._evaluate()
            self.save()
        elif time.monotonic() - self._saved_at > _CHECKPOINT_EVERY:
            self.save()

    def _on_training_end(self) -> None:
        if self.run.protocol.eval_every and (not self._points or self._points[-1][0] < self.subject.num_timesteps):
            self._evaluate()

    def _is_due(self) -> bool:
        every = self.run.protocol.eval_every
        last = self._points[-1][0] if self._points else -1
        return every > 0 and (last < 0 or self.subject.num_timesteps // every > last // every)

    def _evaluate(self) -> None:
        protocol, model = self.run.protocol, self.subject
        report = evaluate_adaptation(
            model,
            protocol.make_env(),
            n_steps=protocol.eval_steps,
            n_episodes=protocol.n_episodes,
            tasks=self._tasks,
            seed=EVAL_SEED,
            ranks=self.ranks,
        )
        is_best = all(result[:, -1].mean() < report.mean_returns[-1] for _, result in self._points)
        if protocol.best and is_best:
            model.save(self.run.folder / _BEST)
        self._points.append((model.num_timesteps, report.returns))
        with replace_when_complete(self.run.folder / "evaluations.npz") as file:
            steps, results = zip(*self._points, strict=True)
            np.savez(file, timesteps=steps, results=np.stack(results))

    def save(self) -> None:
        """Save rows and model. An interrupt in between leaves rows too many, which are dropped later."""
        self.rows.save()
        self.subject.save(self.run.folder / _CHECKPOINT)
        self._saved_at = time.monotonic()

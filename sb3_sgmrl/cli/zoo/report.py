"""Additional files in a run's folder: the log as a table, and the report on adaptation."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback
from stable_baselines3.common.logger import CSVOutputFormat
from stable_baselines3.common.vec_env import VecEnv

from sb3_sgmrl.cli.command_line import import_plots, write_figure
from sb3_sgmrl.common.callbacks import MetaEvalCallback
from sb3_sgmrl.data.streams import REPORT_SEED

if TYPE_CHECKING:
    from sb3_sgmrl.common.evaluation import AdaptationReport
    from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm

_N_GOALS_SHOWN = 4


class ProgressTable(BaseCallback):
    """
    Write the logged values also to ``progress.csv``.

    Put this callback before callbacks that log values.

    :param folder: The folder of the run
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder
        self._table: CSVOutputFormat | None = None

    def _on_training_start(self) -> None:
        self._table = CSVOutputFormat(os.path.join(self.folder, "progress.csv"))
        self.logger.output_formats.append(self._table)

    def _on_step(self) -> bool:
        return True

    def close(self) -> None:
        """Close the file. Call this method after training, because other callbacks may log values at its end."""
        if self._table is not None:
            self.logger.output_formats.remove(self._table)
            self._table.close()
            self._table = None


def close_all(callbacks: Iterable[BaseCallback], env: VecEnv | None) -> None:
    """
    Close the callbacks and workers of a training that has ended, possibly by an error or Ctrl-C.

    :param callbacks: The callbacks
    :param env: The workers
    """
    envs = [] if env is None else [env]
    for callback in callbacks:
        if isinstance(callback, ProgressBarCallback) and hasattr(callback, "pbar"):
            callback.on_training_end()
        elif isinstance(callback, ProgressTable):
            callback.close()
        elif isinstance(callback, MetaEvalCallback):
            envs.append(callback.eval_env)
    for workers in envs:
        with suppress(EOFError, OSError):  # worker processes may have received the same Ctrl-C
            workers.close()


def next_command(algo: str, env_id: str, model: str) -> str:
    """
    Write the command that shows what a run has learned.

    :param algo: The name of the algorithm
    :param env_id: The id of the task family, which is registered
    :param model: The file of the model
    :return: The command, for a shell
    """
    entry = gym.spec(env_id).entry_point
    module = entry.split(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "__main__")
    env = env_id if module.split(".")[0] in ("sb3_sgmrl", "gymnasium", "__main__") else f"{module}:{env_id}"
    return shlex.join(["python", "-m", "sb3_sgmrl.enjoy", "--algo", algo, "--env", env, "-i", model])


def write_report(folder: str, model: MetaOnPolicyAlgorithm, env: VecEnv, report: AdaptationReport) -> None:
    """
    Write ``adaptation.csv`` and, if matplotlib is installed, its plots.

    :param folder: The folder of the run
    :param model: The trained model
    :param env: The workers that take tasks
    :param report: The returns before and after adaptation
    """
    path = os.path.join(folder, "adaptation.csv")
    report.to_csv(path)
    print(f"Wrote {path}")
    plots = import_plots()
    if plots is None:
        return
    figures = {"adaptation.png": plots.plot_adaptation(report)}
    if plots.is_navigation(env):
        goals = report.tasks[:_N_GOALS_SHOWN]
        trajectories = plots.navigation_trajectories(model, env, goals, model.n_inner_steps, seed=REPORT_SEED)
        figures["trajectories.png"] = plots.plot_trajectories(trajectories)
    for name, figure in figures.items():
        write_figure(figure, os.path.join(folder, name))

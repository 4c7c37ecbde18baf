"""Hyperparameters, histograms and plots in TensorBoard during training."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure, HParam, TensorBoardOutputFormat

from sb3_sgmrl.common.arguments import argument_names
from sb3_sgmrl.common.callbacks import MetaEvalCallback
from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
from sb3_sgmrl.distributed import Ranks
from sb3_sgmrl.gradient.objective import TaskPhase
from sb3_sgmrl.plots.adaptation import plot_adaptation

# TensorBoard shows hyperparameters beside the last values of these metrics
_METRICS = (
    "eval/mean_reward",
    "eval/adaptation_gain",
    "rollout/ep_rew_mean_pre",
    "rollout/ep_rew_mean_post",
    "rollout/adaptation_gain",
)


class TensorBoardCallback(BaseCallback):
    """
    Show more than the logged numbers in TensorBoard.

    - At the beginning: the hyperparameters.
    - After each meta-iteration: a histogram over tasks of the length of each inner step, ``inner_step_size/1`` and so on. The
      length is the Euclidean norm of the change of all parameters. Under torchrun the tasks are those of rank 0.
    - After each evaluation of a :class:`~sb3_sgmrl.MetaEvalCallback` in the list of callbacks: ``eval/adaptation``, a plot of
      the return against the number of inner steps.

    The callback writes to TensorBoard only; without a TensorBoard log it does nothing. Put it after the MetaEvalCallback,
    otherwise the plot of the last evaluation is missing.
    """

    model: MetaOnPolicyAlgorithm

    def _on_training_start(self) -> None:
        # written directly: Logger.dump would also write empty rows to other formats, for which SB3 prints a warning
        self._formats = [f for f in self.logger.output_formats if isinstance(f, TensorBoardOutputFormat)]
        self._evaluation = _find_evaluation(self.locals["callback"])
        self._n_shown = len(self._evaluation.evaluations_timesteps) if self._evaluation else 0
        self._write("hparams", HParam(_hyperparameters(self.model), dict.fromkeys(_METRICS, 0.0)))

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._show_evaluation()

    def _on_rollout_end(self) -> None:
        self._show_evaluation()
        if not self._formats:
            return
        ranks: Ranks = self.model.ranks
        own = ranks.own(len(self.locals["traces"]))
        traces: list[list[TaskPhase]] = self.locals["traces"][own.start : own.stop]
        for step in range(1, len(traces[0])):
            self._write(f"inner_step_size/{step}", th.stack([_distance(trace[step - 1], trace[step]) for trace in traces]))

    def _on_training_end(self) -> None:
        self._show_evaluation()

    def _show_evaluation(self) -> None:
        if self._evaluation is None or not self._formats:
            return
        timesteps = self._evaluation.evaluations_timesteps
        if len(timesteps) > self._n_shown and self._evaluation.last_report is not None:
            self._n_shown = len(timesteps)
            self._write("eval/adaptation", Figure(plot_adaptation(self._evaluation.last_report), close=False), timesteps[-1])

    def _write(self, key: str, value: Any, step: int | None = None) -> None:
        for writer in self._formats:
            writer.write({key: value}, {key: ()}, self.model.num_timesteps if step is None else step)


def _find_evaluation(callback: BaseCallback) -> MetaEvalCallback | None:
    """Find the first MetaEvalCallback in a callback and its lists of callbacks."""
    if isinstance(callback, MetaEvalCallback):
        return callback
    found = (_find_evaluation(child) for child in getattr(callback, "callbacks", ()))
    return next((evaluation for evaluation in found if evaluation is not None), None)


def _distance(before: TaskPhase, after: TaskPhase) -> th.Tensor:
    squares = [(after.parameters[name] - value).square().sum() for name, value in before.parameters.items()]
    return th.stack(squares).sum().sqrt().detach().cpu()


def _hyperparameters(model: MetaOnPolicyAlgorithm) -> dict[str, bool | str | float | None]:
    """Return the constructor's arguments, as numbers where possible, otherwise as text."""
    names = argument_names(type(model), "learning", "playing") | {"seed"}
    values = {name: vars(model)[name] for name in sorted(names & vars(model).keys())}
    shown = {name: value if isinstance(value, (bool, str, int, float)) else str(value) for name, value in values.items()}
    return {"algorithm": type(model).__name__, **shown}

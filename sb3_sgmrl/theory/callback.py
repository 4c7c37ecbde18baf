"""A callback that measures the quality of the meta-gradient during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
from sb3_sgmrl.theory.gradient_quality import GradientQuality, compare_gradients, quality_table
from sb3_sgmrl.theory.gradient_sample import make_estimators, sample_gradients
from sb3_sgmrl.util.validation import check_positive, check_seed


class GradientQualityCallback(BaseCallback):
    """
    Measure the quality of gradient estimators every ``eval_freq`` meta-iterations.

    Each measurement samples additional meta-batches. The model's own estimator is logged under the name of its class. For each
    estimator the callback logs ``quality/<name>/snr``, ``quality/<name>/variance`` and ``quality/<name>/squared_norm``. For
    the other estimators it also logs ``quality/<name>/cosine``, the cosine to the model's own gradient. The additional
    episodes do not count as timesteps, and the callback does not change the run.

    :param settings: The other estimators, as for :func:`~sb3_sgmrl.theory.make_estimators`
    :param eval_freq: The number of meta-iterations between two measurements
    :param n_batches: The number of meta-batches per measurement, at least three
    :param seed: The seed of tasks and episodes; each measurement derives its own seed from it
    :param verbose: The verbosity level: 0 for no output, 1 to print each measurement
    :raises ValueError: When a count is out of range, or another estimator has the name of the model's class
    """

    model: MetaOnPolicyAlgorithm

    def __init__(
        self,
        settings: Mapping[str, tuple[type[MetaOnPolicyAlgorithm], Mapping[str, Any]]] | None = None,
        eval_freq: int = 10,
        n_batches: int = 8,
        seed: int = 0,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        check_positive(eval_freq=eval_freq, n_batches=n_batches)
        check_seed(seed)
        if n_batches < 3:
            raise ValueError(f"`n_batches` must be at least 3, got {n_batches}.")
        self.settings = dict(settings or {})
        self.eval_freq = eval_freq
        self.n_batches = n_batches
        self.seed = seed
        self.last_quality: dict[str, GradientQuality] = {}
        self._n_rollouts = 0

    def _init_callback(self) -> None:
        self._own = type(self.model).__name__
        if self._own in self.settings:
            raise ValueError(f"`settings` must not hold {self._own!r}, which is the name of the model's own estimator.")
        self._estimators = {self._own: self.model, **make_estimators(self.model, self.settings)}

    def _on_rollout_start(self) -> None:
        if self._n_rollouts % self.eval_freq == 0:
            self._measure(self.seed + self._n_rollouts)
        self._n_rollouts += 1

    def _on_step(self) -> bool:
        return True

    def _measure(self, seed: int) -> None:
        sample = sample_gradients(self._estimators, self.n_batches, seed=seed)
        self.last_quality = compare_gradients(sample, self._own)
        for name, quality in self.last_quality.items():
            for key in ("snr", "variance", "squared_norm", *([] if name == self._own else ["cosine"])):
                self.logger.record(f"quality/{name}/{key}", getattr(quality, key).value)
        if self.verbose >= 1:
            print(f"Gradients after {self.model.num_timesteps} samples\n{quality_table(self.last_quality)}")

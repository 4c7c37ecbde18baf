"""Progress bars."""

from __future__ import annotations

from stable_baselines3.common.callbacks import ProgressBarCallback


class MetaProgressBarCallback(ProgressBarCallback):
    """
    SB3's progress bar, with the number of the meta-iteration and its mean returns before and after adaptation. What it shows
    as time left is for ``total_timesteps``.

    :raises ImportError: when tqdm or rich is missing
    """

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._iteration = 0
        self._timesteps_before = self.model.num_timesteps

    def _on_step(self) -> bool:
        # not the number of workers, some of which may be idle; the last meta-iteration overshoots the total
        done = min(self.model.num_timesteps - self._timesteps_before, self.pbar.total)
        self.pbar.update(done - self.pbar.n)
        return True

    def _on_rollout_end(self) -> None:
        self._iteration += 1
        returns = [self.logger.name_to_value[f"rollout/ep_rew_mean_{name}"] for name in ("pre", "post")]
        # rich, which SB3's bar is drawn by, shows no postfix
        self.pbar.set_description("iteration {}, return {:.1f} → {:.1f}".format(self._iteration, *returns))

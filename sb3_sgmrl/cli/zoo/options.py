"""The options that the commands for RL Zoo add to RL Zoo's own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetaOptions:
    """
    The options of ``sb3_sgmrl.train`` in addition to RL Zoo's options.

    :param n_tasks: The number of tasks of each evaluation and of the final report
    :param n_steps: The number of inner steps of the final report; when None, 3 or as in training, whichever is larger
    :param zoo_workers: Whether to play in RL Zoo's VecEnv of single environments even if the family has a batched form
    :param tuned_path: The file for the best settings of ``-optimize``; a new file among the runs when None
    :param trusted: Whether to also read pickles: models of before 0.1 and their ``vecnormalize.pkl``
    :param resume: Whether a resumed model counts its steps on, up to ``n_timesteps`` altogether
    """

    n_tasks: int = 40
    n_steps: int | None = None
    zoo_workers: bool = False
    tuned_path: str | None = None
    trusted: bool = False
    resume: bool = False

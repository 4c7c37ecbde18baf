"""Checks of a comparison whose runs all ranks of torchrun train together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sb3_sgmrl.cli.compare.kinds import KINDS
from sb3_sgmrl.cli.compare.protocol import Protocol
from sb3_sgmrl.cli.compare.runs import Run
from sb3_sgmrl.distributed import Ranks
from sb3_sgmrl.distributed.start_check import check_same
from sb3_sgmrl.distributed.training import check_n_tasks


def check_protocol(protocol: Protocol, options: Mapping[str, Any], ranks: Ranks) -> None:
    """
    Check that ranks can train the runs of a comparison, and that all of them have the same one.

    :param protocol: The protocol
    :param options: The options that choose what all ranks do, by name
    :param ranks: The ranks
    :raises ValueError: When a method shares no tasks, or ranks differ
    """
    if ranks.size == 1:
        return
    alone = [method for method in protocol.methods if not KINDS[method.algo].shares_tasks]
    if alone:
        raise ValueError(
            f"`--method` must be algorithms of this package under torchrun, got the baseline {alone[0].algo!r}: train "
            "baselines by the same command without torchrun."
        )
    shared = {f"`{name}` of the protocol": value for name, value in asdict(protocol).items() if name != "methods"}
    methods = {f"The algorithm of {method.name}": method.algo for method in protocol.methods}
    settings = {f"`{name}` of {method.name}": value for method in protocol.methods for name, value in method.settings.items()}
    check_same(ranks, {**options, **shared, **methods, **settings})


def check_trials(trials: Sequence[Run], ranks: Ranks) -> None:
    """
    Check that every trial of a search has a task for each rank.

    :param trials: The trials
    :param ranks: The ranks
    :raises ValueError: When a trial has fewer tasks
    """
    if ranks.size > 1:
        check_n_tasks(ranks, min(run.method.settings["meta_batch_size"] for run in trials), " in a trial")

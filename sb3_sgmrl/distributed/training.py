"""Share the meta-iterations of a model with the processes that torchrun started."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from stable_baselines3.common.logger import Logger

from sb3_sgmrl.distributed.ranks import Ranks
from sb3_sgmrl.distributed.start_check import check_parameters, check_same
from sb3_sgmrl.distributed.torch_ranks import start

# ranks compare their parameters after so many meta-iterations
_BETWEEN_CHECKS = 10


@contextmanager
def on_ranks(model: Any, settings: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
    """
    Share meta-iterations within a ``with`` statement, after a comparison of the settings of all ranks.

    All ranks begin with the state of rank 0. Rank 0 alone has a log.

    :param model: The algorithm
    :param settings: A function that returns settings to compare in addition to the arguments of the algorithm, by name
    :raises RankError: When a rank failed
    """
    ranks = start()
    if ranks.size == 1:
        yield
        return
    model.ranks = ranks
    if ranks.rank > 0:
        model.set_logger(Logger(folder=None, output_formats=[]))
    try:
        with ranks.together(model.meta_batch_size):
            _check(model, ranks, settings())
            model._entropy, state = ranks.of_first(lambda: (model._entropy, model._present()))
            state.restore(model)
            yield
    finally:
        del model.ranks


def check_n_tasks(ranks: Ranks, meta_batch_size: int, where: str = "") -> None:
    """
    Check that there is a task for every rank.

    :param ranks: The ranks
    :param meta_batch_size: The number of tasks
    :param where: What has this number, for the error
    :raises ValueError: When there are fewer tasks than ranks
    """
    if meta_batch_size < ranks.size:
        raise ValueError(
            f"`meta_batch_size` must be at least the number of processes that torchrun started, {ranks.size}, got "
            f"{meta_batch_size}{where}."
        )


def _check(model: Any, ranks: Ranks, settings: Mapping[str, Any]) -> None:
    check_n_tasks(ranks, model.meta_batch_size)
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None and normalizer.training and model.normalizer_update != "phase":
        raise ValueError(
            f"`normalizer_update` must be 'phase' under torchrun with a VecNormalize that learns, got "
            f"{model.normalizer_update!r}: statistics that change with every step depend on the number of processes."
        )
    learning = [name for name, argument in model.arguments.items() if argument.kind == "learning"]
    arguments = {f"`{name}`": getattr(model, name) for name in [*learning, "seed"] if hasattr(model, name)}
    check_same(
        ranks, {"The class of the model": type(model), "`sum_by_blocks`": ranks.sums_by_blocks, **arguments, **settings}
    )


class EndedEpisodes:
    """
    The ends of episodes of a phase, for the statistics of the log.

    :param model: The algorithm, which keeps the statistics
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._infos: list[dict[str, Any]] = []

    def add(self, infos: Sequence[dict[str, Any]], dones: np.ndarray) -> None:
        """
        Note the ends of episodes of this rank.

        :param infos: The info of each worker
        :param dones: Whether the episode of each worker ended, shape (n_workers,)
        """
        if self._model.ranks.size == 1:
            self._model._update_info_buffer(infos, dones)
        else:
            read = ("episode", "is_success")
            self._infos += [{key: infos[i][key] for key in read if key in infos[i]} for i in np.flatnonzero(dones).tolist()]

    def share(self) -> None:
        """Add the ends of all ranks to the statistics, at the end of a phase."""
        if self._model.ranks.size > 1:
            for infos in self._model.ranks.exchange(self._infos):
                self._model._update_info_buffer(infos, np.ones(len(infos), dtype=bool))
            self._infos = []


def check_together(model: Any, iteration: int) -> None:
    """
    Check from time to time that all ranks have the same parameters.

    :param model: The algorithm
    :param iteration: The number of meta-iterations so far
    :raises RuntimeError: When parameters differ
    """
    if model.ranks.size > 1 and iteration % _BETWEEN_CHECKS == 0:
        check_parameters(model.ranks, model.policy.state_dict())

"""Which callbacks a rank calls."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.type_aliases import MaybeCallback


def of_rank(callback: MaybeCallback, rank: int) -> MaybeCallback:
    """
    Choose the callbacks of a rank. Rank 0 calls all, so that files are written once.

    Other ranks call those whose class has ``on_every_rank = True``, because all ranks share their work.

    :param callback: The callbacks of ``learn``
    :param rank: The rank
    :return: The callbacks that this rank calls
    """
    return callback if rank == 0 else CallbackList(_shared(callback))


def _shared(callback: MaybeCallback) -> list[BaseCallback]:
    children = callback.callbacks if isinstance(callback, CallbackList) else callback
    if isinstance(children, list):
        return [shared for child in children for shared in _shared(child)]
    return [callback] if isinstance(callback, BaseCallback) and getattr(callback, "on_every_rank", False) else []

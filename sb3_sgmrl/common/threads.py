"""Threads over tasks. Torch's own threads would compete with them and with those of the physics."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch as th


@contextmanager
def single_torch_thread() -> Iterator[None]:
    """Torch works in the calling thread only; its setting is restored afterwards."""
    before = th.get_num_threads()
    th.set_num_threads(1)
    try:
        yield
    finally:
        th.set_num_threads(before)


@contextmanager
def thread_pool(n_threads: int | None) -> Iterator[ThreadPoolExecutor]:
    """
    Threads that each use torch by themselves.

    :param n_threads: how many; None takes one per processor
    :return: the pool, to be used in a ``with`` statement
    """
    with (
        single_torch_thread(),
        ThreadPoolExecutor(n_threads or os.cpu_count(), initializer=th.set_num_threads, initargs=(1,)) as pool,
    ):
        yield pool

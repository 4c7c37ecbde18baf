"""Threads over tasks. Those of torch and BLAS would compete with them and with those of the physics."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch as th
from threadpoolctl import ThreadpoolController

# glibc gives freed memory back to the system above twice the size of the largest block freed before, of at most 32 MiB, and
# taking it again, page by page, can take as long as a gradient itself
_LARGE_BLOCK = 31 * 2**20


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def single_threaded() -> Iterator[None]:
    """Torch and BLAS work in the calling thread only; their settings are restored afterwards."""
    np.empty(_LARGE_BLOCK, dtype=np.uint8)
    before = th.get_num_threads()
    th.set_num_threads(1)
    try:
        with _controller().limit(limits=1, user_api="blas"):
            yield
    finally:
        th.set_num_threads(before)


@contextmanager
def thread_pool(n_threads: int | None) -> Iterator[ThreadPoolExecutor]:
    """
    Threads that each use torch and BLAS by themselves.

    :param n_threads: how many; None takes one per processor
    :return: the pool, to be used in a ``with`` statement
    """
    with (
        single_threaded(),
        ThreadPoolExecutor(n_threads or os.cpu_count(), initializer=th.set_num_threads, initargs=(1,)) as pool,
    ):
        yield pool

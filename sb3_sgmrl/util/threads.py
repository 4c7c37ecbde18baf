"""Run tasks in threads, while torch and BLAS use one thread each to avoid competition."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch as th
from threadpoolctl import ThreadpoolController

# glibc returns free memory to the system above twice the size of the largest freed block, 32 MiB at most. Allocating it
# again, page by page, can take as long as a gradient itself.
_LARGE_BLOCK = 31 * 2**20


def under_torchrun() -> bool:
    """
    Return whether torchrun started this process.

    :return: Whether torchrun started it
    """
    return "TORCHELASTIC_RUN_ID" in os.environ and "WORLD_SIZE" in os.environ


def n_processors() -> int:
    """
    Return the number of processors for this process: all of them, or a share where torchrun started several on this machine.

    :return: The number of processors, at least one
    """
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if under_torchrun() else 1
    return max(1, (os.cpu_count() or 1) // sharing)


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


class _Limit:
    """The limits of the process while at least one of its threads is single-threaded, for concurrent trainings."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_inside = 0
        self._of_thread = threading.local()
        self._torch = 1
        self._blas: list[tuple[Any, int]] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._n_inside == 0:  # later threads would find, and restore, the limits of the first
                self._torch = th.get_num_threads()
                libraries = [library for library in _controller().lib_controllers if library.user_api == "blas"]
                self._blas = [(library, library.get_num_threads()) for library in libraries]
                for library, _ in self._blas:
                    _set_threads(library, 1)
            self._n_inside += 1
            self._of_thread.depth = getattr(self._of_thread, "depth", 0) + 1
            th.set_num_threads(1)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._n_inside -= 1
            self._of_thread.depth -= 1
            if self._of_thread.depth == 0:
                th.set_num_threads(self._torch)  # torch keeps one number per thread; new threads use the last one
            if self._n_inside == 0:
                for library, n_threads in self._blas:
                    _set_threads(library, n_threads)


def _set_threads(library: Any, n_threads: int) -> None:
    """Set the number of threads from any thread; threadpoolctl itself respects the first thread only."""
    getattr(library, "_real_set_num_threads", library.set_num_threads)(n_threads)


_limit = _Limit()


@contextmanager
def single_threaded() -> Iterator[None]:
    """Limit torch and BLAS to the calling thread within a ``with`` statement, and restore their settings afterwards."""
    np.empty(_LARGE_BLOCK, dtype=np.uint8)
    with _limit:
        yield


@contextmanager
def thread_pool(n_threads: int | None) -> Iterator[ThreadPoolExecutor]:
    """
    Make a pool of threads in which torch and BLAS are single-threaded.

    :param n_threads: The number of threads; ``None`` uses one per processor
    :return: The pool, for a ``with`` statement
    """
    with (
        single_threaded(),
        ThreadPoolExecutor(n_threads or n_processors(), initializer=th.set_num_threads, initargs=(1,)) as pool,
    ):
        yield pool

"""A pool of processes for long jobs, and processes that do not outlive the one that made them."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def process_pool(n_processes: int) -> Iterator[ProcessPoolExecutor]:
    """
    A pool for long jobs. Python's own plays on all that was submitted before it shows an error or heeds Ctrl-C, and its
    processes stay behind when the program is killed. Here an error waits for the jobs that are running and for no other,
    Ctrl-C ends them, and so does the end of the program.

    :param n_processes: number of processes
    :return: the pool, for a ``with`` statement
    """
    pool = ProcessPoolExecutor(n_processes, mp.get_context("spawn"), initializer=_start_job)
    try:
        yield pool
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _start_job() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()


def end_with_parent() -> None:
    """End this process when the one that made it is no more, however that ended and whatever this one is at."""
    parent = mp.parent_process()
    if parent is None or getattr(parent, "_is_watched", False):
        return
    parent._is_watched = True  # type: ignore[attr-defined]
    threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()
    with suppress(Exception):  # Linux only
        _kill_at_end_of(parent.sentinel)


def _exit_after(process: Any) -> None:
    process.join()
    os._exit(1)


def _kill_at_end_of(sentinel: int) -> None:
    """The kernel ends this process when the pipe is closed: no thread runs while a library in C hangs and holds the GIL."""
    import fcntl

    fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)  # type: ignore[attr-defined]
    fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)

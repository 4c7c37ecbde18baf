"""A pool of processes for long jobs."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
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
    pool = ProcessPoolExecutor(n_processes, mp.get_context("spawn"), initializer=_end_with_parent)
    try:
        yield pool
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_exit_after, args=(mp.parent_process(),), daemon=True).start()


def _exit_after(process: Any) -> None:
    process.join()
    os._exit(1)

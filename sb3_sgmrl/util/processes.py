"""Run long jobs in a pool of processes, and end processes with their parent."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def process_pool(n_processes: int) -> Iterator[ProcessPoolExecutor]:
    """
    Make a pool of processes for long jobs.

    Python's own pool finishes all submitted jobs before it shows an error or reacts to Ctrl-C. Its processes survive when
    the program is killed.

    In this pool, an error waits for the running jobs only. Ctrl-C and the end of the program end the jobs.

    :param n_processes: The number of processes
    :return: The pool, for a ``with`` statement
    """
    pool = _Pool(n_processes, mp.get_context("spawn"), initializer=_start_job)
    try:
        yield pool
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


class _Pool(ProcessPoolExecutor):
    """A pool whose new processes hold back Ctrl-C while they import, in place of a traceback."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:  # type: ignore[override]
        with _held_back():
            return super().submit(fn, *args, **kwargs)  # starts the processes, which inherit the mask


@contextmanager
def _held_back() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_job() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    end_with_parent()


def end_with_parent() -> None:
    """End this process when its parent ends, even after a crash of the parent or while this process is busy."""
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
    """Let the kernel kill this process when the pipe closes, because no thread runs while a C library holds the GIL."""
    import fcntl

    fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)  # type: ignore[attr-defined]
    fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)

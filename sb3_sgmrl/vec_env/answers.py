"""Limit the time to wait for SB3's worker processes, as for those of this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from sb3_sgmrl.util.interrupts import undisturbed
from sb3_sgmrl.vec_env.process_vec_env import TIMEOUT


@contextmanager
def answers_in_time(env: VecEnv, timeout: float = TIMEOUT) -> Iterator[None]:
    """
    Raise an error that names the worker when a worker of a ``SubprocVecEnv`` dies or hangs within a ``with`` statement.

    :param env: The workers
    :param timeout: The maximum number of seconds to wait for an answer
    """
    workers = env.unwrapped
    if not isinstance(workers, SubprocVecEnv) or any(isinstance(remote, _Timed) for remote in workers.remotes):
        yield
        return
    remotes = workers.remotes
    workers.remotes = tuple(_Timed(workers, i, remote, timeout) for i, remote in enumerate(remotes))
    try:
        yield
    finally:
        workers.remotes = remotes


class _Timed:
    """The connection to one worker."""

    def __init__(self, workers: SubprocVecEnv, i: int, remote: Any, timeout: float) -> None:
        self._workers, self._i, self._remote, self._timeout = workers, i, remote, timeout

    def __getattr__(self, name: str) -> Any:
        return getattr(self._remote, name)

    def send(self, message: Any) -> None:
        with undisturbed():  # half a message would make the next one unreadable
            self._remote.send(message)

    def recv(self) -> Any:
        try:
            if self._remote.poll(self._timeout):
                with undisturbed():
                    return self._remote.recv()
        except (EOFError, OSError) as error:
            raise EOFError(f"The process of worker {self._i} of `env` died unexpectedly.") from error
        for process in self._workers.processes:
            process.kill()
            process.join()
        self._workers.waiting, self._workers.closed = False, True
        raise RuntimeError(
            f"Worker {self._i} of `env` did not answer within {self._timeout:g} seconds, so all workers of `env` were ended."
        )

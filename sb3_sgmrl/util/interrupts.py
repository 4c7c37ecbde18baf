"""Ctrl-C that neither leaves half of a state nor interrupts the end of a program."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# further presses within this time, in seconds, belong to the first one
_QUICK = 2.0


class QuickPresses:
    """A handler of SIGINT that raises a KeyboardInterrupt at the first press, and not again at presses soon after it."""

    def __init__(self) -> None:
        self._last = -float("inf")

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now, before = time.monotonic(), self._last
        self._last = now
        if now - before > _QUICK:
            raise KeyboardInterrupt


@contextmanager
def undisturbed() -> Iterator[None]:
    """Delay Ctrl-C to the end of a ``with`` statement, which restores or saves a state."""
    previous = signal.getsignal(signal.SIGINT)
    # Python runs handlers in the main thread only
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield
        return
    pressed: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda _, frame: pressed.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if pressed:
            previous(signal.SIGINT, pressed[0])

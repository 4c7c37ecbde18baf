"""Ctrl-C that neither leaves half of a state nor interrupts the end of a program."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

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
    """Delay Ctrl-C, and SIGTERM where the program handles it, to the end of a ``with`` statement that changes a state."""
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    # Python runs handlers in the main thread only
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    received: list[tuple[int, FrameType | None]] = []
    delays = True

    def receive(number: int, frame: FrameType | None) -> None:
        if delays:
            received.append((number, frame))
        else:  # while the handlers are restored
            handlers[number](number, frame)

    try:
        for number in handlers:
            signal.signal(number, receive)
        yield
    finally:
        delays = False
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in received:
            handlers[number](number, frame)

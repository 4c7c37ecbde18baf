"""Ctrl-C and SIGTERM while a model is trained and saved."""

from __future__ import annotations

import signal
import threading
from typing import Any


class CtrlC:
    """
    Within a ``with`` statement the first Ctrl-C ends training by a KeyboardInterrupt, as usual, and so does SIGTERM, which
    schedulers send. Later ones, and those after :meth:`spare_saving`, are only remembered, so that the model is saved whole.
    """

    def __init__(self) -> None:
        self.was_pressed = False
        self._ends_training = True
        self._previous: dict[int, Any] = {}

    def spare_saving(self) -> None:
        """Training has ended."""
        self._ends_training = False

    def __enter__(self) -> CtrlC:
        # another handler is somebody's wish, as is none in the background of a shell; Python sets them in the main thread only
        if threading.current_thread() is threading.main_thread():
            for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
                if signal.getsignal(number) is default:
                    self._previous[number] = signal.signal(number, self._on_press)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_press(self, *_: Any) -> None:
        is_first, self.was_pressed = not self.was_pressed, True
        if is_first and self._ends_training:
            raise KeyboardInterrupt

"""Ctrl-C while a model is trained and saved."""

from __future__ import annotations

import signal
import threading
from typing import Any


class CtrlC:
    """
    In a ``with`` statement the first Ctrl-C ends training by a KeyboardInterrupt, as usual. Further ones, and those after
    :meth:`spare_saving`, are only kept in mind, so that a model is saved whole.
    """

    def __init__(self) -> None:
        self.was_pressed = False
        self._ends_training = True
        self._is_handled = False

    def spare_saving(self) -> None:
        """Training has ended."""
        self._ends_training = False

    def __enter__(self) -> CtrlC:
        # another handler is somebody's wish, as is none in the background of a shell; Python sets them in the main thread only
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._on_press)
            self._is_handled = True
        return self

    def __exit__(self, *_: Any) -> None:
        if self._is_handled:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _on_press(self, *_: Any) -> None:
        is_first, self.was_pressed = not self.was_pressed, True
        if is_first and self._ends_training:
            raise KeyboardInterrupt

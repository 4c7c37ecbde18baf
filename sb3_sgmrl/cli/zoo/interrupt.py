"""Handling of Ctrl-C and SIGTERM while a model is trained and saved."""

from __future__ import annotations

import signal
import threading
from typing import Any

from sb3_sgmrl.util.interrupts import QuickPresses


class CtrlC:
    """
    End training at the first Ctrl-C, in a ``with`` statement, and protect the saving of the model.

    The first Ctrl-C raises a KeyboardInterrupt, as does SIGTERM, which schedulers send. Later signals, and signals after
    :meth:`spare_saving`, are only recorded, so that the model is saved completely.
    """

    def __init__(self) -> None:
        self.was_pressed = False
        self._ends_training = True
        self._previous: dict[int, Any] = {}

    def spare_saving(self) -> None:
        """Record further signals without an interrupt, because training has ended."""
        self._ends_training = False

    def __enter__(self) -> CtrlC:
        # keep handlers that the user or the shell has set; Python can set handlers only in the main thread
        if threading.current_thread() is threading.main_thread():
            for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
                handler = signal.getsignal(number)
                if handler is default or isinstance(handler, QuickPresses):
                    self._previous[number] = signal.signal(number, self._on_press)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_press(self, *_: Any) -> None:
        is_first, self.was_pressed = not self.was_pressed, True
        if is_first and self._ends_training:
            raise KeyboardInterrupt

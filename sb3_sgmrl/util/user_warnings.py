"""Warn at the line of the user's program."""

from __future__ import annotations

import inspect
import os
import pathlib
import warnings

_OWN_FILES = str(pathlib.Path(__file__).parent.parent) + os.sep
# packages that call this one between the user's line and the warning
_BETWEEN = ("stable_baselines3", "sb3_contrib", "gymnasium", "torch", "contextlib", "runpy")


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """
    Warn, and name the user's line that led here, in place of a line of this package.

    :param message: The message
    :param category: The kind of warning
    """
    # stacklevel 2 is the caller; without a user's line, as in a command, the outermost line of this package is named
    outermost, level, frame = 2, 2, inspect.currentframe()
    while frame is not None and (frame := frame.f_back) is not None:
        if frame.f_code.co_filename.startswith(_OWN_FILES):
            outermost = level
        elif str(frame.f_globals.get("__name__")).split(".")[0] not in _BETWEEN:
            break
        level += 1
    warnings.warn(message, category, stacklevel=outermost if frame is None else level)

"""Errors of the commands: one sentence instead of a traceback, and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable

from gymnasium.error import Error as GymnasiumError

OK, ERROR, INTERRUPTED = 0, 2, 130

# What files, settings, values and missing packages lead to. Anything else is a mistake of ours and keeps its traceback.
_PERSONS_ERRORS = (
    *(ValueError, TypeError, AssertionError, OSError, ImportError, GymnasiumError),
    *(NameError, SyntaxError),  # RL Zoo evaluates what stands after the colon of name:value
)
# of the extra "zoo", as far as the package imports them itself
_PACKAGES = ("rl_zoo3", "optuna", "yaml", "huggingface_sb3")


def run_command(command: Callable[[], None], show_traceback: bool = False) -> int:
    """
    :param command: what to do
    :param show_traceback: let errors through
    :return: exit code: 0, 2 after an error a person can cause, 130 after Ctrl-C
    """
    try:
        command()
    except KeyboardInterrupt as interrupt:
        print(f"Interrupted. {interrupt}".rstrip(), file=sys.stderr)
        return INTERRUPTED
    except _PERSONS_ERRORS as error:
        if show_traceback or not str(error):
            raise
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return ERROR
    return OK


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and error.name in _PACKAGES:
        return f"{text}; install the package with its extra [zoo], which brings what the commands need."
    if isinstance(error, (NameError, SyntaxError)):
        return f"{text}; in name:value the value is read as Python, so text needs quotes, as in baseline:\"'critic'\"."
    if isinstance(error, TypeError):  # the least sure to be a person's doing
        return f"{text} (--verbose 2 shows where)"
    return text

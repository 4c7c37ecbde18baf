"""Parts that the commands share: error messages, exit codes, checks of arguments, and plots."""

from __future__ import annotations

import ast
import difflib
import importlib
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

import gymnasium as gym
from gymnasium.error import Error as GymnasiumError

from sb3_sgmrl.distributed import RankError, own_rank, start
from sb3_sgmrl.util.files import replace_when_complete
from sb3_sgmrl.util.interrupts import QuickPresses

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OK, ERROR, INTERRUPTED = 0, 2, 130
PICTURES = (".png", ".pdf", ".svg", ".jpg")

# Errors that files, settings, values and missing packages cause. Any other error is a bug and keeps its traceback.
_USER_ERRORS = (
    *(ValueError, TypeError, AssertionError, OSError, ImportError, GymnasiumError),
    *(NameError, SyntaxError),  # RL Zoo evaluates the value of name:value as Python
)
# packages of the extra "zoo" that this package imports itself
_PACKAGES = ("rl_zoo3", "optuna", "yaml", "huggingface_sb3", "tqdm", "imageio_ffmpeg")


def run_command(command: Callable[[], None], show_traceback: bool = False) -> int:
    """
    Run a command and print a user's errors as one sentence.

    :param command: The function that runs the command
    :param show_traceback: Whether to raise errors instead
    :return: The exit code: 0, 2 after an error that a user can cause, 130 after Ctrl-C
    """
    try:
        command()
    except KeyboardInterrupt as interrupt:
        if own_rank() == 0:  # Ctrl-C reaches all ranks
            print(f"Interrupted. {interrupt}".rstrip(), file=sys.stderr)
        return INTERRUPTED
    except RankError as error:
        if show_traceback:
            raise
        text = f"error: {_sentence(error)}"
        start().show(lambda: print(text, file=sys.stderr))
        return ERROR
    except _USER_ERRORS as error:
        if show_traceback or not str(error):
            raise
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return ERROR
    return OK


def run_program(main: Callable[[], int]) -> NoReturn:
    """
    Run a command as the program of this process, which ends with it.

    :param main: The command; it returns the exit code
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, QuickPresses())
    code = main()
    if code == INTERRUPTED:  # further Ctrl-C would only end the end by a traceback
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and error.name in _PACKAGES:
        return f"{text}; install the package with its extra [zoo], which the commands need."
    if isinstance(error, (NameError, SyntaxError)):
        return f"{text}; in `name:value` the value is read as Python, so text needs quotes, as in baseline:\"'critic'\"."
    if isinstance(error, TypeError):  # may be a bug instead of a user's error
        return f"{text} (`--verbose 2` shows the traceback)"
    return text


def import_env(env_id: str, packages: Sequence[str]) -> str:
    """
    Import the module that registers an environment.

    :param env_id: The id as for ``gym.make``, optionally with a module before a colon
    :param packages: The names of further modules
    :return: The id without the module
    :raises ValueError: When a module does not exist, or the modules do not register the environment
    """
    *modules, env_id = env_id.split(":")
    import_packages([*packages, *modules])
    if env_id not in gym.registry:
        close = difflib.get_close_matches(env_id, gym.registry, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(
            f"`--env` must be an id registered with Gymnasium, got {env_id!r}; {hint}MODULE:{env_id} imports its module first."
        )
    return env_id


def import_packages(packages: Sequence[str]) -> None:
    """
    Import modules that register environments or classes.

    :param packages: The modules that the user named
    :raises ValueError: When a module cannot be imported
    """
    for module in packages:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            raise ValueError(
                f"`--env` and `--gym-packages` must name modules that can be imported, got {module!r}."
            ) from error


def name_and_value(text: str) -> tuple[str, Any]:
    """
    Read an argument of the environment.

    :param text: The text NAME:VALUE, where the value is Python
    :return: The name and the value
    :raises ValueError: When there is no colon, or the value is not Python
    """
    name, colon, value = text.partition(":")
    if not colon:
        raise ValueError(f"`--env-kwargs` must have the form name:value, got {text!r}.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"`--env-kwargs` must have a number or text in quotes after the colon, got {text!r}.") from error


def check_output(path: str, suffixes: Sequence[str], overwrite: bool, option: str = "--output") -> None:
    """
    Check that a file can be written.

    :param path: The file
    :param suffixes: The suffixes that the file may have
    :param overwrite: Whether an existing file may be replaced
    :param option: The option that names the file, for errors
    :raises ValueError: When the suffix is wrong, the file exists, or its folder is not writable
    """
    file = pathlib.Path(path)
    if file.suffix.lower() not in suffixes:
        raise ValueError(f"`{option}` must end in {' or '.join(suffixes)}, got {path}.")
    if file.is_dir():
        raise ValueError(f"`{option}` must be a file, got the folder {path}.")
    if file.exists() and not overwrite:
        raise ValueError(f"`{option}` must be a new file, got the existing {path}: pass `--overwrite` to replace it.")
    _check_can_be_made(file, option)


def check_new_folder(path: str | pathlib.Path) -> None:
    """
    Check that a folder can be made.

    :param path: The folder
    :raises ValueError: When the folder exists or cannot be made
    """
    if os.path.lexists(path):
        raise ValueError(f"`--output` must be a new folder, got the existing {path}.")
    _check_can_be_made(pathlib.Path(path), "--output")


def _check_can_be_made(path: pathlib.Path, option: str) -> None:
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"`{option}` must be in a writable folder, got {path} in {folder}.")


def free_path(folder: str, stem: str, suffix: str) -> str:
    """
    Find a path that does not exist yet.

    :param folder: The folder of the file
    :param stem: The beginning of the file's name
    :param suffix: The end of the file's name
    :return: The path: stem and suffix with the first free number
    """
    number = 1
    while os.path.exists(path := os.path.join(folder, f"{stem}_{number}{suffix}")):
        number += 1
    return path


def import_plots() -> ModuleType | None:
    """
    Import the plots, or print why they are missing.

    :return: The module :mod:`sb3_sgmrl.plots`; None when matplotlib is not installed
    """
    try:
        return importlib.import_module("sb3_sgmrl.plots")
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        print("No plots: matplotlib is not installed; install the extra [plots].")
        return None


def write_figure(figure: Figure, path: str | pathlib.Path, dpi: int = 150) -> None:
    """
    Write a plot to a file, make its folder if necessary, and print the path.

    :param figure: The plot
    :param path: The file, which ends in a suffix of :data:`PICTURES`
    :param dpi: The resolution in dots per inch
    """
    with replace_when_complete(path) as file:
        figure.savefig(file, format=pathlib.Path(path).suffix[1:].lower(), dpi=dpi)
    print(f"Wrote {path}")

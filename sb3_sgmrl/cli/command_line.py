"""What the commands share: one sentence instead of a traceback, an exit code, checks of what a person wrote, and pictures."""

from __future__ import annotations

import difflib
import importlib
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

import gymnasium as gym
from gymnasium.error import Error as GymnasiumError

from sb3_sgmrl.util.files import replace_when_complete

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OK, ERROR, INTERRUPTED = 0, 2, 130
PICTURES = (".png", ".pdf", ".svg", ".jpg")

# What files, settings, values and missing packages lead to. Anything else is a mistake of ours and keeps its traceback.
_PERSONS_ERRORS = (
    *(ValueError, TypeError, AssertionError, OSError, ImportError, GymnasiumError),
    *(NameError, SyntaxError),  # RL Zoo evaluates what stands after the colon of name:value
)
# of the extra "zoo", as far as the package imports them itself
_PACKAGES = ("rl_zoo3", "optuna", "yaml", "huggingface_sb3", "tqdm", "imageio_ffmpeg")


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


def run_program(main: Callable[[], int]) -> NoReturn:
    """
    Run a command as the program of this process, which ends with it.

    :param main: The command; it returns the exit code
    """
    code = main()
    if code == INTERRUPTED:  # further Ctrl-C would only end the end by a traceback
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and error.name in _PACKAGES:
        return f"{text}; install the package with its extra [zoo], which brings what the commands need."
    if isinstance(error, (NameError, SyntaxError)):
        return f"{text}; in name:value the value is read as Python, so text needs quotes, as in baseline:\"'critic'\"."
    if isinstance(error, TypeError):  # the least sure to be a person's doing
        return f"{text} (--verbose 2 shows where)"
    return text


def import_env(env_id: str, packages: Sequence[str]) -> str:
    """
    Import what registers an environment.

    :param env_id: as for ``gym.make``, so that a module may stand before a colon
    :param packages: further modules
    :return: the id without the module
    :raises ValueError: when the environment is not registered afterwards, or a module is not there
    """
    *modules, env_id = env_id.split(":")
    import_packages([*packages, *modules])
    if env_id not in gym.registry:
        close = difflib.get_close_matches(env_id, gym.registry, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(
            f"--env {env_id!r} is not registered with Gymnasium; {hint}--env MODULE:{env_id} imports what registers it."
        )
    return env_id


def import_packages(packages: Sequence[str]) -> None:
    """
    :param packages: modules that the user named, which register environments or classes
    :raises ValueError: for one that is not there
    """
    for module in packages:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            raise ValueError(
                f"there is no module {module!r}, neither installed nor in the working directory, to register environments."
            ) from error


def check_output(path: str, suffixes: Sequence[str], overwrite: bool) -> None:
    """
    :param path: a file to be written
    :param suffixes: how it may end
    :param overwrite: whether it may be there already
    :raises ValueError: when it ends otherwise, is there already, or its folder cannot be written to
    """
    file = pathlib.Path(path)
    if file.suffix.lower() not in suffixes:
        raise ValueError(f"{path} must end in {' or '.join(suffixes)}.")
    if file.is_dir():
        raise ValueError(f"{path} is a folder; a file is needed.")
    if file.exists() and not overwrite:
        raise ValueError(f"{path} is there already: choose another name, or replace it by --overwrite.")
    _check_can_be_made(file)


def check_new_folder(path: str | pathlib.Path) -> None:
    """
    :param path: a folder to be made, which is never replaced
    :raises ValueError: when it is there already or cannot be made
    """
    if os.path.lexists(path):
        raise ValueError(f"{path} is there already: choose another name.")
    _check_can_be_made(pathlib.Path(path))


def _check_can_be_made(path: pathlib.Path) -> None:
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"{path} cannot be written: {folder} is not a folder that may be written to.")


def free_path(folder: str, stem: str, suffix: str) -> str:
    """
    :param folder: a folder
    :param stem: beginning of a file's name
    :param suffix: its end
    :return: path of a file that is not there: stem and suffix with the first number that is free
    """
    number = 1
    while os.path.exists(path := os.path.join(folder, f"{stem}_{number}{suffix}")):
        number += 1
    return path


def import_plots() -> ModuleType | None:
    """
    :return: :mod:`sb3_sgmrl.plots`; None, after saying why, where matplotlib is not installed
    """
    try:
        return importlib.import_module("sb3_sgmrl.plots")
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        print("No pictures, because matplotlib is not installed; the extra [plots] brings it.")
        return None


def write_figure(figure: Figure, path: str | pathlib.Path, dpi: int = 150) -> None:
    """
    Write a picture, and its folder where there is none, and say so.

    :param figure: the picture
    :param path: a file that ends in what :data:`PICTURES` has
    :param dpi: dots per inch
    """
    with replace_when_complete(path) as file:
        figure.savefig(file, format=pathlib.Path(path).suffix[1:].lower(), dpi=dpi)
    print(f"Wrote {path}")

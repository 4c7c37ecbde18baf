"""MuJoCo without a message that would be printed once per environment."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_compiler() -> Iterator[None]:
    """
    MuJoCo 4 reports that Gymnasium's half_cheetah.xml uses the deprecated attribute ``settotalmass``, on the terminal and in
    a file MUJOCO_LOG.TXT in the working directory, once per environment. Drop this message, and no other, for a while.
    """
    import mujoco  # takes a while, and not everybody who imports this module needs it

    messages: list[str] = []
    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(messages.append)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(previous)
    for message in messages:
        if "settotalmass" not in message:
            warnings.warn(f"MuJoCo: {message}", RuntimeWarning, stacklevel=4)

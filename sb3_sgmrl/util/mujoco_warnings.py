"""Silence a MuJoCo message that would appear once per environment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sb3_sgmrl.util.user_warnings import warn_user


@contextmanager
def quiet_compiler() -> Iterator[None]:
    """
    Drop the message about ``settotalmass``, and no other, within a ``with`` statement.

    MuJoCo 4 reports that Gymnasium's half_cheetah.xml uses this deprecated attribute. It prints the message once per
    environment, on the terminal and in a file MUJOCO_LOG.TXT in the working directory.
    """
    import mujoco  # slow, and not every user of this module needs it

    messages: list[str] = []
    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(messages.append)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(previous)
    for message in messages:
        if "settotalmass" not in message:
            warn_user(f"MuJoCo: {message}", RuntimeWarning)

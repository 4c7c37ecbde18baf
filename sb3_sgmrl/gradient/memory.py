"""Check that a meta-iteration fits into the memory of the machine."""

from __future__ import annotations

import math
import os

import numpy as np
from gymnasium import spaces

from sb3_sgmrl.gradient.baselines import MANY_FEATURES, n_baseline_features
from sb3_sgmrl.util.user_warnings import warn_user

# the number of unknowns above which the linear baseline warns
_SLOW_BASELINE = 1500


def check_memory(
    n_episodes: int,
    n_steps: int,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    what: str = "A meta-iteration",
    smaller: str = "`meta_batch_size`, `n_episodes` or the time limit of `env`",
) -> None:
    """
    Check that episodes fit into memory.

    :param n_episodes: The number of episodes of a meta-iteration, which keeps all of them
    :param n_steps: The number of steps of the longest episode
    :param observation_space: The space of the environment
    :param action_space: The space of the environment
    :param what: What plays the episodes, for the error
    :param smaller: What must be smaller, for the error
    :raises ValueError: When the episodes do not fit into the machine's memory
    """
    parts = observation_space.spaces.values() if isinstance(observation_space, spaces.Dict) else [observation_space]
    per_step = sum(math.prod(part.shape or ()) * np.dtype(part.dtype).itemsize for part in parts)
    # the bytes of an action, a reward, a weight and a flag
    per_step += math.prod(action_space.shape or ()) * 4 + 8 + 8 + 1
    _check_fits(what, n_episodes * n_steps * per_step, smaller)


def check_linear_baseline(n_episodes: int, n_steps: int, observation_space: spaces.Space) -> None:
    """
    Check that the linear baseline fits into memory, and warn when it is slow.

    :param n_episodes: The number of episodes of a task
    :param n_steps: The number of steps of the longest episode
    :param observation_space: The space of the environment
    :raises ValueError: When the matrices of a task do not fit into the machine's memory
    """
    n = n_baseline_features(observation_space)
    if n > MANY_FEATURES:
        n = min(n, n_episodes * n_steps)
    # the matrices of each episode, of all others, and of the solver
    _check_fits("`baseline='linear'`", 4 * n_episodes * n**2 * 8, "`n_episodes`, the time limit or the observations of `env`")
    if n > _SLOW_BASELINE:
        warn_user(
            f"`baseline='linear'` solves equations with {n} unknowns for each episode, which may take longer than the policy: "
            "use `baseline='critic'` to avoid this.",
        )


def _check_fits(what: str, needed: int, smaller: str) -> None:
    if not hasattr(os, "sysconf"):
        return
    there_is = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there_is:
        raise ValueError(
            f"{what} would take {needed / 2**30:.0f} GiB and the machine has {there_is / 2**30:.0f}: "
            f"{smaller} must be smaller."
        )

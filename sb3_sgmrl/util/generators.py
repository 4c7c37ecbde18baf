"""Protect the random generators that all threads of a process share."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch as th

# No thread may seed or restore the generators while another thread draws from them.
SHARED_GENERATORS = threading.RLock()


@contextmanager
def generators_kept() -> Iterator[None]:
    """Restore the global random generators after a ``with`` statement, so that draws inside do not affect others."""
    with SHARED_GENERATORS:
        states = np.random.get_state(), random.getstate(), th.random.get_rng_state()
        try:
            yield
        finally:
            np.random.set_state(states[0])
            random.setstate(states[1])
            th.random.set_rng_state(states[2])

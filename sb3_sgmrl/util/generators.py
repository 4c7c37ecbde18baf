"""The random generators that all threads of a process share."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch as th

# Whoever seeds them, or puts them back, must not do so while another thread draws.
SHARED_GENERATORS = threading.RLock()


@contextmanager
def generators_kept() -> Iterator[None]:
    """Whatever is drawn within a ``with`` statement, the random numbers of all others stay as they were."""
    with SHARED_GENERATORS:
        states = np.random.get_state(), random.getstate(), th.random.get_rng_state()
        try:
            yield
        finally:
            np.random.set_state(states[0])
            random.setstate(states[1])
            th.random.set_rng_state(states[2])

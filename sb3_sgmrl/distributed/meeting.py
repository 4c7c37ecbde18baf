"""Let the ranks of one start of torchrun meet in a store that may hold entries of earlier starts."""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta

import torch.distributed as dist

_BETWEEN_LOOKS = 0.02


def fresh_store(timeout: timedelta) -> dist.Store:
    """
    Open the store of torchrun, and agree on a part of it that is still empty.

    After a restart the store holds the addresses of processes that have ended. The number of the restart does not tell which
    entries are old, because agents on different hosts count differently.

    :param timeout: The time that a rank waits for the others
    :return: The empty part of the store, the same for all ranks
    :raises RuntimeError: When a rank does not come within the timeout
    """
    rank, n_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        world_size=None,
        is_master=rank == 0 and not of_agent,
        timeout=timeout,
    )
    own = uuid.uuid4().hex
    if rank > 0:  # the answer to this name cannot be an old one
        store.set(f"meeting/name/{rank}", own)
        part = store.get(f"meeting/answer/{own}").decode()
        store.set(f"meeting/{part}/{rank}", "here")
        return dist.PrefixStore(part, store)
    missing, answered, end = set(range(1, n_ranks)), set(), time.monotonic() + timeout.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"meeting/name/{other}"]):
                name = store.get(f"meeting/name/{other}").decode()
                if name not in answered:  # an old name gets an answer that nobody reads
                    store.set(f"meeting/answer/{name}", own)
                    answered.add(name)
            if store.check([f"meeting/{own}/{other}"]):
                missing.discard(other)
        if missing and time.monotonic() > end:
            raise RuntimeError(
                f"Rank {min(missing)} did not start within the {timeout.total_seconds():g} seconds of `timeout`."
            )
        time.sleep(_BETWEEN_LOOKS)
    return dist.PrefixStore(own, store)

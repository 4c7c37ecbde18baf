"""Compare the settings of all ranks before training."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_sgmrl.distributed.ranks import Ranks

_LONGEST = 80


def check_same(ranks: Ranks, facts: Mapping[str, Any]) -> None:
    """
    Check that all ranks have the same settings.

    :param ranks: The ranks
    :param facts: The settings of this rank by name; the first difference is named
    :raises ValueError: When a setting differs
    """
    texts = {name: as_text(value) for name, value in facts.items()}
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    of_ranks = ranks.exchange((socket.gethostname(), hashes, {name: text[:_LONGEST] for name, text in texts.items()}))
    _, first, shown = of_ranks[0]
    for rank, (host, found, found_shown) in enumerate(of_ranks):
        for name in {**first, **found}:
            if found.get(name) != first.get(name):
                raise ValueError(
                    f"{name} must be the same on all ranks, but is {shown.get(name, 'missing')} on rank 0 and "
                    f"{found_shown.get(name, 'missing')} on rank {rank} ({host})."
                )


def check_parameters(ranks: Ranks, parameters: Mapping[str, th.Tensor]) -> None:
    """
    Check that all ranks have reached the same parameters.

    :param ranks: The ranks
    :param parameters: The parameters of this rank by name
    :raises RuntimeError: When they differ
    """
    digest = hashlib.sha256()
    for value in parameters.values():
        digest.update(value.detach().cpu().numpy().tobytes())
    hashes = ranks.exchange((socket.gethostname(), digest.hexdigest()))
    for rank, (host, found) in enumerate(hashes):
        if found != hashes[0][1]:
            raise RuntimeError(
                f"Rank {rank} on {host} has other parameters than rank 0, so a callback changed them there: change the policy "
                "on all ranks in the same way."
            )


def as_text(value: Any) -> str:
    """
    Write a setting so that equal settings have equal texts in all processes.

    :param value: The setting
    :return: The text
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{as_text(key)}: {as_text(of)}" for key, of in value.items()) + "}"
    if isinstance(value, (np.ndarray, th.Tensor)):
        return f"{np.asarray(value).tolist()}"
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return "[" + ", ".join(map(as_text, value)) + "]"
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return f"{value.__module__}.{value.__qualname__}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))

"""Progress bars around loops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def with_progress(items: Sequence[Any], description: str, shown: bool) -> Iterable[Any]:
    """
    :param items: to go through
    :param description: what they are
    :param shown: whether to show a progress bar, which needs tqdm
    :return: the same items
    """
    if not shown:
        return items
    from tqdm import tqdm

    return tqdm(items, desc=description)

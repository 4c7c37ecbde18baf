"""Show progress bars around loops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def with_progress(items: Sequence[Any], description: str, shown: bool) -> Iterable[Any]:
    """
    Wrap the items of a loop in a progress bar.

    :param items: The items of the loop
    :param description: The text beside the bar
    :param shown: Whether to show the bar, which needs tqdm
    :return: The same items
    """
    if not shown:
        return items
    from tqdm.auto import tqdm

    return tqdm(items, desc=description)

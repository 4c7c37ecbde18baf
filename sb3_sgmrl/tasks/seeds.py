"""Reset with any seed of 32 bits, because some simulators take a signed integer of 31 bits only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Answer = TypeVar("Answer")
Seeds = Sequence[int | None]

_FIRST_TOO_LARGE = 2**31


class SeededReset:
    """
    Resets an environment with any seed.

    An environment that refuses seeds of 2**31 and more gets the seed modulo 2**31.
    """

    def __init__(self) -> None:
        self._is_signed = False

    def __call__(self, reset: Callable[[Seeds], Answer], seeds: Seeds) -> Answer:
        """
        Reset with the given seeds.

        :param reset: A callable that resets with a sequence of seeds
        :param seeds: The seeds, each a non-negative integer or ``None``
        :return: The result of ``reset``
        """
        large = [seed is not None and seed >= _FIRST_TOO_LARGE for seed in seeds]
        if self._is_signed or not any(large):
            return reset(self._folded(seeds))
        try:
            return reset(seeds)
        except Exception:
            if self._takes_large(reset, large):  # the size of the seed was not the reason
                raise
        self._is_signed = True
        return reset(self._folded(seeds))

    def _folded(self, seeds: Seeds) -> Seeds:
        return [None if seed is None else seed % _FIRST_TOO_LARGE for seed in seeds] if self._is_signed else seeds

    @staticmethod
    def _takes_large(reset: Callable[[Seeds], Answer], large: Sequence[bool]) -> bool:
        try:
            reset([_FIRST_TOO_LARGE if is_large else None for is_large in large])
        except Exception:
            return False
        return True

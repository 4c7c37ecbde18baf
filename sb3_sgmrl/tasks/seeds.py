"""Episodes are named by seeds of 32 bits, and some simulators take a signed integer, which ends at 31."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Answer = TypeVar("Answer")
Seeds = Sequence[int | None]

_FIRST_TOO_LARGE = 2**31


class SeededReset:
    """
    Resets an environment by any seed. One that refuses seeds of 2**31 and more gets what is left of them modulo 2**31.
    """

    def __init__(self) -> None:
        self._is_signed = False

    def __call__(self, reset: Callable[[Seeds], Answer], seeds: Seeds) -> Answer:
        """
        :param reset: resets by these seeds, which may be None
        :param seeds: non-negative integers or None
        :return: what it returned
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

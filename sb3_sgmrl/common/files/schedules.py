"""Schedules that a file can say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class LinearToZero:
    """
    A linear decay to zero, ``lin_…`` in a file of hyperparameters, with RL Zoo's numbers to the bit.

    :param initial_value: at the beginning
    """

    def __init__(self, initial_value: float) -> None:
        self.initial_value = float(initial_value)

    def __call__(self, progress_remaining: float) -> float:
        return progress_remaining * self.initial_value

    def __repr__(self) -> str:
        return f"LinearToZero(initial_value={self.initial_value})"


class NamedSchedule:
    """
    A schedule that is a function of the program that saved it: a file has its name and its ends only. A model with one plays
    and adapts; before it trains it needs the function.

    :param name: of the function
    :param begin: value at the beginning
    :param end: value at the end
    """

    def __init__(self, name: str, begin: float, end: float) -> None:
        self.name = str(name)
        self.begin, self.end = float(begin), float(end)

    @classmethod
    def of(cls, schedule: Callable[[float], float], name: str) -> NamedSchedule:
        """
        :param schedule: a function of the remaining progress
        :param name: its name
        :return: what a file has of it
        """
        return cls(name, schedule(1.0), schedule(0.0))

    def __call__(self, progress_remaining: float) -> float:
        if progress_remaining not in (0.0, 1.0):
            raise ValueError(self.missing())
        return self.begin if progress_remaining == 1.0 else self.end

    def missing(self) -> str:
        """
        :return: what to do
        """
        return (
            f"`learning_rate` was the function {self.name}, of which a file has the name only: pass "
            "load(..., custom_objects={'learning_rate': ...}) to go on training, or call sb3_sgmrl.register on it before load."
        )

    def __repr__(self) -> str:
        return f"NamedSchedule(name={self.name!r}, begin={self.begin}, end={self.end})"


def check_schedule(schedule: Any) -> None:
    """
    :param schedule: the learning rate of a model that is to be trained
    :raises ValueError: when only its name is known
    """
    if isinstance(schedule, NamedSchedule):
        raise ValueError(schedule.missing())

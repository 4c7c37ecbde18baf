"""Schedules that a file can store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class LinearToZero:
    """
    A linear decay to zero, ``lin_…`` in a file of hyperparameters.

    The values equal those of RL Zoo exactly.

    :param initial_value: The value at the beginning
    """

    def __init__(self, initial_value: float) -> None:
        self.initial_value = float(initial_value)

    def __call__(self, progress_remaining: float) -> float:
        return progress_remaining * self.initial_value

    def __repr__(self) -> str:
        return f"LinearToZero(initial_value={self.initial_value})"


class NamedSchedule:
    """
    A placeholder for a schedule that is a function of the program that saved it.

    A file holds only the function's name and its values at both ends. A model with a placeholder can play and adapt. It needs
    the function before it can train.

    :param name: The name of the function
    :param begin: The value at the beginning
    :param end: The value at the end
    """

    def __init__(self, name: str, begin: float, end: float) -> None:
        self.name = str(name)
        self.begin, self.end = float(begin), float(end)

    @classmethod
    def of(cls, schedule: Callable[[float], float], name: str) -> NamedSchedule:
        """
        Make the placeholder of a schedule.

        :param schedule: A function of the remaining progress
        :param name: The name of the function
        :return: The placeholder to save
        """
        return cls(name, schedule(1.0), schedule(0.0))

    def __call__(self, progress_remaining: float) -> float:
        if progress_remaining not in (0.0, 1.0):
            raise ValueError(self.missing())
        return self.begin if progress_remaining == 1.0 else self.end

    def missing(self) -> str:
        """
        Return the error message for training without the function.

        :return: The message, which says how to pass the function
        """
        return (
            f"`learning_rate` was the function {self.name}, of which a file has the name only: pass "
            "load(..., custom_objects={'learning_rate': ...}) to go on training, or call sb3_sgmrl.register on it before load."
        )

    def __repr__(self) -> str:
        return f"NamedSchedule(name={self.name!r}, begin={self.begin}, end={self.end})"


def check_schedule(schedule: Any) -> None:
    """
    Check that a learning rate can be used for training.

    :param schedule: The learning rate of the model
    :raises ValueError: When only the name of the function is known
    """
    if isinstance(schedule, NamedSchedule):
        raise ValueError(schedule.missing())

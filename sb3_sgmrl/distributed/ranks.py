"""The processes that train together: who owns which task, and how they exchange what crosses tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class RankError(RuntimeError):
    """
    A rank failed, so all ranks stop. Every rank raises the same error, and only rank 0 shows it.

    :param message: The rank, its host and the error
    :param of_values: Whether the error is a ValueError, for example of numbers that overflow
    """

    def __init__(self, message: str, of_values: bool = False) -> None:
        super().__init__(message)
        self.of_values = of_values


class Ranks:
    """
    The processes that train together. This class is one process alone, which owns every task and exchanges nothing.

    Every rank calls the same methods in the same order.
    """

    #: the number of this process
    rank: int = 0
    #: the number of processes
    size: int = 1
    #: whether sums over tasks are sums of one sum per rank
    sums_by_blocks: bool = False

    def own(self, n_tasks: int) -> range:
        """
        List the tasks of this rank, a contiguous block.

        :param n_tasks: The number of tasks of all ranks
        :return: The indices of the tasks
        """
        smaller, n_larger = divmod(n_tasks, self.size)
        first = self.rank * smaller + min(self.rank, n_larger)
        return range(first, first + smaller + (self.rank < n_larger))

    def exchange(self, value: T) -> list[T]:
        """
        Exchange a value with all ranks.

        :param value: The value of this rank, which can be pickled
        :return: The value of each rank
        :raises RankError: When a rank failed, ended or did not answer in time
        """
        return [value]

    def gathered(self, of_own_tasks: Sequence[T]) -> list[T]:
        """
        Gather values of tasks.

        :param of_own_tasks: A value for each task of this rank
        :return: A value for each task of all ranks, in the order of the tasks
        :raises RankError: When a rank failed, ended or did not answer in time
        """
        return [value for of_rank in self.exchange(list(of_own_tasks)) for value in of_rank]

    def to_sum(self, of_own_tasks: Iterable[T]) -> Iterable[T]:
        """
        Gather values of tasks that are needed only as their sum.

        :param of_own_tasks: A value for each task of this rank, of tensors and numbers in dictionaries, lists and tuples
        :return: The terms of the sum over all tasks: the value of each task in their order, or with ``sums_by_blocks`` the sum
            of each rank
        :raises RankError: When a rank failed, ended or did not answer in time
        """
        return of_own_tasks

    def of_first(self, make: Callable[[], T]) -> T:
        """
        Send a value of rank 0 to all ranks.

        :param make: The function that makes the value, called on rank 0 only
        :return: The value of rank 0
        :raises RankError: When a rank failed, ended or did not answer in time
        """
        first: Any = self.exchange(make() if self.rank == 0 else None)[0]
        return first

    def show(self, show: Callable[[], None]) -> None:
        """
        Show an error on rank 0. The other ranks wait for it, because torchrun ends all processes when one of them ends.

        :param show: The function that shows the error
        """
        show()

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        # a copy of a model is used by one rank
        return ALONE

    @contextmanager
    def together(self, n_tasks: int = 0) -> Iterator[None]:
        """
        Stop all ranks when one of them fails within a ``with`` statement.

        :param n_tasks: The number of tasks of all ranks, to name those of the rank that failed
        :raises RankError: On every rank, when one of them raised an error
        """
        yield


ALONE = Ranks()


class Elsewhere:
    """
    A placeholder for data of a task that another rank holds. Any use of it is an error.

    :param what: The name of the data
    :param task: The index of the task
    :param shape: The first lengths of the array
    """

    def __init__(self, what: str, task: int, shape: tuple[int, ...] = ()) -> None:
        self.shape = shape
        self._text = f"The {what} of task {task} are on the rank that plays it: use the tasks of `rollout.own`."

    def _refuse(self, *_: Any) -> NoReturn:
        raise RuntimeError(self._text)

    __getitem__ = __iter__ = __len__ = __array__ = __contains__ = _refuse

    def __getattr__(self, name: str) -> NoReturn:
        # copies and pickles ask for special methods first
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(self._text)

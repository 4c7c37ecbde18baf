"""The processes that torchrun started, connected by ``torch.distributed``."""

from __future__ import annotations

import atexit
import io
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import reduce
from typing import Any, TypeVar

import torch as th
import torch.distributed as dist

from sb3_sgmrl.distributed.meeting import fresh_store
from sb3_sgmrl.distributed.ranks import ALONE, RankError, Ranks
from sb3_sgmrl.util.threads import under_torchrun
from sb3_sgmrl.util.validation import check_bool

T = TypeVar("T")

# Seconds that a rank waits for the slowest one.
TIMEOUT = 600.0
# How long the other ranks wait for rank 0 to show an error.
_LONGEST_SHOW = timedelta(seconds=5)


class TorchRanks(Ranks):
    """
    The ranks of a process group.

    :param group: The process group, whose backend is gloo
    :param timeout: The number of seconds that a rank waits for the slowest one, for errors
    :param store: A store that all ranks reach
    :param sums_by_blocks: Whether sums over tasks are sums of one sum per rank
    """

    def __init__(self, group: Any, timeout: float, store: dist.Store, sums_by_blocks: bool = False) -> None:
        self._store: dist.Store | None = store
        self.sums_by_blocks = sums_by_blocks
        self._group, self._timeout = group, timeout
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self._host = socket.gethostname()

    def exchange(self, value: T) -> list[T]:
        parts = self._all(pickle_tensors((None, value)))
        for rank, (failure, _) in enumerate(parts):
            if failure is not None:
                message, trace, of_values = failure
                raise RankError(f"Rank {rank} {message}", of_values) from RuntimeError(f"\n{trace}")
        return [own for _, own in parts]

    def to_sum(self, of_own_tasks: Iterable[T]) -> list[T]:
        if self.sums_by_blocks:
            return self.exchange(reduce(_added, of_own_tasks))
        return self.gathered(list(of_own_tasks))

    def _all(self, payload: bytes) -> list[Any]:
        """Exchange bytes, in messages of the length of the longest."""
        own = th.frombuffer(bytearray(payload), dtype=th.uint8)
        lengths = [th.zeros(1, dtype=th.int64) for _ in range(self.size)]
        try:
            dist.all_gather(lengths, th.tensor([len(own)]), group=self._group)
            longest = max(int(length) for length in lengths)
            parts = [th.empty(longest, dtype=th.uint8) for _ in range(self.size)]
            dist.all_gather(parts, th.nn.functional.pad(own, (0, longest - len(own))), group=self._group)
        except RuntimeError as error:
            raise RankError(
                f"A rank ended, or did not answer within the {self._timeout:g} seconds of `timeout`; torchrun's report names "
                "the first one that ended."
            ) from error
        return [pickle.loads(part[: int(length)].numpy().tobytes()) for part, length in zip(parts, lengths, strict=True)]

    @contextmanager
    def together(self, n_tasks: int = 0) -> Iterator[None]:
        try:
            yield
            self.exchange(None)  # another rank may have failed after the last exchange
        except Exception as error:
            if not _is_known_to_all(error):
                self._report(error, self.own(n_tasks))
            raise

    def show(self, show: Callable[[], None]) -> None:
        if self.rank == 0:
            show()
        with suppress(Exception):  # the other ranks, or the store, may have ended
            assert self._store is not None
            if self.rank == 0:
                self._store.set("shown", "yes")
            else:
                self._store.wait(["shown"], _LONGEST_SHOW)

    def check_arguments(self, timeout: float | None, sum_by_blocks: bool | None) -> None:
        """
        Check the arguments of a later call of :func:`start`.

        :param timeout: The timeout; None accepts any
        :param sum_by_blocks: Whether to sum by blocks; None accepts both
        :raises ValueError: When an argument differs from that of the first call
        """
        pairs = ("timeout", timeout, self._timeout), ("sum_by_blocks", sum_by_blocks, self.sums_by_blocks)
        for name, given, first in pairs:
            if given not in (None, first):
                raise ValueError(f"`{name}` must be chosen before the ranks connect, which was with {first!r}, got {given!r}.")

    def disconnect(self, is_own: bool) -> None:
        """
        End the threads of the process group. Otherwise they may abort the process while Python ends.

        :param is_own: Whether the group is not the user's
        """
        self._group = self._store = None
        if is_own:
            with suppress(Exception):  # the user's script may have done it
                dist.destroy_process_group()

    def _report(self, error: Exception, own: range) -> None:
        tasks = f", which plays the tasks {own.start} to {own.stop - 1}," if own else ""
        message = f"on {self._host}{tasks} failed: {type(error).__name__}: {error}"
        failure = message, "".join(traceback.format_exception(error)), isinstance(error, ValueError)
        try:
            self._all(pickle_tensors((failure, None)))
        except RankError:  # the others have ended
            return
        raise RankError(f"Rank {self.rank} {message}", isinstance(error, ValueError)) from error


def _is_known_to_all(error: BaseException | None) -> bool:
    """Return whether an error follows from a RankError, which all ranks raise."""
    while error is not None and not isinstance(error, RankError):
        error = error.__cause__ or error.__context__
    return error is not None


class _Pickler(pickle.Pickler):
    """A pickler that sends tensors as arrays, which is many times faster than torch's own way."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, th.Tensor):
            return _tensor, (obj.detach().cpu().numpy(), obj.device.type)
        return NotImplemented


def _tensor(array: Any, device: str) -> th.Tensor:
    return th.as_tensor(array).to(device)


def pickle_tensors(value: Any) -> bytes:
    """
    Pickle a value for another rank.

    :param value: The value, in which tensors may have any device
    :return: The bytes
    """
    file = io.BytesIO()
    _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


def _added(one: Any, other: Any) -> Any:
    """Add tensors and numbers of the same structure; None is the lack of a gradient."""
    if isinstance(one, dict):
        return {name: _added(one[name], other[name]) for name in one}
    if isinstance(one, (list, tuple)):
        return type(one)(_added(*pair) for pair in zip(one, other, strict=True))
    return None if one is None else one + other


_started: Ranks | None = None


def n_ranks() -> int:
    """
    Return the number of processes that torchrun started, without connecting them.

    :return: The number of ranks; 1 without torchrun
    """
    return int(os.environ["WORLD_SIZE"]) if under_torchrun() else 1


def own_rank() -> int:
    """
    Return the number of this process, without connecting it to the others.

    :return: The rank; 0 without torchrun
    """
    return int(os.environ["RANK"]) if under_torchrun() else 0


def start(timeout: float | None = None, sum_by_blocks: bool | None = None) -> Ranks:
    """
    Connect the processes that torchrun started. ``learn`` calls it; call it before ``learn`` to choose its arguments.

    Without torchrun, and with one process, nothing is connected.

    :param timeout: The number of seconds that a rank waits for the slowest one before it stops; None takes 600
    :param sum_by_blocks: Whether ranks exchange one sum of gradients each instead of one gradient per task, for policies of
        millions of parameters. Results then depend on the number of ranks, by rounding; None takes False
    :return: The ranks
    :raises ValueError: When an argument is not valid, or differs from that of an earlier call
    """
    global _started
    if timeout is not None and not timeout > 0:
        raise ValueError(f"`timeout` must be a positive number of seconds, got {timeout!r}.")
    if sum_by_blocks is not None:
        check_bool("sum_by_blocks", sum_by_blocks)
    if _started is None:
        _started = _connect(TIMEOUT if timeout is None else timeout, bool(sum_by_blocks))
    elif isinstance(_started, TorchRanks):
        _started.check_arguments(timeout, sum_by_blocks)
    return _started


def _connect(timeout: float, sum_by_blocks: bool) -> Ranks:
    if n_ranks() == 1:
        return ALONE
    # its default arguments hold the process group that exists when it is imported, and would keep its threads to the end
    import torch.distributed.nn  # noqa: F401

    limit = timedelta(seconds=timeout)
    store, is_own = fresh_store(limit), not dist.is_initialized()
    if not is_own:  # initialised by the user's script, with any backend
        group = dist.new_group(backend="gloo", timeout=limit)
    else:
        rank = int(os.environ["RANK"])
        dist.init_process_group("gloo", store=store, rank=rank, world_size=n_ranks(), timeout=limit)
        group = dist.group.WORLD
    ranks = TorchRanks(group, timeout, store, sum_by_blocks)
    atexit.register(ranks.disconnect, is_own)
    _show_on_first(ranks)
    return ranks


def _show_on_first(ranks: Ranks) -> None:
    """Let rank 0 alone show errors that all ranks raise."""
    show = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if isinstance(error, RankError):
            ranks.show(lambda: show(kind, error, trace))
        else:
            show(kind, error, trace)

    sys.excepthook = hook

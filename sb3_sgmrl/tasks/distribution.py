"""Draw, check and describe tasks, without any knowledge of environments."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any, Literal, get_args

import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence

from sb3_sgmrl.tasks.columns import is_record, numbers_of_record
from sb3_sgmrl.tasks.copies import lookup_key, own_copy
from sb3_sgmrl.util.validation import check_seed, is_number, shown

Task = Any
Split = Literal["train", "test"]
Sampler = Callable[[int, np.random.Generator], Iterable[Task]]

_ARRAY_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class TaskDistribution:
    """
    A distribution of training tasks with optional test tasks.

    Training tasks come from a list; without a list, from a sampler; without both, from a space.

    :param space: The space in which tasks lie; ``None`` if unknown
    :param tasks: The finite list of training tasks
    :param sampler: A callable ``(n, rng)`` that returns ``n`` training tasks
    :param weights: The non-negative weight of each element of ``tasks``
    :param test_tasks: The space or list of tasks kept for testing; they may lie outside the bounds of a ``Box``
    :param split: The fraction of ``tasks`` held out as test tasks, instead of ``test_tasks``
    :param split_seed: The seed that decides which tasks are held out
    :raises ValueError: When an argument does not fit the others, or a listed task does not fit
    """

    def __init__(
        self,
        *,
        space: spaces.Space | None = None,
        tasks: Iterable[Task] | None = None,
        sampler: Sampler | None = None,
        weights: Sequence[float] | None = None,
        test_tasks: spaces.Space | Iterable[Task] | None = None,
        split: float | None = None,
        split_seed: int = 0,
    ):
        # Copy the spaces, because drawing seeds them.
        self.space = deepcopy(space)
        self._test_space = deepcopy(test_tasks) if isinstance(test_tasks, spaces.Space) else None
        self._sampler = sampler
        # All listed tasks, training tasks first; the indices for training and for testing; the training weights.
        self._listed: list[Task] = []
        self._places: dict[Any, int] = {}
        self._train: list[int] = []
        self._test: list[int] = []
        self._weights: np.ndarray | None = None
        # The shape of the tasks of a numeric list without a space.
        self._shape: tuple[int, ...] | None = None

        if tasks is not None:
            self._train = self._read_list(tasks, "tasks")
            self._weights = _read_weights(weights, len(self._train))
        elif weights is not None:
            raise ValueError("`weights` needs a finite list: pass `tasks`, or a list of environments.")
        if split is not None:
            if test_tasks is not None:
                raise ValueError("`split` and `test_tasks` exclude each other: pass either `split` or `test_tasks`.")
            self._hold_out(split, split_seed)
        elif isinstance(test_tasks, spaces.Space):
            self._check_test_space(test_tasks)
        elif test_tasks is not None:
            self._test = self._read_list(test_tasks, "test_tasks")

    @property
    def has_test_tasks(self) -> bool:
        """Whether some tasks are kept for testing."""
        return bool(self._test) or self._test_space is not None

    @property
    def is_uniform_on_box(self) -> bool:
        """Whether training tasks are drawn by a ``Box`` itself."""
        return isinstance(self.space, spaces.Box) and not self._train and self._sampler is None

    def sample(self, n: int, rng: np.random.Generator, split: Split = "train") -> list[Task]:
        """
        Draw independent tasks.

        From an unweighted list of test tasks, every task is drawn once before any task is drawn twice.

        :param n: The number of tasks
        :param rng: The only source of randomness
        :param split: Either ``"train"`` or ``"test"``; without test tasks, ``"test"`` draws training tasks
        :return: The list of ``n`` tasks
        :raises ValueError: When ``n`` is not a positive integer, ``split`` is unknown or the sampler returns invalid tasks
        """
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n <= 0:
            raise ValueError(f"`n`, the number of tasks, must be a positive integer, got {n!r}.")
        if split not in get_args(Split):
            raise ValueError(f'`split` must be "train" or "test", got {split!r}.')
        test = split == "test" and self.has_test_tasks
        listed, space = (self._test, self._test_space) if test else (self._train, self.space)
        if listed:
            return [own_copy(self._listed[i]) for i in self._draw(listed, int(n), rng, each_once=test)]
        if self._sampler is not None and not test:
            answer = self._sampler(int(n), rng)
            drawn = list(answer) if isinstance(answer, Iterable) else None
            if drawn is None or len(drawn) != n:
                got = repr(answer) if drawn is None else len(drawn)
                raise ValueError(f"`sample_tasks({n}, rng)` of the environment must return {n} tasks, got {got}.")
        else:
            assert space is not None
            space.seed(int(rng.integers(2**63)))
            drawn = [space.sample() for _ in range(n)]
        return [self.check(task) for task in drawn]

    def check(self, task: Task) -> Task:
        """
        Validate a task.

        Numbers and lists become elements of the space. An array of floats keeps its precision.

        :param task: The task
        :return: A copy of the task
        :raises ValueError: When the task has the wrong shape, is not finite or is not one of the tasks
        """
        if self.space is not None:
            fits = [_fit(task, space) for space in (self.space, self._test_space) if space is not None]
            for fitted in fits:
                if fitted is not None:
                    return fitted
        # Without a space, or outside its bounds, the task must be a listed one.
        admitted = self._admit(task)
        if (self.space is not None or self._known_by_place) and self._find(admitted) is None:
            where = f"in the task space {self.space}" if self.space is not None else f"one of the {len(self._listed)} tasks"
            raise ValueError(f"Task {_describe(task)} is not {where}.")
        return admitted

    def features(self, task: Task) -> np.ndarray:
        """
        Describe a task by numbers, for a regression on tasks.

        Gymnasium flattens a task that lies in a space. A numeric task is raveled. A task of a list becomes the one-hot
        code of its position. Any other dictionary or dataclass becomes its numbers.

        :param task: The task
        :return: The float64 array of shape (n_features,)
        :raises ValueError: When the task is not valid, or has no such description
        """
        task = self.check(task)
        if self.space is not None and not isinstance(self.space, spaces.Box):
            if self.space.is_np_flattenable:
                return np.asarray(spaces.flatten(self.space, task), dtype=np.float64)
        elif not self._known_by_place:
            array = _numeric(task)
            if array is not None:
                return array.astype(np.float64).ravel()
        place = self._find(task)
        if place is None and is_record(task):
            return np.asarray(numbers_of_record(task))
        if place is None:
            raise ValueError(f"Task {_describe(task)} has no description by numbers: pass a flattenable `task_space`.")
        return np.eye(len(self._listed))[place]

    @property
    def _known_by_place(self) -> bool:
        """Whether only the position of a task in the list describes it."""
        return self.space is None and self._shape is None and bool(self._train)

    def _draw(self, listed: list[int], n: int, rng: np.random.Generator, *, each_once: bool) -> np.ndarray:
        if self._weights is not None and listed[0] < len(self._weights):
            weights = self._weights[listed]
            return rng.choice(listed, size=n, p=weights / weights.sum())
        if each_once:
            return np.concatenate([rng.permutation(listed) for _ in range(math.ceil(n / len(listed)))])[:n]
        return rng.choice(listed, size=n)

    def _admit(self, task: Task) -> Task:
        """Copy a task that has the right shape and is finite; it may lie outside the bounds of the space."""
        if task is None:
            raise ValueError("`task` must not be None.")
        if self.space is not None:
            fitted = _fit(task, self.space, bounded=False)
            if fitted is None:
                raise ValueError(f"Task {_describe(task)} is not in the task space {self.space}.")
            return fitted
        array = _numeric(task)
        if array is not None and not np.isfinite(array).all():
            raise ValueError(f"Task {_describe(task)} is not finite; all its numbers must be.")
        if self._shape is not None and (array is None or array.shape != self._shape):
            raise ValueError(f"Task {_describe(task)} is not numeric and of shape {self._shape} like the listed tasks.")
        return own_copy(task)

    def _find(self, task: Task) -> int | None:
        """Find the position of a task in the list; the task may be a copy from another process."""
        with suppress(TypeError, KeyError):  # fast for a benchmark with thousands of tasks
            return self._places[lookup_key(task)]
        for same in (_equal, lambda a, b: pickle.dumps(a) == pickle.dumps(b)):
            for place, listed in enumerate(self._listed):
                if same(listed, task):
                    return place
        return None

    def _read_list(self, tasks: Iterable[Task], name: str) -> list[int]:
        listed = list(tasks)
        if not listed:
            raise ValueError(f"`{name}` must not be empty.")
        if name == "tasks" and self.space is None:
            shapes = {None if array is None else array.shape for array in map(_numeric, listed)}
            self._shape = shapes.pop() if len(shapes) == 1 else None
        first = len(self._listed)
        for i, task in enumerate(listed):
            try:
                # Bounds apply to training tasks only; test tasks may lie outside.
                self._listed.append(self.check(task) if name == "tasks" and self.space is not None else self._admit(task))
            except ValueError as error:
                raise ValueError(f"`{name}[{i}]`: {error}") from None
            with suppress(TypeError):
                self._places.setdefault(lookup_key(self._listed[-1]), first + i)
        return list(range(first, len(self._listed)))

    def _hold_out(self, split: float, split_seed: int) -> None:
        n = len(self._train)
        if n < 2:
            raise ValueError("`split` needs a finite list of at least two tasks: pass `tasks`, or a list of environments.")
        if not (is_number(split) and 0 < split < 1):
            raise ValueError(f"`split`, the fraction of test tasks, must lie between 0 and 1, got {shown(split)}.")
        check_seed(split_seed, "split_seed")
        order = np.random.default_rng(split_seed).permutation(n)
        n_test = min(max(round(split * n), 1), n - 1)
        self._test, self._train = sorted(order[:n_test].tolist()), sorted(order[n_test:].tolist())
        if self._weights is not None and min(self._weights[self._test].sum(), self._weights[self._train].sum()) == 0:
            raise ValueError("`weights` must not be zero for all training tasks, nor for all test tasks, of `split`.")

    def _check_test_space(self, test_space: spaces.Space) -> None:
        if self.space is not None and (type(test_space) is not type(self.space) or test_space.shape != self.space.shape):
            raise ValueError(
                f"`test_tasks` must be a space of the type and shape of the task space {self.space}, got {test_space}."
            )


def _read_weights(weights: Sequence[float] | None, n: int) -> np.ndarray | None:
    if weights is None:
        return None
    numbers = _numeric(weights)
    array = np.array(np.nan if numbers is None else numbers, dtype=np.float64)
    if array.shape != (n,) or not np.isfinite(array).all() or (array < 0).any() or array.sum() == 0:
        raise ValueError(
            f"`weights` must be {n} non-negative numbers, one per task and not all zero, got {_describe(weights)}."
        )
    return array


def _fit(task: Task, space: spaces.Space, *, bounded: bool = True) -> Task:
    """
    Convert a task to an element of the space.

    :param task: An element of the space, or a number or list instead of an array
    :param space: The space
    :param bounded: Whether the bounds of a ``Box`` apply
    :return: A copy of the task, or ``None`` when it does not fit the space
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(task, Mapping) or task.keys() != space.spaces.keys():
            return None
        fitted = {key: _fit(task[key], part, bounded=bounded) for key, part in space.spaces.items()}
        return None if any(part is None for part in fitted.values()) else fitted
    if isinstance(space, spaces.Tuple):
        if not isinstance(task, (tuple, list)) or len(task) != len(space.spaces):
            return None
        parts = tuple(_fit(part, of, bounded=bounded) for part, of in zip(task, space.spaces, strict=True))
        return None if any(part is None for part in parts) else parts
    if not isinstance(space, _ARRAY_SPACES):
        return deepcopy(task) if space.contains(task) else None
    return _fit_array(task, space, bounded=bounded)


def _fit_array(task: Task, space: spaces.Space, *, bounded: bool) -> Task:
    assert space.shape is not None and space.dtype is not None
    array = _numeric(task)
    if array is None or not np.isfinite(array).all():
        return None
    if array.shape != space.shape and not (array.size == 1 == math.prod(space.shape)):
        return None
    array = array.reshape(space.shape)
    with np.errstate(invalid="ignore"):
        element = array.astype(space.dtype)
    if space.dtype.kind != "f" and not np.array_equal(element, array):
        return None
    if (bounded or not isinstance(space, spaces.Box)) and not space.contains(element):
        return None
    if isinstance(space, spaces.Discrete):
        return int(element)
    # A cast to float32 would slightly change the task that the environment's sampler drew.
    keep = isinstance(task, np.ndarray) and array.dtype.kind == "f" and space.dtype.kind == "f"
    return own_copy(array) if keep else element


def _numeric(task: Task) -> np.ndarray | None:
    """Convert a task to an array of numbers; return ``None`` when that is impossible."""
    try:
        array = np.asarray(task)
    except ValueError:  # nested lists of unequal lengths
        return None
    return array if array.dtype.kind in "biuf" else None


def _equal(a: Task, b: Task) -> bool:
    x, y = _numeric(a), _numeric(b)
    if x is None or y is None:
        return data_equivalence(a, b, exact=True)
    if x.dtype.kind == "f" or y.dtype.kind == "f":
        # One of the two may have been a list, which became float32 in the space.
        x, y = x.astype(np.float32), y.astype(np.float32)
    return np.array_equal(x, y)


def _describe(task: Task) -> str:
    text = " ".join(repr(task).split())
    array = _numeric(task)
    return (text if len(text) <= 100 else text[:97] + "...") + (f" of shape {array.shape}" if array is not None else "")

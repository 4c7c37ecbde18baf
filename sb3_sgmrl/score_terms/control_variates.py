"""
Control variates b_j, subtracted from the return J̃ that multiplies a score in formula (A): Σ_j (J̃ − b_j) s_j.

The expectation stays exact as long as b_j is independent of episode τ_j given θ, because E s_j = 0. Each function states
why its b_j is independent. Shapes:

- ``outer_returns`` (n_tasks,) is J̃, the mean discounted return of each task's outer episodes;
- ``inner_returns`` (n_tasks, n_episodes) are the discounted returns of the episodes whose scores are weighted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

ControlVariate = Callable[[np.ndarray, np.ndarray], np.ndarray]


def none(outer_returns: np.ndarray, inner_returns: np.ndarray) -> np.ndarray:
    """
    Return b_j = 0, the paper's eq. (13) literally.

    :param outer_returns: The J̃ of each task, shape (n_tasks,)
    :param inner_returns: The returns of the inner episodes, shape (n_tasks, n_episodes)
    :return: The control variates b, shape (n_tasks, n_episodes)
    """
    return np.zeros_like(inner_returns)


def others_mean(x: np.ndarray) -> np.ndarray:
    """
    Compute the mean over the other tasks, for each task.

    :param x: A number for each task, shape (n_tasks,)
    :return: The mean over the other tasks of each, shape (n_tasks,); zero when there is no other
    """
    return (x.sum() - x) / max(len(x) - 1, 1)


def leave_one_task_out(outer_returns: np.ndarray, inner_returns: np.ndarray) -> np.ndarray:
    """
    Return b_j = mean of J̃ over the other tasks, which share no episode with this task.

    :param outer_returns: The J̃ of each task, shape (n_tasks,)
    :param inner_returns: The returns of the inner episodes, shape (n_tasks, n_episodes)
    :return: The control variates b, shape (n_tasks, n_episodes)
    """
    return np.broadcast_to(others_mean(outer_returns)[:, None], inner_returns.shape)


def leave_one_out_return(outer_returns: np.ndarray, inner_returns: np.ndarray) -> np.ndarray:
    """
    Return b_j = mean return of the other episodes of D + mean improvement of the other tasks.

    The improvement of a task is J̃ − mean(inner returns). Neither summand contains τ_j.

    :param outer_returns: The J̃ of each task, shape (n_tasks,)
    :param inner_returns: The returns of the inner episodes, shape (n_tasks, n_episodes), at least two episodes
    :return: The control variates b, shape (n_tasks, n_episodes)
    """
    n = inner_returns.shape[1]
    others = (inner_returns.sum(1, keepdims=True) - inner_returns) / (n - 1)
    return others + others_mean(outer_returns - inner_returns.mean(1))[:, None]


@dataclass
class TaskRegression:
    """
    Ridge regression that predicts J̃ from the parameters of the task; b_j is the prediction.

    The regression on (1, f, f²) is fitted on earlier iterations only. It has never seen an episode of the present iteration.

    :param memory: The number of past tasks to remember
    """

    memory: int = 400
    _features: list[np.ndarray] = field(default_factory=list)
    _targets: list[float] = field(default_factory=list)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """
        Predict J̃ of each task.

        :param features: The features of each task, shape (n_tasks, n_features)
        :return: The predicted J̃, shape (n_tasks,); zero before the first call of :meth:`observe`
        """
        if not self._targets:
            return np.zeros(len(features))
        seen = self._expand(np.stack(self._features))
        mean = float(np.mean(self._targets))
        gram = seen.T @ seen + 1e-3 * len(seen) * np.eye(seen.shape[1])
        return mean + self._expand(features) @ np.linalg.solve(gram, seen.T @ (np.asarray(self._targets) - mean))

    def observe(self, features: np.ndarray, outer_returns: np.ndarray) -> None:
        """
        Remember the tasks of an iteration, after its gradient was computed.

        :param features: The features of each task, shape (n_tasks, n_features)
        :param outer_returns: The J̃ of each task, shape (n_tasks,)
        """
        self._features = [*self._features, *np.asarray(features, dtype=np.float64)][-self.memory :]
        self._targets = [*self._targets, *map(float, outer_returns)][-self.memory :]

    @staticmethod
    def _expand(features: np.ndarray) -> np.ndarray:
        return np.concatenate([np.ones((len(features), 1)), features, features**2], axis=1)


@dataclass
class VariateScaling:
    """
    Linear regression that scales any b_j to η₀ + η₁ b_j.

    The η would have minimised Σ (J̃ − η₀ − η₁ b_j)² over earlier iterations. Each iteration counts for less than the next.
    The noise of the score term consists of E[Σ_j (J̃ − b_j)² ‖s_j‖²]. So this scaling is the best one as far as scores are of
    equal length. η comes from earlier iterations only, so b_j stays independent of τ_j. The cost is that of a few sums.

    :param decay: The weight of an iteration relative to the next
    """

    decay: float = 0.9
    # weighted sums of 1, b, J̃, b² and bJ̃
    _sums: np.ndarray = field(default_factory=lambda: np.zeros(5))

    def factors(self) -> tuple[float, float]:
        """
        Compute the factors of the scaling.

        :return: The η₀ and η₁; 0 and 1 before the first call of :meth:`observe`
        """
        if self._sums[0] == 0:
            return 0.0, 1.0
        b, outer, square, product = self._sums[1:] / self._sums[0]
        variance = square - b**2
        # a constant b has no slope to estimate
        slope = (product - b * outer) / variance if variance > 1e-9 * square else 1.0
        return float(outer - slope * b), float(slope)

    def scale(self, baselines: Sequence[np.ndarray]) -> list[np.ndarray]:
        """
        Scale control variates.

        :param baselines: The b of each inner step, shape (n_tasks, n_episodes)
        :return: The scaled b of each inner step, shape (n_tasks, n_episodes)
        """
        shift, slope = self.factors()
        return [shift + slope * b for b in baselines]

    def observe(self, outer_returns: np.ndarray, baselines: Sequence[np.ndarray]) -> None:
        """
        Learn from an iteration, after its gradient was computed.

        :param outer_returns: The J̃ of each task, shape (n_tasks,)
        :param baselines: The b of each inner step before scaling, shape (n_tasks, n_episodes)
        """
        b = np.stack(baselines)
        outer = np.broadcast_to(outer_returns[:, None], b.shape)
        self._sums = self.decay * self._sums + [b.size, b.sum(), outer.sum(), (b**2).sum(), (b * outer).sum()]


@dataclass
class OuterScale:
    """
    The number that divides the returns and the outer surrogates of all tasks.

    It is the mean of the tasks' own scales (length × standard deviation) in earlier iterations. Each iteration counts for less
    than the next.

    The own scale of a task follows from its adapted policy, and so from the episodes whose scores are weighted. Dividing by it
    makes a bias of order α/N, which is also the order of the correction.

    :param decay: The weight of an iteration relative to the next
    """

    decay: float = 0.9
    # weighted sums of the mean scale and of 1
    _sum: float = 0.0
    _weight: float = 0.0

    def scales(self, own: np.ndarray) -> np.ndarray:
        """
        Return the divisor of each task.

        In the first iteration a task has the mean scale of the others, which is independent of its episodes too. A single task
        has its own scale then.

        :param own: The scale of each task, shape (n_tasks,), infinite where the episodes carry no information
        :return: The divisor of each task, shape (n_tasks,); infinite where no scale is known
        """
        if self._weight > 0:
            return np.full(len(own), self._sum / self._weight)
        if len(own) == 1:
            return own
        known = np.isfinite(own)
        n_others = known.sum() - known
        total = np.where(known, own, 0.0)
        return np.where(n_others > 0, (total.sum() - total) / np.maximum(n_others, 1), np.inf)

    def observe(self, own: np.ndarray) -> None:
        """
        Learn from an iteration, after its gradient was computed.

        :param own: The scale of each task, shape (n_tasks,)
        """
        known = own[np.isfinite(own)]
        if len(known) > 0:
            self._sum = self.decay * self._sum + float(known.mean())
            self._weight = self.decay * self._weight + 1

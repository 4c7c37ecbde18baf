"""
What is subtracted from the return J̃ that multiplies a score, formula (A): Σ_j (J̃ − b_j) s_j.

The expectation stays exact as long as b_j is independent of episode τ_j given θ, because E s_j = 0. Each function states
why that holds for it. Shapes: ``outer_returns`` (n_tasks,) is J̃, the mean discounted return of each task's outer episodes;
``inner_returns`` (n_tasks, n_episodes) are the discounted returns of the episodes whose scores are weighted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

ControlVariate = Callable[[np.ndarray, np.ndarray], np.ndarray]


def none(outer_returns: np.ndarray, inner_returns: np.ndarray) -> np.ndarray:
    """
    b_j = 0, the paper's eq. (13) literally.

    :param outer_returns: shape (n_tasks,)
    :param inner_returns: shape (n_tasks, n_episodes)
    :return: b, shape (n_tasks, n_episodes)
    """
    return np.zeros_like(inner_returns)


def _others_mean(x: np.ndarray) -> np.ndarray:
    """Mean over the other tasks of a vector (n_tasks,); zero when there is no other."""
    return (x.sum() - x) / max(len(x) - 1, 1)


def leave_one_task_out(outer_returns: np.ndarray, inner_returns: np.ndarray) -> np.ndarray:
    """
    b_j = mean of J̃ over the other tasks, which share no episode with this one.

    :param outer_returns: shape (n_tasks,)
    :param inner_returns: shape (n_tasks, n_episodes)
    :return: b, shape (n_tasks, n_episodes)
    """
    return np.broadcast_to(_others_mean(outer_returns)[:, None], inner_returns.shape)


def leave_one_out_return(outer_returns: np.ndarray, inner_returns: np.ndarray) -> np.ndarray:
    """
    b_j = mean return of the other episodes of D plus the mean improvement J̃ − mean(inner returns) of the other tasks; neither
    contains τ_j.

    :param outer_returns: shape (n_tasks,)
    :param inner_returns: shape (n_tasks, n_episodes), at least two episodes
    :return: b, shape (n_tasks, n_episodes)
    """
    n = inner_returns.shape[1]
    others = (inner_returns.sum(1, keepdims=True) - inner_returns) / (n - 1)
    return others + _others_mean(outer_returns - inner_returns.mean(1))[:, None]


@dataclass
class TaskRegression:
    """
    b_j = prediction of J̃ from the parameters of the task by a ridge regression on (1, f, f²), fitted on earlier iterations
    only: it has never seen an episode of this one.

    :param memory: how many past tasks are remembered
    """

    memory: int = 400
    _features: list[np.ndarray] = field(default_factory=list)
    _targets: list[float] = field(default_factory=list)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """
        :param features: of each task, shape (n_tasks, n_features)
        :return: predicted J̃, shape (n_tasks,); zero before anything was observed
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

        :param features: shape (n_tasks, n_features)
        :param outer_returns: shape (n_tasks,)
        """
        self._features = [*self._features, *np.asarray(features, dtype=np.float64)][-self.memory :]
        self._targets = [*self._targets, *map(float, outer_returns)][-self.memory :]

    @staticmethod
    def _expand(features: np.ndarray) -> np.ndarray:
        return np.concatenate([np.ones((len(features), 1)), features, features**2], axis=1)


RETURN_CONTROL_VARIATES: dict[str, ControlVariate] = {
    "none": none,
    "leave_one_task_out": leave_one_task_out,
    "leave_one_out_return": leave_one_out_return,
}
CONTROL_VARIATES = ("refitted", *RETURN_CONTROL_VARIATES, "task_regression")
# these leave one episode out, so they need a second one
LEAVE_ONE_OUT = ("refitted", "leave_one_out_return")

"""What a step along each estimator's mean direction does to V, with common random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch as th

from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
from sb3_sgmrl.data.streams import DIRECTIONS
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.theory.gradient_sample import play_meta_batch
from sb3_sgmrl.theory.statistics import Estimate, align, with_interval
from sb3_sgmrl.util.progress import with_progress
from sb3_sgmrl.util.validation import check_positive, check_seed
from sb3_sgmrl.vec_env.borrowing import borrowed_workers


@dataclass(frozen=True)
class DirectionalChange:
    """
    Discounted returns after adaptation of moved policies, all with the same tasks, initial states and noise of actions.

    :param step_sizes: lengths ε of the steps
    :param start: of the policy as it is, mean over the episodes of each task, shape (n_tasks,)
    :param returns: by direction, at θ + ε d / ‖d‖, shape (n_step_sizes, n_tasks)
    """

    step_sizes: tuple[float, ...]
    start: np.ndarray
    returns: dict[str, np.ndarray]

    def change(self, name: str) -> list[Estimate]:
        """
        :param name: of a direction
        :return: V(θ + ε d / ‖d‖) − V(θ) for every step size; errors are over tasks
        """
        return [Estimate.of_mean(row - self.start) for row in self.returns[name]]

    def difference(self, name: str, baseline: str) -> list[Estimate]:
        """
        :param name: of a direction
        :param baseline: of the direction it is compared with
        :return: how much more V changes than along the baseline, for every step size; the errors are those of paired
            differences over tasks
        """
        pairs = zip(self.returns[name], self.returns[baseline], strict=True)
        return [Estimate.of_mean(row - other) for row, other in pairs]

    def table(self, baseline: str) -> str:
        """
        :param baseline: of the direction that the others are compared with
        :return: a line per direction and step size, to be printed; brackets hold 95 % confidence intervals
        """
        rows = [["", "step", "change of V", f"difference to {baseline}"]]
        for name in self.returns:
            estimates = zip(self.step_sizes, self.change(name), self.difference(name, baseline), strict=True)
            for size, *both in estimates:
                change, difference = (with_interval(one.value, one.interval, "+.4g") for one in both)
                rows.append([name, f"{size:g}", change, "" if name == baseline else difference])
        return align(rows)


def move(parameters: Parameters, direction: Parameters, step_size: float) -> Parameters:
    """
    :param parameters: θ by name
    :param direction: d by name
    :param step_size: ε
    :return: θ + ε d / ‖d‖
    """
    factor = step_size / float(th.nn.utils.get_total_norm([direction[name] for name in parameters]))
    return {name: value + factor * direction[name] for name, value in parameters.items()}


def directional_change(
    model: MetaOnPolicyAlgorithm,
    directions: Mapping[str, Parameters],
    step_sizes: Sequence[float] = (0.01, 0.02),
    n_tasks: int = 400,
    seed: int = 0,
    progress_bar: bool = False,
) -> DirectionalChange:
    """
    The return after adaptation, discounted as in the objective, of policies that were moved a little. The direction of ∇V must
    raise it by at least as much as any other direction does, for steps that are short enough.

    A direction that was estimated is shortened by its noise: of a step along a mean gradient only the part
    sqrt(1 − ``noise_of_mean``) of its length is along its expectation
    (:class:`~sb3_sgmrl.theory.GradientQuality`).

    :param model: gives the policy, the workers and the settings; it stays as it is
    :param directions: by name, e.g. ``{name: sample.mean(name)}``
    :param step_sizes: lengths of the steps in the space of parameters
    :param n_tasks: number of tasks
    :param seed: seed of tasks and episodes, which are others than those of
        :func:`~sb3_sgmrl.theory.sample_gradients`
    :param progress_bar: show a progress bar, which needs tqdm
    :return: the returns, from which changes and paired differences follow
    :raises ValueError: for non-positive counts, no directions, a direction of length zero or a model without environment
    """
    check_positive(n_tasks=n_tasks)
    check_seed(seed)
    if not directions:
        raise ValueError("`directions` must hold at least one direction.")
    for name, direction in directions.items():
        if not any(bool(value.any()) for value in direction.values()):
            raise ValueError(f"`directions` must have a length, but {name!r} is zero everywhere.")
    if model.env is None:
        raise ValueError("`model` has no environment: pass it to `load(path, env=...)` or `set_env(env)`.")
    theta = model.functional.parameters()
    moved = [theta, *(move(theta, direction, size) for direction in directions.values() for size in step_sizes)]
    policies = [FunctionalPolicy(model.functional.policy_with(parameters)) for parameters in moved]
    starts = range(0, n_tasks, model.meta_batch_size)
    jobs = [(start, i) for start in starts for i in range(len(policies))]
    values = np.empty((len(policies), n_tasks))
    with borrowed_workers(model.env):
        for start, i in with_progress(jobs, "directions", progress_bar):
            size = min(model.meta_batch_size, n_tasks - start)
            _, outer = play_meta_batch(model, policies[i], size, [seed, DIRECTIONS, start])
            discounts = model.objective.outer.gamma ** np.arange(outer.rewards.shape[-1])
            values[i, start : start + size] = (outer.rewards @ discounts).mean(1)
    by_direction = values[1:].reshape(len(directions), len(step_sizes), n_tasks)
    return DirectionalChange(tuple(step_sizes), values[0], dict(zip(directions, by_direction, strict=True)))

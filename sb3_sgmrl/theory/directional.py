"""The change of V along each estimator's mean direction, with common random numbers."""

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
    Discounted returns after adaptation of moved policies.

    All policies play the same tasks with the same initial states and action noise.

    :param step_sizes: The lengths ε of the steps
    :param start: The returns of the unmoved policy, mean over the episodes of each task, shape (n_tasks,)
    :param returns: The returns at θ + ε d / ‖d‖, by direction, shape (n_step_sizes, n_tasks)
    """

    step_sizes: tuple[float, ...]
    start: np.ndarray
    returns: dict[str, np.ndarray]

    def change(self, name: str) -> list[Estimate]:
        """
        Compute the change of V along a direction.

        :param name: The name of the direction
        :return: The change V(θ + ε d / ‖d‖) − V(θ) for each step size; standard errors are over tasks
        """
        return [Estimate.of_mean(row - self.start) for row in self.returns[name]]

    def difference(self, name: str, baseline: str) -> list[Estimate]:
        """
        Compare the change of V along a direction with the change along a baseline.

        :param name: The name of the direction
        :param baseline: The name of the baseline direction
        :return: The change of V along the direction minus the change along the baseline, for each step size. The standard
            errors use paired differences over tasks
        """
        pairs = zip(self.returns[name], self.returns[baseline], strict=True)
        return [Estimate.of_mean(row - other) for row, other in pairs]

    def table(self, baseline: str) -> str:
        """
        Format the changes of V as a table for printing.

        :param baseline: The name of the baseline direction
        :return: The table, one line per direction and step size; brackets hold 95 % confidence intervals
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
    Move parameters by a step along a direction.

    :param parameters: The parameters θ, by name
    :param direction: The direction d, by name
    :param step_size: The length ε of the step
    :return: The moved parameters θ + ε d / ‖d‖
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
    Measure the return after adaptation of policies that are moved a little along given directions.

    Returns are discounted as in the objective. For short enough steps, the direction of ∇V raises the return at least as much
    as any other direction.

    Noise shortens an estimated direction. Of a step along a mean gradient, only the part sqrt(1 − ``noise_of_mean``) of its
    length is along the expectation (:class:`~sb3_sgmrl.theory.GradientQuality`).

    :param model: The model with the policy, the workers and the settings; it is not changed
    :param directions: The directions, by name, e.g. ``{name: sample.mean(name)}``
    :param step_sizes: The lengths of the steps in parameter space
    :param n_tasks: The number of tasks
    :param seed: The seed of tasks and episodes; equal seeds still give other tasks than
        :func:`~sb3_sgmrl.theory.sample_gradients`
    :param progress_bar: Whether to show a progress bar, which needs tqdm
    :return: The returns, with methods for changes and paired differences
    :raises ValueError: When a count is not positive, there is no direction, a direction is zero, or the model has no
        environment
    """
    check_positive(n_tasks=n_tasks)
    check_seed(seed)
    if not directions:
        raise ValueError("`directions` must hold at least one direction, got none.")
    for name, direction in directions.items():
        if not any(bool(value.any()) for value in direction.values()):
            raise ValueError(f"`directions` must be non-zero, but {name!r} is zero everywhere.")
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

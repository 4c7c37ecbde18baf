"""Gradients of several estimators from the same meta-batches, at one policy."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th

from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
from sb3_sgmrl.common.phases import play_and_adapt, task_phases
from sb3_sgmrl.data.batch import PhaseBatch
from sb3_sgmrl.data.streams import QUALITY
from sb3_sgmrl.gradient.objective import MetaRollout
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.util.progress import with_progress
from sb3_sgmrl.util.validation import check_choice, check_positive, check_seed
from sb3_sgmrl.vec_env.borrowing import borrowed_workers
from sb3_sgmrl.vec_env.task_workers import ask

# the arguments that determine which episodes are sampled
_SHARED = (
    "meta_batch_size",
    "n_episodes",
    "n_outer_episodes",
    "n_inner_steps",
    "inner_lr",
    "adapt_only",
    "gamma",
    "gae_lambda",
    "baseline",
    "normalize_advantage",
    "discount_from",
    "time_reduction",
)
Estimators = Mapping[str, MetaOnPolicyAlgorithm]


def make_estimators(
    model: MetaOnPolicyAlgorithm,
    settings: Mapping[str, tuple[type[MetaOnPolicyAlgorithm], Mapping[str, Any]]],
    **shared: Any,
) -> dict[str, MetaOnPolicyAlgorithm]:
    """
    Make algorithms that share the policy of a model, to measure their ``meta_gradient``.

    The algorithms hold the policy itself, so they follow it when the model continues to train.
    ``control_variate="task_regression"`` and ``score_coef="auto"`` start without memory; ``"auto"`` then starts as MAML.

    :param model: A model with an environment; it is not changed
    :param settings: The algorithm and its arguments that affect the estimate, by name, e.g. ``{"no control variate": (SGMRL,
        {"control_variate": "none"})}``
    :param shared: The arguments that replace the model's in all algorithms, e.g. ``n_episodes=5``
    :return: The algorithms, by name
    :raises ValueError: When the model has no environment, or an argument is out of range
    """
    if model.env is None:
        raise ValueError("`model` has no environment: pass it to `load(path, env=...)` or `set_env(env)`.")
    common = {name: getattr(model, name) for name in (*_SHARED, "outer_advantage", "n_threads", "device")}
    estimators: dict[str, MetaOnPolicyAlgorithm] = {}
    for name, (algorithm, own) in settings.items():
        arguments: dict[str, Any] = {**common, **shared, **own}
        estimator = algorithm(type(model.policy), model.env, _init_setup_model=False, **arguments)
        estimator.policy, estimator._functional, estimator.step_sizes = model.policy, model.functional, model.step_sizes
        estimators[name] = estimator
    return estimators


def check_estimators(estimators: Estimators) -> None:
    """
    Check that estimators can share the same episodes.

    :param estimators: The algorithms, by name
    :raises ValueError: When there is no estimator, or the estimators cannot share the same episodes
    """
    if not estimators:
        raise ValueError("`estimators` must hold at least one algorithm, got none.")
    (first, one), *others = estimators.items()
    for name, other in others:
        for argument in _SHARED:
            if getattr(one, argument) != getattr(other, argument):
                raise ValueError(
                    f"`estimators` must agree in `{argument}`, which is {getattr(one, argument)!r} in {first!r} and "
                    f"{getattr(other, argument)!r} in {name!r}."
                )
        if not _same_parameters(one.functional.parameters(), other.functional.parameters()):
            raise ValueError(f"`estimators` must share the policy of one model, but {first!r} and {name!r} differ in it.")
        if one.inner_lr_by_parameter() != other.inner_lr_by_parameter():
            raise ValueError(
                f"`estimators` must share the step sizes of one model, but {first!r} and {name!r} differ in them."
            )


def _same_parameters(one: Parameters, other: Parameters) -> bool:
    return one.keys() == other.keys() and all(th.equal(one[name], other[name]) for name in one)


def play_meta_batch(
    model: MetaOnPolicyAlgorithm, policy: FunctionalPolicy, n_tasks: int, entropy: Sequence[int]
) -> tuple[MetaRollout, PhaseBatch]:
    """
    Play the episodes of a meta-iteration with the settings of a model.

    The model and its counters are not changed.

    :param model: The model with the workers and the settings; the workers keep the tasks that they receive
    :param policy: The policy that plays, in place of the model's own
    :param n_tasks: The number of tasks
    :param entropy: The name of the random stream: equal entropy gives equal tasks, initial states and action noise
    :return: The data of the iteration, and the episodes of its last phase
    """
    assert model.env is not None
    tasks = ask(model.env, "sample_tasks", n_tasks, [*entropy, 0], indices=0)[0]
    phases: list[PhaseBatch] = []
    traces = play_and_adapt(
        model.env,
        policy,
        model.objective,
        tasks,
        model.episodes_per_phase,
        [*entropy, 1],
        model.n_threads,
        on_phase=lambda _, phase: phases.append(phase),
    )
    assert traces is not None
    return MetaRollout(tasks, traces), phases[-1]


@dataclass(frozen=True)
class GradientSample:
    """
    Estimates of the meta-gradient from independent meta-batches.

    :param gradients: The estimates, by estimator, shape (n_batches, n_parameters); row i of every estimator is from meta-batch
        i
    :param parameters: The parameters of the policy, which define how a row splits into parameters
    :param sampling_seconds: The time to sample a meta-batch, in seconds, median over meta-batches
    :param gradient_seconds: The time to compute the gradient, in seconds, by estimator, median over meta-batches
    """

    gradients: dict[str, np.ndarray]
    parameters: Parameters
    sampling_seconds: float
    gradient_seconds: dict[str, float]

    def mean(self, name: str) -> Parameters:
        """
        Compute the mean gradient of an estimator over meta-batches.

        :param name: The name of the estimator
        :return: The mean gradient, by parameter
        """
        mean = th.as_tensor(self.gradients[name].mean(0, dtype=np.float64))
        parts = mean.split([value.numel() for value in self.parameters.values()])
        like = self.parameters.items()
        return {key: part.to(value).reshape(value.shape) for (key, value), part in zip(like, parts, strict=True)}


def flatten(values: Parameters, names: Iterable[str]) -> np.ndarray:
    """
    Concatenate parameters to a vector.

    :param values: The values, by parameter
    :param names: The names of the parameters in the desired order
    :return: The vector, shape (n_parameters,)
    """
    return th.cat([values[name].detach().flatten() for name in names]).cpu().numpy()


def sample_gradients(
    estimators: Estimators,
    n_batches: int = 40,
    reference: str | None = None,
    n_reference_batches: int | None = None,
    seed: int = 0,
    progress_bar: bool = False,
) -> GradientSample:
    """
    Compute every estimator's gradient from the same meta-batches.

    The policy that the estimators share plays the meta-batches. The policy, counters, logs and random streams of the models
    are not changed, nor are the statistics of their environments.

    :param estimators: The algorithms, by name, e.g. from :func:`make_estimators`. They must agree in all arguments that
        determine which episodes are sampled; weights of the outer surrogate may differ
    :param n_batches: The number of meta-batches
    :param reference: The name of an estimator that gets additional meta-batches
    :param n_reference_batches: The number of meta-batches of the reference, at least ``n_batches``
    :param seed: The seed of tasks and episodes
    :param progress_bar: Whether to show a progress bar, which needs tqdm
    :return: The gradients
    :raises ValueError: When the estimators cannot share episodes, or a count is out of range
    """
    check_positive(n_batches=n_batches)
    check_seed(seed)
    check_estimators(estimators)
    n_total = n_batches
    if reference is not None:
        check_choice("reference", reference, tuple(estimators))
        n_total = n_batches if n_reference_batches is None else n_reference_batches
        if not n_total >= n_batches:
            raise ValueError(f"`n_reference_batches` must be at least `n_batches` = {n_batches}, got {n_total}.")
    player = next(iter(estimators.values()))
    if player.env is None:
        raise ValueError("`estimators` have no environment: pass it to `load(path, env=...)` or `set_env(env)`.")
    rows: dict[str, list[np.ndarray]] = {name: [] for name in estimators}
    seconds: dict[str, list[float]] = {name: [] for name in estimators}
    sampling_seconds = []
    parameters = player.functional.parameters()
    with borrowed_workers(player.env):
        for batch in with_progress(range(n_total), "meta-batches", progress_bar):
            start = time.perf_counter()
            rollout, outer = play_meta_batch(player, player.functional, player.meta_batch_size, [seed, QUALITY, batch])
            sampling_seconds.append(time.perf_counter() - start)
            for name, estimator in estimators.items():
                if batch >= n_batches and name != reference:
                    continue
                own = _weighed_for(estimator, player, rollout, outer)
                start = time.perf_counter()
                gradient = estimator.meta_gradient(own).gradient
                seconds[name].append(time.perf_counter() - start)
                rows[name].append(flatten(gradient, parameters))
    return GradientSample(
        {name: np.stack(of_estimator) for name, of_estimator in rows.items()},
        parameters,
        float(np.median(sampling_seconds)),
        {name: float(np.median(of_estimator)) for name, of_estimator in seconds.items()},
    )


def _weighed_for(
    estimator: MetaOnPolicyAlgorithm, player: MetaOnPolicyAlgorithm, rollout: MetaRollout, outer: PhaseBatch
) -> MetaRollout:
    """Weight the same episodes by the estimator's own outer surrogate."""
    settings = estimator.objective.outer
    if settings == player.objective.outer:
        return rollout
    last = task_phases(estimator.functional, settings, outer, [trace[-1].parameters for trace in rollout.traces])
    traces = [[*trace[:-1], phase] for trace, phase in zip(rollout.traces, last, strict=True)]
    return MetaRollout(rollout.tasks, traces)

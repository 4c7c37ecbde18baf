"""Phases of a meta-iteration: play, weigh, adapt, play again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv

from sb3_sgmrl.common.sampling import OnStep, collect_phase
from sb3_sgmrl.data.batch import PhaseBatch
from sb3_sgmrl.distributed import ALONE, Ranks
from sb3_sgmrl.gradient.advantages import AdvantageSettings, episode_weights
from sb3_sgmrl.gradient.inner import WeightedSamples, adapt
from sb3_sgmrl.gradient.objective import MetaObjective, TaskPhase
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.util.threads import single_threaded, thread_pool
from sb3_sgmrl.vec_env.borrowing import being_played
from sb3_sgmrl.vec_env.normalization import NormalizerUpdate


def task_phases(
    policy: FunctionalPolicy,
    settings: AdvantageSettings,
    phase: PhaseBatch,
    parameter_sets: Sequence[Parameters],
    own: range | None = None,
) -> list[TaskPhase]:
    """
    Attach to the episodes of each task their weights and the parameters that played them.

    :param policy: The policy as a function
    :param settings: The settings that turn rewards into weights
    :param phase: The episodes of every task
    :param parameter_sets: The parameter sets, one per task of ``own`` or a single one for all
    :param own: The tasks whose phases are wanted; None for all
    :return: The phases, one per task of ``own``
    """
    own = range(phase.n_tasks) if own is None else own
    values = critic_values(policy, phase, own) if settings.predictor.needs_critic else None
    weighted = episode_weights(phase, settings, policy.policy.observation_space, values, own)
    sets = parameter_sets if len(parameter_sets) > 1 else [*parameter_sets] * len(own)
    return [
        TaskPhase(parameters, phase.task(i), weights, None if values is None else values[i])
        for i, parameters, weights in zip(own, sets, weighted, strict=True)
    ]


def critic_values(policy: FunctionalPolicy, phase: PhaseBatch, own: range) -> np.ndarray:
    """
    Compute the critic's predictions at its current parameters.

    :param policy: The policy as a function
    :param phase: The episodes of every task
    :param own: The tasks that are evaluated
    :return: The values, shape (n_tasks, n_episodes, n_steps), zero where no step was played and for other tasks
    """
    values = np.zeros(phase.mask.shape)
    with th.no_grad():
        for i in own:
            observations = policy.to_tensor(phase.task(i).samples()[0])
            values[i][phase.mask[i]] = policy.values(observations).cpu().numpy()
    return values


def adapt_tasks(
    policy: FunctionalPolicy,
    objective: MetaObjective,
    phases: Sequence[TaskPhase],
    tasks: Sequence[Any],
    n_threads: int | None = None,
) -> list[Parameters]:
    """
    Adapt the parameters of every task by one inner step.

    :param policy: The policy as a function
    :param objective: The objective, which holds the step sizes
    :param phases: The episodes of each task with their weights
    :param tasks: The tasks, to name one in an error
    :param n_threads: The number of threads over tasks
    :return: The adapted parameters of each task
    :raises ValueError: When adapted parameters are not finite
    """

    def step(phase: TaskPhase) -> Parameters:
        samples = WeightedSamples.make(policy, phase.batch, phase.weighted.weights)
        return adapt(policy, phase.parameters, samples, objective.inner_lr, objective.relative_lr)

    with thread_pool(n_threads) as pool:
        adapted = list(pool.map(step, phases))
    for parameters, task in zip(adapted, tasks, strict=True):
        if not all(bool(th.isfinite(value).all()) for value in parameters.values()):
            raise ValueError(f"The inner step of task {task} made parameters NaN or infinite; `inner_lr` should be smaller.")
    return adapted


def play_and_adapt(
    env: VecEnv,
    policy: FunctionalPolicy,
    objective: MetaObjective,
    tasks: Sequence[Any],
    n_episodes: Sequence[int],
    entropy: Sequence[int],
    n_threads: int | None = None,
    on_step: OnStep | None = None,
    on_phase: Callable[[int, PhaseBatch], None] | None = None,
    ranks: Ranks = ALONE,
    normalizer_update: NormalizerUpdate = "step",
) -> list[list[TaskPhase]] | None:
    """
    Play the tasks with the meta-parameters, adapt to each, play again, and so on.

    :param env: The workers that take tasks
    :param policy: The policy as a function
    :param objective: The objective; it weighs the last phase for the outer surrogate
    :param tasks: The tasks
    :param n_episodes: The number of episodes per task in each phase; one inner step between two phases
    :param entropy: The entropy that names the phases; equal entropy gives equal results
    :param n_threads: The number of threads over tasks
    :param on_step: The function to call after each step of the workers; false stops
    :param on_phase: The function to call with the index and the episodes of each phase
    :param ranks: The ranks that share the tasks
    :param normalizer_update: Whether a VecNormalize learns after every step or from each whole phase
    :return: The phases of every task, see :class:`~sb3_sgmrl.gradient.objective.MetaRollout`; None when ``on_step`` asked to
        stop
    """
    own = ranks.own(len(tasks))
    parameter_sets = [policy.parameters()]
    traces: list[list[TaskPhase]] = [[] for _ in own]
    phases: list[PhaseBatch] = []
    for index, n in enumerate(n_episodes):
        if index > 0:
            last, own_tasks = [trace[-1] for trace in traces], [tasks[i] for i in own]
            parameter_sets = adapt_tasks(policy, objective, last, own_tasks, n_threads)
        with single_threaded(), being_played(env):
            phase = collect_phase(env, policy, parameter_sets, tasks, n, [*entropy, index], on_step, ranks, normalizer_update)
        if phase is None:
            return None
        if on_phase is not None:
            on_phase(index, phase)
        settings = objective.inner if index < len(n_episodes) - 1 else objective.outer
        with single_threaded():  # sums in several threads depend on their number
            of_own = task_phases(policy, settings, phase, parameter_sets, own)
        for trace, task_phase in zip(traces, of_own, strict=True):
            trace.append(task_phase)
        phases.append(phase)
    return traces if ranks.size == 1 else _of_all_ranks(ranks, own, traces, phases)


def _of_all_ranks(
    ranks: Ranks, own: range, traces: list[list[TaskPhase]], phases: Sequence[PhaseBatch]
) -> list[list[TaskPhase]]:
    """Complete the phases of the own tasks by what is known of the other ranks' tasks: rewards, lengths and scales."""
    scales = ranks.gathered([[phase.weighted.scale for phase in trace] for trace in traces])
    return [
        traces[i - own.start] if i in own else [TaskPhase.elsewhere(i, *of) for of in zip(phases, of_task, strict=True)]
        for i, of_task in enumerate(scales)
    ]

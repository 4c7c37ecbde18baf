"""Exact J, V, ∇V and expected gradient estimates on tabular MDPs, by enumeration of every batch."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch as th

from sb3_sgmrl.common.phases import task_phases
from sb3_sgmrl.data.batch import PhaseBatch, TaskBatch
from sb3_sgmrl.gradient.advantages import AdvantageSettings
from sb3_sgmrl.gradient.inner import WeightedSamples, adapt, ascend
from sb3_sgmrl.gradient.meta_gradient import meta_gradient
from sb3_sgmrl.gradient.objective import MetaObjective, ScoreCoefficients, TaskPhase
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.theory.tabular import TabularMDP

MakeScore = Callable[[Sequence[Sequence[TaskPhase]]], ScoreCoefficients]


def trajectory_probabilities(policy: FunctionalPolicy, parameters: Parameters, mdp: TabularMDP) -> th.Tensor:
    """
    Compute q(τ; θ) of every trajectory, differentiable in θ.

    :param policy: The policy as a function
    :param parameters: The parameters θ, by name
    :param mdp: The task
    :return: The probabilities, shape (n_trajectories,)
    """
    batch, environment = mdp.trajectories()
    observations, actions = batch.samples()
    log_prob = policy.log_prob(parameters, th.as_tensor(observations), th.as_tensor(actions))
    return th.as_tensor(environment) * log_prob.reshape(batch.mask.shape).sum(1).exp()


def exact_return(policy: FunctionalPolicy, parameters: Parameters, mdp: TabularMDP, gamma: float) -> th.Tensor:
    """
    Compute J(θ) = Σ_τ q(τ; θ) Σ_h γ^h r_h, differentiable in θ.

    :param policy: The policy as a function
    :param parameters: The parameters θ, by name
    :param mdp: The task
    :param gamma: The discount factor γ
    :return: The expected return, a scalar
    """
    returns = th.as_tensor(mdp.trajectories()[0].returns(gamma))
    return (trajectory_probabilities(policy, parameters, mdp) * returns).sum()


def take(batch: TaskBatch, index: Sequence[int] | np.ndarray) -> PhaseBatch:
    """
    Select trajectories as a phase of one task.

    :param batch: The trajectories
    :param index: The indices to select; a repeated index selects its trajectory repeatedly
    :return: The selected trajectories as a phase of one task
    """
    chosen = list(index)
    rewards = batch.rewards[chosen]
    assert isinstance(batch.observations, np.ndarray)
    return PhaseBatch(
        batch.observations[None, chosen],
        batch.actions[None, chosen],
        rewards[None],
        batch.mask[None, chosen],
        rewards.sum(1)[None],
    )


def every_batch(n_trajectories: int, n_episodes: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """
    Enumerate all multisets of trajectories.

    :param n_trajectories: The number of different trajectories
    :param n_episodes: The number of trajectories in a multiset, drawn with replacement
    :return: An iterator over multisets of indices and the number of orders in which each can be drawn
    """
    for index in itertools.combinations_with_replacement(range(n_trajectories), n_episodes):
        repeats = Counter(index).values()
        yield index, math.factorial(n_episodes) // math.prod(map(math.factorial, repeats))


def exact_value(
    policy: FunctionalPolicy,
    parameters: Parameters,
    mdp: TabularMDP,
    objective: MetaObjective,
    n_episodes: int,
    n_inner_steps: int,
) -> th.Tensor:
    """
    Compute V_ζ(θ) = E_D V_{ζ−1}(U(θ, D)) with V_0 = J, differentiable in θ.

    This is the expected return after adaptation by sampled gradients.

    :param policy: The policy as a function
    :param parameters: The parameters θ, by name; for ∇V pass leaves that require gradients
    :param mdp: The task
    :param objective: The inner step and γ
    :param n_episodes: The number N of episodes in D
    :param n_inner_steps: The number ζ of inner steps
    :return: The value, a scalar
    """
    if n_inner_steps == 0:
        return exact_return(policy, parameters, mdp, objective.outer.gamma)
    batch, _ = mdp.trajectories()
    probabilities = trajectory_probabilities(policy, parameters, mdp)
    value = th.zeros((), dtype=policy.dtype)
    for index, orders in every_batch(len(probabilities), n_episodes):
        phase = task_phases(policy, objective.inner, take(batch, index), [parameters])[0]
        samples = WeightedSamples.make(policy, phase.batch, phase.weighted.weights)
        log_prob = policy.log_prob(parameters, samples.observations, samples.actions)
        total = (samples.weights * log_prob).sum()
        step = th.autograd.grad(total, list(parameters.values()), create_graph=True)
        adapted = ascend(parameters, dict(zip(parameters, step, strict=True)), objective.inner_lr, objective.relative_lr)
        deeper = exact_value(policy, adapted, mdp, objective, n_episodes, n_inner_steps - 1)
        value = value + orders * probabilities[list(index)].prod() * deeper
    return value


def exact_gradient(
    policy: FunctionalPolicy, mdps: Sequence[TabularMDP], objective: MetaObjective, n_episodes: int, n_inner_steps: int
) -> Parameters:
    """
    Compute ∇V_ζ(θ), the mean over tasks, at the policy's own parameters.

    :param policy: The policy as a function
    :param mdps: The tasks, all equally likely
    :param objective: The inner step and γ
    :param n_episodes: The number N of episodes in D
    :param n_inner_steps: The number ζ of inner steps
    :return: The gradient, by name
    """
    parameters = {name: value.requires_grad_() for name, value in policy.parameters().items()}
    values = [exact_value(policy, parameters, mdp, objective, n_episodes, n_inner_steps) for mdp in mdps]
    gradients = th.autograd.grad(th.stack(values).mean(), list(parameters.values()))
    return dict(zip(parameters, gradients, strict=True))


def every_trace(
    policy: FunctionalPolicy,
    parameters: Parameters,
    mdp: TabularMDP,
    objective: MetaObjective,
    n_episodes: Sequence[int],
) -> Iterator[tuple[float, list[TaskPhase]]]:
    """
    Enumerate all sequences of phases of a task.

    :param policy: The policy as a function
    :param parameters: The parameters θ, by name
    :param mdp: The task
    :param objective: The inner step
    :param n_episodes: The number of episodes in each phase
    :return: An iterator over pairs of a probability and a sequence of phases
    """
    settings: AdvantageSettings = objective.inner if len(n_episodes) > 1 else objective.outer
    batch, _ = mdp.trajectories()
    probabilities = trajectory_probabilities(policy, parameters, mdp).detach().numpy()
    for index, orders in every_batch(len(probabilities), n_episodes[0]):
        probability = orders * float(probabilities[list(index)].prod())
        phase = task_phases(policy, settings, take(batch, index), [parameters])[0]
        if len(n_episodes) == 1:
            yield probability, [phase]
            continue
        samples = WeightedSamples.make(policy, phase.batch, phase.weighted.weights)
        adapted = adapt(policy, parameters, samples, objective.inner_lr, objective.relative_lr)
        for later, rest in every_trace(policy, adapted, mdp, objective, n_episodes[1:]):
            yield probability * later, [phase, *rest]


def expected_gradient(
    policy: FunctionalPolicy,
    mdps: Sequence[TabularMDP],
    objective: MetaObjective,
    n_episodes: int,
    n_inner_steps: int,
    make_score: MakeScore | None,
    n_outer_episodes: int = 1,
) -> Parameters:
    """
    Compute E ∇̃V over all batches of all tasks.

    The estimator is :func:`~sb3_sgmrl.gradient.meta_gradient.meta_gradient`, the function that training calls.

    :param policy: The policy as a function
    :param mdps: The tasks of the meta-batch
    :param objective: The objective, which selects the gradient
    :param n_episodes: The number N of episodes of an inner batch
    :param n_inner_steps: The number ζ of inner steps
    :param make_score: A function from the phases of every task to the score coefficients; None omits the score term
    :param n_outer_episodes: The number of episodes of the outer batch
    :return: The expected gradient, by name
    """

    def estimate(traces: Sequence[Sequence[TaskPhase]]) -> Parameters:
        score = None if make_score is None else make_score(traces)
        return meta_gradient(policy, objective, score, traces).gradient

    return expectation(policy, mdps, objective, [*[n_episodes] * n_inner_steps, n_outer_episodes], estimate)


def expectation(
    policy: FunctionalPolicy,
    mdps: Sequence[TabularMDP],
    objective: MetaObjective,
    n_episodes: Sequence[int],
    estimate: Callable[[Sequence[Sequence[TaskPhase]]], Parameters],
) -> Parameters:
    """
    Compute the expectation of an estimate over all batches of all tasks.

    :param policy: The policy as a function
    :param mdps: The tasks of the meta-batch
    :param objective: The inner step
    :param n_episodes: The number of episodes per task in each phase
    :param estimate: A function from the phases of every task to an estimate
    :return: The expectation, by name
    """
    parameters = policy.parameters()
    per_task = [list(every_trace(policy, parameters, mdp, objective, n_episodes)) for mdp in mdps]
    total = {name: th.zeros_like(value) for name, value in parameters.items()}
    for combination in itertools.product(*per_task):
        probability = math.prod(p for p, _ in combination)
        for name, value in estimate([trace for _, trace in combination]).items():
            total[name] += probability * value
    return total


def relative_error(estimate: Parameters, reference: Parameters) -> float:
    """
    Compute the relative error of an estimate, ‖estimate − reference‖ / ‖reference‖.

    :param estimate: The estimate, by name
    :param reference: The reference, by name
    :return: The relative error
    """
    difference = th.cat([(estimate[name] - reference[name]).flatten() for name in reference])
    return float(difference.norm() / th.cat([value.flatten() for value in reference.values()]).norm())

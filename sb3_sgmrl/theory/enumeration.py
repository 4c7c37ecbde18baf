"""J, V and ∇V exactly, and the exact expectation of the estimator that training uses, by going through every batch."""

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
    q(τ; θ) of every trajectory, differentiable in θ.

    :param policy: the policy as a function
    :param parameters: θ by name
    :param mdp: the task
    :return: shape (n_trajectories,)
    """
    batch, environment = mdp.trajectories()
    observations, actions = batch.samples()
    log_prob = policy.log_prob(parameters, th.as_tensor(observations), th.as_tensor(actions))
    return th.as_tensor(environment) * log_prob.reshape(batch.mask.shape).sum(1).exp()


def exact_return(policy: FunctionalPolicy, parameters: Parameters, mdp: TabularMDP, gamma: float) -> th.Tensor:
    """
    J(θ) = Σ_τ q(τ; θ) Σ_h γ^h r_h, differentiable in θ.

    :param policy: the policy as a function
    :param parameters: θ by name
    :param mdp: the task
    :param gamma: discount factor
    :return: a scalar
    """
    returns = th.as_tensor(mdp.trajectories()[0].returns(gamma))
    return (trajectory_probabilities(policy, parameters, mdp) * returns).sum()


def take(batch: TaskBatch, index: Sequence[int] | np.ndarray) -> PhaseBatch:
    """
    :param batch: trajectories
    :param index: those chosen, each as often as it is named
    :return: they as a phase of one task
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
    :param n_trajectories: number of different trajectories
    :param n_episodes: how many are drawn, with replacement
    :return: every multiset of indices, and the number of orders in which it can be drawn
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
    V_ζ(θ) = E_D V_{ζ−1}(U(θ, D)), V_0 = J, differentiable in θ: what adaptation by sampled gradients reaches on average.

    :param policy: the policy as a function
    :param parameters: θ by name; leaves that require gradients for ∇V
    :param mdp: the task
    :param objective: the inner step, and γ
    :param n_episodes: N, episodes in D
    :param n_inner_steps: ζ
    :return: a scalar
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
    ∇V_ζ(θ), the mean over tasks, at the policy's own parameters.

    :param policy: the policy as a function
    :param mdps: the tasks, all equally likely
    :param objective: the inner step, and γ
    :param n_episodes: N, episodes in D
    :param n_inner_steps: ζ
    :return: by name
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
    :param policy: the policy as a function
    :param parameters: θ by name
    :param mdp: the task
    :param objective: the inner step
    :param n_episodes: episodes in each phase
    :return: every sequence of phases of the task with its probability
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
    E ∇̃V of :func:`~sb3_sgmrl.gradient.meta_gradient.meta_gradient`, the function that training calls, over all batches of all
    tasks.

    :param policy: the policy as a function
    :param mdps: the tasks of the meta-batch
    :param objective: which gradient
    :param n_episodes: N, episodes of an inner batch
    :param n_inner_steps: ζ
    :param make_score: from the phases of every task to the score coefficients; None leaves the score term out
    :param n_outer_episodes: episodes of the outer batch
    :return: by name
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
    Expectation of an estimate over all batches of all tasks.

    :param policy: the policy as a function
    :param mdps: the tasks of the meta-batch
    :param objective: the inner step
    :param n_episodes: episodes per task in each phase
    :param estimate: function of the phases of every task
    :return: by name
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
    :param estimate: by name
    :param reference: by name
    :return: ‖estimate − reference‖ / ‖reference‖
    """
    difference = th.cat([(estimate[name] - reference[name]).flatten() for name in reference])
    return float(difference.norm() / th.cat([value.flatten() for value in reference.values()]).norm())

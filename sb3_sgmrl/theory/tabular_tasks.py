"""Exact expectations and samples of the gradients of SG-MRL, MAML and first-order MAML on a few tabular tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_sgmrl.common.phases import task_phases
from sb3_sgmrl.data.batch import TaskBatch
from sb3_sgmrl.gradient.advantages import WeightedEpisodes
from sb3_sgmrl.gradient.meta_gradient import meta_gradient
from sb3_sgmrl.gradient.objective import MetaObjective, TaskPhase
from sb3_sgmrl.policies.functional import Parameters
from sb3_sgmrl.policies.mlp import PlainMlp
from sb3_sgmrl.score_terms.control_variates import ControlVariate, leave_one_out_return
from sb3_sgmrl.score_terms.returns import ReturnCoefficients, return_baselines
from sb3_sgmrl.theory.enumeration import every_batch, take
from sb3_sgmrl.theory.tabular import TabularMDP, softmax_policy

_CHUNK = 512  # the number of policies whose gradients are computed at once


@dataclass(frozen=True)
class EnumeratedTask:
    """
    Everything about a task that does not depend on the policy.

    A batch is a multiset of N trajectories.

    :param batch: Every trajectory
    :param environment: The factor that the environment contributes to the probability of each trajectory, (n_trajectories,)
    :param visits: The number of times that each trajectory takes action a in state s, (n_trajectories, n_states · n_actions)
    :param returns: The discounted return of each trajectory, (n_trajectories,)
    :param members: The number of times that each batch contains each trajectory, (n_batches, n_trajectories)
    :param orders: The number of orders in which each batch can be drawn, (n_batches,)
    :param inner: Each batch with its weights in the inner surrogate
    :param weights: The weights in the inner surrogate, summed by state and action, (n_batches, n_states · n_actions)
    :param outer: The weights of each trajectory in the outer surrogate of a batch that contains only this trajectory
    """

    batch: TaskBatch
    environment: th.Tensor
    visits: th.Tensor
    returns: th.Tensor
    members: th.Tensor
    orders: th.Tensor
    inner: list[tuple[TaskBatch, WeightedEpisodes]]
    weights: th.Tensor
    outer: WeightedEpisodes


class TabularTasks:
    """
    V and its gradient for one inner step on equally likely tabular tasks.

    Policies are the softmax policies of :func:`~sb3_sgmrl.theory.softmax_policy`. A policy is a row of parameters in the order
    of the names of ``policy.parameters()``. The row holds the logits of the first action in each state, then of the second, …,
    and a bias per action.

    With θ in three places, V(θ) = E_i Σ_D q(D; θ₁) J(θ₃ + α ĝ(θ₂, D)). The gradient with respect to all three is ∇V, the
    expectation of SG-MRL's estimator. The gradient with respect to θ₂ and θ₃ is the expectation of MAML's estimator. The
    gradient with respect to θ₃ alone is the expectation of first-order MAML's estimator.

    :param mdps: The tasks, with the same states and actions
    :param objective: The inner step, γ, and a plain outer surrogate as in the paper
    :param n_episodes: The number N of episodes of an inner batch
    :param control_variate: The control variate of SG-MRL's score term, which is applied to one task at a time
    """

    def __init__(
        self,
        mdps: Sequence[TabularMDP],
        objective: MetaObjective,
        n_episodes: int,
        control_variate: ControlVariate = leave_one_out_return,
    ) -> None:
        self.mdps = tuple(mdps)
        self.n_episodes = n_episodes
        self.control_variate = control_variate
        self.n_states, self.n_actions = mdps[0].rewards.shape
        self.objective = objective
        self.policy = softmax_policy(self.n_states, self.n_actions, seed=0)
        # the policy is an MLP without hidden layers on one-hot vectors, for which the package has faster formulas
        states, actions = spaces.Discrete(self.n_states), spaces.Discrete(self.n_actions)
        self.policy.mlp = PlainMlp(("action_net",), th.nn.Identity(), states, actions)
        self.tasks = [self._enumerate(mdp, n_episodes) for mdp in mdps]

    def _enumerate(self, mdp: TabularMDP, n_episodes: int) -> EnumeratedTask:
        batch, environment = mdp.trajectories()
        assert isinstance(batch.observations, np.ndarray)
        pairs = np.eye(self.n_states * self.n_actions)[batch.observations * self.n_actions + batch.actions]
        indices, orders = zip(*every_batch(len(environment), n_episodes), strict=True)
        phases = [
            task_phases(self.policy, self.objective.inner, take(batch, index), [self.policy.parameters()])[0]
            for index in indices
        ]
        together = task_phases(self.policy, self.objective.outer, take(batch, range(len(environment))), [{}])[0].weighted
        weights = [
            np.einsum("kt,ktx->x", phase.weighted.weights, pairs[list(index)])
            for phase, index in zip(phases, indices, strict=True)
        ]
        return EnumeratedTask(
            batch,
            th.as_tensor(environment),
            th.as_tensor(pairs.sum(1)),
            th.as_tensor(batch.returns(self.objective.outer.gamma)),
            th.as_tensor(np.array([np.bincount(index, minlength=len(environment)) for index in indices], dtype=np.float64)),
            th.as_tensor(orders, dtype=th.float64),
            [(phase.batch, phase.weighted) for phase in phases],
            th.as_tensor(np.array(weights)),
            WeightedEpisodes(len(environment) * together.weights, together.scale),
        )

    def log_prob(self, theta: th.Tensor) -> th.Tensor:
        """
        Compute the log-probabilities of all actions in all states.

        :param theta: The policies, shape (..., n_parameters)
        :return: The log-probabilities log π(a|s), shape (..., n_states · n_actions)
        """
        logits = theta[..., : -self.n_actions].unflatten(-1, (self.n_actions, self.n_states))
        return (logits.mT + theta[..., None, -self.n_actions :]).log_softmax(-1).flatten(-2)

    def _adapted(self, task: EnumeratedTask, inner: th.Tensor, start: th.Tensor) -> th.Tensor:
        """Compute θ₃ + α ĝ(θ₂, D) for every batch D, (n_batches, n_parameters)."""
        weights = task.weights.unflatten(-1, (self.n_states, self.n_actions))
        by_logit = weights - self.log_prob(inner).exp().reshape(weights.shape[1:]) * weights.sum(-1, keepdim=True)
        return start + self.objective.inner_lr * th.cat([by_logit.mT.flatten(1), by_logit.sum(1)], dim=1)

    def _batch_probabilities(self, task: EnumeratedTask, theta: th.Tensor) -> th.Tensor:
        """Compute q(D; θ), (n_batches,)."""
        trajectories = task.environment.log() + task.visits @ self.log_prob(theta)
        return task.orders * (task.members @ trajectories).exp()

    def _trajectory_probabilities(self, task: EnumeratedTask, thetas: th.Tensor) -> th.Tensor:
        """Compute q(τ; θ) of many policies, (n_policies, n_trajectories)."""
        return task.environment * (self.log_prob(thetas) @ task.visits.T).exp()

    def _value(self, sampling: th.Tensor, inner: th.Tensor, start: th.Tensor) -> th.Tensor:
        """Compute V with θ in three places, as in the docstring of the class."""
        total = sampling.new_zeros(())
        for task in self.tasks:
            reached = self._trajectory_probabilities(task, self._adapted(task, inner, start)) @ task.returns
            total = total + self._batch_probabilities(task, sampling) @ reached
        return total / len(self.tasks)

    def values(self, thetas: th.Tensor) -> th.Tensor:
        """
        Compute V of many policies.

        :param thetas: The policies, shape (n_policies, n_parameters)
        :return: The value V of each policy, shape (n_policies,)
        """
        return th.func.vmap(lambda theta: self._value(theta, theta, theta), chunk_size=_CHUNK)(thetas)

    def expected_gradients(self, thetas: th.Tensor) -> dict[str, th.Tensor]:
        """
        Compute the expectation of each algorithm's meta-gradient.

        :param thetas: The policies, shape (n_policies, n_parameters)
        :return: The expectations of "sgmrl", which is ∇V, "maml" and "fo-maml", shape (n_policies, n_parameters)
        """
        by_place = th.func.grad(self._value, argnums=(0, 1, 2))
        sampling, inner, start = th.func.vmap(lambda theta: by_place(theta, theta, theta), chunk_size=_CHUNK)(thetas)
        return {"sgmrl": sampling + inner + start, "maml": inner + start, "fo-maml": start}

    def hessian(self, theta: th.Tensor) -> th.Tensor:
        """
        Compute the Hessian of V.

        :param theta: The policy, shape (n_parameters,)
        :return: The Hessian ∇²V, shape (n_parameters, n_parameters)
        """
        return th.func.hessian(lambda x: self._value(x, x, x))(theta)

    def parameters(self, theta: np.ndarray) -> Parameters:
        """
        Split a row of parameters by name.

        :param theta: The policy, shape (n_parameters,)
        :return: The parameters, by name
        """
        weight, bias = np.split(theta, [-self.n_actions])
        return {
            "action_net.weight": th.from_numpy(weight.reshape(self.n_actions, self.n_states)),
            "action_net.bias": th.from_numpy(bias),
        }

    def draw_traces(
        self, theta: np.ndarray, n_tasks: int, n_outer_episodes: int, rng: np.random.Generator
    ) -> list[tuple[int, list[TaskPhase]]]:
        """
        Draw a meta-batch of tasks and episodes.

        Equal tasks with equal inner batches are merged to one trace with all their outer episodes. This is exact, because the
        mean of their meta-gradients is linear in the outer episodes.

        :param theta: The policy, shape (n_parameters,)
        :param n_tasks: The meta-batch size B
        :param n_outer_episodes: The number of episodes of a task's outer batch
        :param rng: The random number generator
        :return: Pairs of the number of merged tasks and their two phases
        """
        parameters, flat = self.parameters(theta), th.from_numpy(theta)
        traces = []
        for task, count in zip(self.tasks, rng.multinomial(n_tasks, [1 / len(self.tasks)] * len(self.tasks)), strict=True):
            probabilities = self._batch_probabilities(task, flat).numpy()
            repeats = rng.multinomial(count, probabilities / probabilities.sum())
            adapted = self._adapted(task, flat, flat)
            reached = self._trajectory_probabilities(task, adapted).numpy()
            for k in np.flatnonzero(repeats):
                n_episodes = repeats[k] * n_outer_episodes
                drawn = np.repeat(np.arange(reached.shape[1]), rng.multinomial(n_episodes, reached[k] / reached[k].sum()))
                weighted = WeightedEpisodes(task.outer.weights[drawn] / n_episodes, task.outer.scale)
                outer = TaskPhase(self.parameters(adapted[k].numpy()), take(task.batch, drawn).task(0), weighted)
                traces.append((int(repeats[k]), [TaskPhase(parameters, *task.inner[k]), outer]))
        return traces

    def estimate(self, algorithm: str, traces: Sequence[Sequence[TaskPhase]]) -> Parameters:
        """
        Compute the meta-gradient as in training, by :func:`~sb3_sgmrl.gradient.meta_gradient.meta_gradient`.

        SG-MRL uses the exact score term.

        :param algorithm: The algorithm: "sgmrl", "maml" or "fo-maml"
        :param traces: The two phases of every task
        :return: The meta-gradient, by name
        """
        objective, gamma = replace(self.objective, first_order=algorithm == "fo-maml"), self.objective.outer.gamma
        score = None
        if algorithm == "sgmrl":
            score = ReturnCoefficients(traces, gamma, return_baselines(traces, gamma, self._task_by_task))
        return meta_gradient(self.policy, objective, score, traces).gradient

    def _task_by_task(self, outer_returns: np.ndarray, inner_returns: np.ndarray) -> np.ndarray:
        pairs = zip(outer_returns[:, None], inner_returns[:, None], strict=True)
        return np.concatenate([self.control_variate(outer, inner) for outer, inner in pairs])

    def draw_gradient(
        self, algorithm: str, theta: np.ndarray, n_tasks: int, n_outer_episodes: int, rng: np.random.Generator
    ) -> np.ndarray:
        """
        Draw a meta-batch and compute its meta-gradient, the mean of :meth:`estimate` over the tasks.

        :param algorithm: The algorithm: "sgmrl", "maml" or "fo-maml"
        :param theta: The policy, shape (n_parameters,)
        :param n_tasks: The meta-batch size B
        :param n_outer_episodes: The number of episodes of a task's outer batch
        :param rng: The random number generator
        :return: The meta-gradient, shape (n_parameters,)
        """
        gradient = np.zeros_like(theta)
        for count, trace in self.draw_traces(theta, n_tasks, n_outer_episodes, rng):
            found = self.estimate(algorithm, [trace])
            gradient += count / n_tasks * th.cat([value.flatten() for value in found.values()]).numpy()
        return gradient

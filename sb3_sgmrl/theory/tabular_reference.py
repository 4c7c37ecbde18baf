"""An unbiased, low-variance estimate of ∇V on tabular MDPs of any size, which samples only the inner episodes."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch as th

from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
from sb3_sgmrl.gradient.inner import WeightedSamples, pull_back
from sb3_sgmrl.gradient.meta_gradient import MetaGradient
from sb3_sgmrl.gradient.objective import MetaRollout, TaskPhase
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.score_terms.leave_one_out import leave_one_out_parameters
from sb3_sgmrl.theory.tabular import TabularMDP
from sb3_sgmrl.util.threads import thread_pool
from sb3_sgmrl.vec_env.task_workers import known_horizon


def dynamic_programming_return(policy: FunctionalPolicy, parameters: Parameters, mdp: TabularMDP, gamma: float) -> th.Tensor:
    """
    Compute J(θ) from the distribution of states at each step, differentiable in θ.

    The value equals :func:`~sb3_sgmrl.theory.exact_return`. It needs no sum over trajectories, so it works for any horizon.

    :param policy: The policy as a function
    :param parameters: The parameters θ, by name
    :param mdp: The task
    :param gamma: The discount factor γ
    :return: The expected return, a scalar
    """
    n_states, n_actions = mdp.rewards.shape
    states, actions = np.divmod(np.arange(n_states * n_actions), n_actions)
    log_prob = policy.log_prob(parameters, policy.to_tensor(states), th.as_tensor(actions, device=policy.device))
    chosen = log_prob.exp().reshape(n_states, n_actions).double().cpu()
    reward = (chosen * th.as_tensor(mdp.rewards)).sum(1)
    transition = th.einsum("sa,sat->st", chosen, th.as_tensor(mdp.transitions))
    state, total = th.as_tensor(mdp.initial), th.zeros((), dtype=th.float64)
    for step in range(mdp.horizon):
        total = total + gamma**step * (state @ reward)
        state = state @ transition
    return total


class TabularReference(MetaOnPolicyAlgorithm):
    """
    SG-MRL on the family ``TabularMDP-v0`` with exact J and ∇J instead of estimates from outer episodes.

    The outer episodes are not used. The gradient is formula (A) with b_j = J(U(θ, D∖τ_j)), which is unbiased for any inner
    rule. The class supports one inner step. The gradient has the units of an outer surrogate that sums over steps, with
    discounting from the start and without normalisation.

    The arguments are the same as for :class:`~sb3_sgmrl.common.meta_algorithm.MetaOnPolicyAlgorithm`; ``n_episodes`` must be
    at least 2.
    """

    def check_settings(self) -> None:
        """
        Check the arguments of the algorithm.

        :raises ValueError: When ``n_inner_steps`` is not 1, or ``n_episodes`` is below 2
        """
        super().check_settings()
        if self.n_inner_steps != 1:
            raise ValueError(f"`n_inner_steps` must be 1 for the reference, got {self.n_inner_steps}.")
        if self.n_episodes < 2:
            raise ValueError(
                f"`n_episodes` must be at least 2 for the reference, which leaves one episode out, got {self.n_episodes}."
            )

    def meta_gradient(self, rollout: MetaRollout) -> MetaGradient:
        """
        Compute the meta-gradient from the inner episodes.

        :param rollout: The data of a meta-iteration
        :return: The meta-gradient, without diagnostics
        """
        assert self.env is not None
        horizon = known_horizon(self.env)
        mdps = [TabularMDP.of_task(task, horizon) for task in rollout.tasks]
        with thread_pool(self.n_threads) as pool:
            of_tasks = list(pool.map(self.task_gradient, mdps, rollout.traces))
        gradient = {name: th.stack([of_task[name] for of_task in of_tasks]).mean(0) for name in of_tasks[0]}
        return MetaGradient(gradient, None, [], self.objective)

    def task_gradient(self, mdp: TabularMDP, trace: list[TaskPhase]) -> Parameters:
        """
        Compute the contribution of one task to the meta-gradient.

        :param mdp: The task
        :param trace: The inner and the outer phase of the task
        :return: The contribution, by name
        """
        phase, adapted = trace[0], trace[1].parameters
        value = partial(dynamic_programming_return, self.functional, mdp=mdp, gamma=self.objective.outer.gamma)
        leaves = {name: parameter.detach().requires_grad_() for name, parameter in adapted.items()}
        reached = value(leaves)
        v = dict(zip(leaves, th.autograd.grad(reached, list(leaves.values())), strict=True))
        samples = WeightedSamples.make(self.functional, phase.batch, phase.weighted.weights)

        def coefficients(sensitivity: th.Tensor) -> th.Tensor:
            others = leave_one_out_parameters(self.functional, phase, self.objective, self.observation_space)
            with th.no_grad():
                return samples.per_sample(th.stack([reached - value(parameters) for parameters in others]).to(sensitivity))

        back = pull_back(
            self.functional,
            phase.parameters,
            samples,
            v,
            inner_lr=self.inner_lr,
            relative_lr=self.objective.relative_lr,
            score_coefficients=coefficients,
        )
        assert back.score_term is not None
        return {name: back.pathwise[name] + back.score_term[name] for name in back.pathwise}

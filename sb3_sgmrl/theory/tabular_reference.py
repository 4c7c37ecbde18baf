"""An unbiased and quiet estimate of ∇V on tabular MDPs of any size: only the inner episodes are sampled."""

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
    J(θ) as :func:`~sb3_sgmrl.theory.exact_return` gives it, from the distribution of states at each step instead of a sum over
    trajectories, so for any horizon; differentiable in θ.

    :param policy: the policy as a function
    :param parameters: θ by name
    :param mdp: the task
    :param gamma: discount factor
    :return: a scalar
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
    SG-MRL on the family ``TabularMDP-v0`` with J and ∇J computed instead of estimated from the outer episodes, which are not
    looked at: formula (A) with b_j = J(U(θ, D∖τ_j)), which has no bias for any inner rule. For one inner step, in the units of
    an outer surrogate that is a sum over steps, discounted from the start and not normalised.

    Arguments are those of :class:`~sb3_sgmrl.common.meta_algorithm.MetaOnPolicyAlgorithm`; ``n_episodes`` must be at least 2.
    """

    def check_settings(self) -> None:
        super().check_settings()
        if self.n_inner_steps != 1:
            raise ValueError(f"`n_inner_steps` must be 1 for the reference, got {self.n_inner_steps}.")
        if self.n_episodes < 2:
            raise ValueError("`n_episodes` must be at least 2 for the reference, which leaves one episode out.")

    def meta_gradient(self, rollout: MetaRollout) -> MetaGradient:
        assert self.env is not None
        horizon = known_horizon(self.env)
        mdps = [TabularMDP.of_task(task, horizon) for task in rollout.tasks]
        with thread_pool(self.n_threads) as pool:
            of_tasks = list(pool.map(self.task_gradient, mdps, rollout.traces))
        gradient = {name: th.stack([of_task[name] for of_task in of_tasks]).mean(0) for name in of_tasks[0]}
        return MetaGradient(gradient, None, [])

    def task_gradient(self, mdp: TabularMDP, trace: list[TaskPhase]) -> Parameters:
        """
        :param mdp: the task
        :param trace: its inner and its outer phase
        :return: its part of the gradient, by name
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

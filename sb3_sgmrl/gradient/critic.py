"""The policy's value net as a baseline: fitted on earlier iterations, so it is independent of the episodes it predicts."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th

from sb3_sgmrl.gradient.discounting import discounted_sum
from sb3_sgmrl.gradient.objective import TaskPhase
from sb3_sgmrl.policies.functional import FunctionalPolicy


def fit_critic(policy: FunctionalPolicy, phases: Sequence[TaskPhase], gamma: float, n_epochs: int) -> float:
    """
    Regress the value net on the discounted reward-to-go of every played step, with the policy's optimiser.

    Only parameters that the actor does not use are moved. A features extractor that both share belongs to the meta-gradient.

    :param policy: The policy as a function
    :param phases: The phases of every task
    :param gamma: The discount factor
    :param n_epochs: The number of full-batch steps
    :return: The mean squared error before the first step
    """
    module = policy.policy
    own = [p for name, p in module.named_parameters() if name not in policy.adapted_names and p.requires_grad]
    n_samples = sum(int(phase.batch.mask.sum()) for phase in phases)
    targets = [
        th.as_tensor(discounted_sum(p.batch.rewards, gamma)[p.batch.mask], dtype=policy.dtype, device=policy.device)
        for p in phases
    ]
    first_loss = 0.0
    for epoch in range(n_epochs):
        module.optimizer.zero_grad()
        for phase, target in zip(phases, targets, strict=True):
            predicted = policy.values(policy.to_tensor(phase.batch.samples()[0]))
            error = ((predicted - target) ** 2).sum() / n_samples
            if own:
                error.backward(inputs=own)
            first_loss += float(error.detach()) if epoch == 0 else 0.0
        module.optimizer.step()
    return first_loss

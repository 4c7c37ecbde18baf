"""The policy's value net as a baseline: fitted on earlier iterations, so it is independent of the episodes it predicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch as th

from sb3_sgmrl.distributed import ALONE, Ranks
from sb3_sgmrl.gradient.discounting import discounted_sum
from sb3_sgmrl.gradient.objective import TaskPhase
from sb3_sgmrl.policies.functional import FunctionalPolicy


def fit_critic(
    policy: FunctionalPolicy, traces: Sequence[Sequence[TaskPhase]], gamma: float, n_epochs: int, ranks: Ranks = ALONE
) -> float:
    """
    Regress the value net on the discounted reward-to-go of every played step, with the policy's optimiser.

    Only parameters that the actor does not use are moved. A features extractor that both share belongs to the meta-gradient.

    :param policy: The policy as a function
    :param traces: The phases of every task
    :param gamma: The discount factor
    :param n_epochs: The number of full-batch steps
    :param ranks: The ranks that share the tasks; gradients are summed in the order of the tasks
    :return: The mean squared error before the first step
    """
    module = policy.policy
    own = [p for name, p in module.named_parameters() if name not in policy.adapted_names and p.requires_grad]
    n_samples = sum(int(phase.batch.mask.sum()) for trace in traces for phase in trace)
    phases = [phase for task in ranks.own(len(traces)) for phase in traces[task]]
    targets = [
        th.as_tensor(discounted_sum(p.batch.rewards, gamma)[p.batch.mask], dtype=policy.dtype, device=policy.device)
        for p in phases
    ]
    first_loss = 0.0
    for epoch in range(n_epochs):
        module.optimizer.zero_grad()
        results = _results(policy, own, phases, targets, n_samples)
        for loss, gradient in ranks.to_sum(results):
            first_loss += loss if epoch == 0 else 0.0
            for parameter, part in zip(own, gradient, strict=True):
                if part is not None:
                    parameter.grad = part if parameter.grad is None else parameter.grad + part
        module.optimizer.step()
    return first_loss


def _results(
    policy: FunctionalPolicy, own: list[th.nn.Parameter], phases: Sequence[TaskPhase], targets: list[th.Tensor], n_samples: int
) -> Iterator[tuple[float, tuple[th.Tensor | None, ...]]]:
    """Yield the loss of each phase and its gradient by the critic's own parameters."""
    for phase, target in zip(phases, targets, strict=True):
        predicted = policy.values(policy.to_tensor(phase.batch.samples()[0]))
        error = ((predicted - target) ** 2).sum() / n_samples
        yield float(error.detach()), th.autograd.grad(error, own, allow_unused=True) if own else ()

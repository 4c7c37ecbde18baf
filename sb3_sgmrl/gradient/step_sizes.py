"""Step sizes of the inner step that are learned with the policy."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from torch import nn

from sb3_sgmrl.policies.functional import Parameters


class StepSizes(nn.Module):
    """
    r in U(θ, D) = θ + α r ⊙ ∇̃J(θ, D): a step size in units of α for each adapted parameter tensor, the same in every inner
    step. Meta-SGD (Li, Zhou, Chen, Li 2017) has one for each entry.

    :param names: of the adapted parameters
    :param learning_rate: of Adam, which moves a step size by about this part of α per meta-iteration
    :param device: of the policy
    """

    def __init__(self, names: Sequence[str], learning_rate: float, device: th.device) -> None:
        super().__init__()
        self.names = tuple(names)
        self.relative = nn.Parameter(th.ones(len(self.names), device=device))
        self.optimizer = th.optim.Adam([self.relative], lr=learning_rate)

    @property
    def learning_rate(self) -> float:
        """That of Adam."""
        return self.optimizer.param_groups[0]["lr"]

    def by_name(self) -> Parameters:
        """
        :return: copies of r, a scalar for each parameter
        """
        return dict(zip(self.names, self.relative.detach().clone(), strict=True))

    def ascend(self, gradient: Parameters) -> int:
        """
        One step of Adam. A step against the gradient of the return is never wanted: step sizes that would become negative
        become zero, from where a later gradient can raise them.

        :param gradient: of V by r, a scalar for each parameter; the step size of one that is not adapted now stays as it is
        :return: how many would have become negative
        """
        absent = [i for i, name in enumerate(self.names) if name not in gradient]
        before = self.relative.detach()[absent].clone()
        none = self.relative.new_zeros(())
        self.relative.grad = -th.stack([gradient.get(name, none) for name in self.names]).to(self.relative)
        self.optimizer.step()
        with th.no_grad():
            self.relative[absent] = before
            n_negative = int((self.relative < 0).sum())
            self.relative.clamp_(min=0.0)
        return n_negative

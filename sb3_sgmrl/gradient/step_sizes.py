"""Step sizes of the inner step that are learned with the policy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal

import torch as th
from torch import nn

from sb3_sgmrl.policies.functional import Parameters

# The unit that has its own step size.
StepSizeOwner = Literal["tensor", "entry"]


def matching(names: Sequence[str], patterns: str | Sequence[str] | None) -> tuple[str, ...]:
    """
    Return the names that match any of the patterns.

    :param names: The names of parameters
    :param patterns: One or more patterns with ``*`` and ``?``; None for all
    :return: The names that match any of the patterns
    :raises ValueError: When a pattern matches no name
    """
    if patterns is None:
        return tuple(names)
    patterns = [patterns] if isinstance(patterns, str) else patterns
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"`adapt_only` must match a parameter of the policy ({', '.join(names)}), got {pattern!r}.")
    return tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


class StepSizes(nn.Module):
    """
    The step sizes r in U(θ, D) = θ + α r ⊙ ∇̃J(θ, D), the same in every inner step.

    There is a step size in units of α for each adapted parameter tensor. Alternatively, each entry of a tensor has a step
    size, as in Meta-SGD (Li, Zhou, Chen, Li 2017).

    :param names: The names of the adapted parameters
    :param learning_rate: The learning rate of Adam, which moves a step size by about this part of α per meta-iteration
    :param device: The device of the policy
    :param shapes: The shapes of the parameters by name, for a step size per entry; None for one per tensor
    """

    def __init__(
        self,
        names: Sequence[str],
        learning_rate: float,
        device: th.device,
        shapes: Mapping[str, th.Size] | None = None,
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.owner: StepSizeOwner = "tensor" if shapes is None else "entry"
        self._shapes = [th.Size() if shapes is None else shapes[name] for name in self.names]
        self.relative = nn.Parameter(th.ones(sum(map(math.prod, self._shapes)), device=device))
        self.optimizer = th.optim.Adam([self.relative], lr=learning_rate)

    @property
    def learning_rate(self) -> float:
        """The learning rate of Adam."""
        return self.optimizer.param_groups[0]["lr"]

    def by_name(self) -> Parameters:
        """
        Return a copy of the step sizes by parameter name.

        :return: The copies of r, a scalar for each parameter or a tensor of its shape
        """
        parts = self.relative.detach().clone().split(list(map(math.prod, self._shapes)))
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, self._shapes, strict=True)}

    def ascend(self, gradient: Parameters) -> int:
        """
        Take one step of Adam along a gradient.

        A step against the gradient of the return is never wanted. Step sizes that would become negative become zero, and a
        later gradient can raise them again.

        :param gradient: The gradient of V by r, a tensor for each parameter, shaped as in :meth:`by_name`. The step sizes of a
            parameter that is not adapted now stay as they are
        :return: The number of step sizes that would have become negative
        """
        before = self.by_name()
        derivative = {name: gradient.get(name, th.zeros_like(value)) for name, value in before.items()}
        self.relative.grad = -_flat(derivative).to(self.relative)
        self.optimizer.step()
        with th.no_grad():
            moved = self.by_name()
            self.relative.copy_(_flat({name: (moved if name in gradient else before)[name] for name in self.names}))
            n_negative = int((self.relative < 0).sum())
            self.relative.clamp_(min=0.0)
        return n_negative


def _flat(by_name: Parameters) -> th.Tensor:
    return th.cat([value.flatten() for value in by_name.values()])

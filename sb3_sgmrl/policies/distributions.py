"""The distributions of SB3 whose actions follow from a few arrays and noise drawn beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
)

from sb3_sgmrl.policies.actions import sample_actions


@dataclass(frozen=True)
class Kind:
    """
    A kind of SB3 distribution whose actions follow from arrays and noise.

    :param space: The class of action spaces
    :param inner: The class of torch's distribution
    :param arrays: The function that returns the arrays that describe torch's distribution
    :param transform: The function applied to drawn actions; None keeps them
    """

    space: type[spaces.Space]
    inner: type[th.distributions.Distribution]
    arrays: Callable[[Any], tuple[th.Tensor, ...]]
    transform: Callable[[np.ndarray], np.ndarray] | None = None

    def draw(self, space: spaces.Space, arrays: tuple[np.ndarray, ...], noise: np.ndarray) -> np.ndarray:
        """
        Draw actions.

        :param space: The action space
        :param arrays: The arrays that describe the distributions, shapes (n, ...)
        :param noise: The noise that :func:`~sb3_sgmrl.policies.actions.draw_noise` returns, shape (n, n_dimensions)
        :return: The unclipped actions, shape (n, \\*action_shape)
        """
        actions = sample_actions(space, arrays, noise)
        return actions if self.transform is None else self.transform(actions)


def _logits(inner: Any) -> tuple[th.Tensor, ...]:
    return tuple(part.logits for part in inner) if isinstance(inner, list) else (inner.logits,)


def _normal(inner: Any) -> tuple[th.Tensor, ...]:
    return inner.mean, inner.stddev


KINDS: dict[type[Distribution], Kind] = {
    DiagGaussianDistribution: Kind(spaces.Box, th.distributions.Normal, _normal),
    SquashedDiagGaussianDistribution: Kind(spaces.Box, th.distributions.Normal, _normal, np.tanh),
    CategoricalDistribution: Kind(spaces.Discrete, th.distributions.Categorical, _logits),
    MultiCategoricalDistribution: Kind(spaces.MultiDiscrete, th.distributions.Categorical, _logits),
    BernoulliDistribution: Kind(spaces.MultiBinary, th.distributions.Bernoulli, _logits),
}
# the methods that decide which action is drawn and how likely it is
_DECIDING = ("sample", "get_actions", "log_prob")


def find_kind(distribution: Distribution, space: spaces.Space) -> Kind | None:
    """
    Find the kind of a distribution.

    :param distribution: The distribution that a policy returns
    :param space: The action space
    :return: The kind; None when it does not draw and weigh actions as one of SB3's own distributions does
    """
    inner: Any = getattr(distribution, "distribution", None)
    for cls, kind in KINDS.items():
        same = all(getattr(type(distribution), name) is getattr(cls, name) for name in _DECIDING)
        parts = inner if isinstance(inner, list) else [inner]
        if same and isinstance(space, kind.space) and all(type(part) is kind.inner for part in parts):
            return None if vars(distribution).keys() & set(_DECIDING) else kind
    return None

"""Actions from distribution parameters and noise drawn beforehand, so that a result does not depend on who draws when."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces


def draw_noise(space: spaces.Space, n: int, generator: np.random.Generator) -> np.ndarray:
    """
    The noise n actions need: standard normal for continuous spaces, uniform per dimension otherwise.

    :param space: action space
    :param n: number of actions
    :param generator: source of randomness
    :return: shape (n, n_dimensions)
    """
    if isinstance(space, spaces.Box):
        return generator.standard_normal((n, int(np.prod(space.shape))), dtype=np.float32)
    n_dimensions = len(space.nvec) if isinstance(space, spaces.MultiDiscrete) else int(np.prod(space.shape or ()))
    return generator.random((n, n_dimensions), dtype=np.float32)


def sample_actions(space: spaces.Space, distribution: tuple[np.ndarray, ...], noise: np.ndarray) -> np.ndarray:
    """
    Draw actions from the distributions of a policy.

    :param space: action space
    :param distribution: what :meth:`FunctionalPolicy.distributions` returns, shapes (n, ...)
    :param noise: what :func:`draw_noise` returns, shape (n, n_dimensions)
    :return: unclipped actions, shape (n, \\*action_shape)
    """
    if isinstance(space, spaces.Box):
        mean, std = distribution
        return (mean + std * noise.reshape(mean.shape)).reshape(-1, *space.shape)
    if isinstance(space, spaces.MultiBinary):
        probabilities = 1 / (1 + np.exp(-distribution[0]))
        return (noise < probabilities.reshape(noise.shape)).astype(space.dtype).reshape(-1, *space.shape)
    choices = np.stack([_inverse_cdf(logits, noise[:, i]) for i, logits in enumerate(distribution)], axis=-1)
    return choices.astype(space.dtype).reshape(-1, *(space.shape or ()))


def env_actions(space: spaces.Space, actions: np.ndarray) -> np.ndarray:
    """
    What the environment gets: continuous actions clipped to the box, as SB3's on-policy algorithms do.

    :param space: action space
    :param actions: unclipped actions
    :return: actions inside the space
    """
    if isinstance(space, spaces.Box):
        return np.clip(actions, space.low, space.high).astype(space.dtype, copy=False)
    return actions


def _inverse_cdf(logits: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Index of the first category whose cumulative probability exceeds the uniform draw."""
    weights = np.exp(logits - logits.max(-1, keepdims=True)).astype(np.float64)
    cumulative = np.cumsum(weights, axis=-1)
    # the last category takes what rounding leaves
    return (uniform[:, None] * cumulative[:, -1:] >= cumulative[:, :-1]).sum(-1)

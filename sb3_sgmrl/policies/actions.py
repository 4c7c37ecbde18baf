"""Actions from distribution parameters and noise drawn beforehand. Results do not depend on the order of draws."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces


def draw_noise(space: spaces.Space, n: int, generator: np.random.Generator) -> np.ndarray:
    """
    Draw the noise for n actions: standard normal for continuous spaces, uniform per dimension otherwise.

    :param space: The action space
    :param n: The number of actions
    :param generator: The source of randomness
    :return: An array of shape (n, n_dimensions)
    """
    if isinstance(space, spaces.Box):
        return generator.standard_normal((n, int(np.prod(space.shape))), dtype=np.float32)
    n_dimensions = len(space.nvec) if isinstance(space, spaces.MultiDiscrete) else int(np.prod(space.shape or ()))
    return generator.random((n, n_dimensions), dtype=np.float32)


def sample_actions(space: spaces.Space, distribution: tuple[np.ndarray, ...], noise: np.ndarray) -> np.ndarray:
    """
    Draw actions from the distributions of a policy.

    :param space: The action space
    :param distribution: The distributions that :meth:`FunctionalPolicy.distributions` returns, shapes (n, ...)
    :param noise: The noise that :func:`draw_noise` returns, shape (n, n_dimensions)
    :return: The unclipped actions, shape (n, \\*action_shape)
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
    Clip continuous actions to the box, as SB3's on-policy algorithms do.

    :param space: The action space
    :param actions: The unclipped actions
    :return: The actions inside the space
    """
    if isinstance(space, spaces.Box):
        return np.clip(actions, space.low, space.high).astype(space.dtype, copy=False)
    return actions


def _inverse_cdf(logits: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Return the index of the first category whose cumulative probability exceeds the uniform draw."""
    weights = np.exp(logits - logits.max(-1, keepdims=True)).astype(np.float64)
    cumulative = np.cumsum(weights, axis=-1)
    # the last category takes the remainder of rounding
    return (uniform[:, None] * cumulative[:, -1:] >= cumulative[:, :-1]).sum(-1)

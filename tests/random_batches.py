"""Batches of episodes drawn at random."""

import numpy as np

from sb3_sgmrl.data.batch import PhaseBatch


def phase(n_tasks=3, n_episodes=4, n_steps=6, varying=True, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, n_steps + 1, (n_tasks, n_episodes, 1)) if varying else np.full((n_tasks, n_episodes, 1), n_steps)
    mask = np.arange(n_steps) < lengths
    observations = rng.standard_normal((*mask.shape, 3)).astype(np.float32) * mask[..., None]
    rewards = rng.standard_normal(mask.shape) * mask
    return PhaseBatch(observations, rng.standard_normal((*mask.shape, 2)), rewards, mask, rewards.sum(-1))

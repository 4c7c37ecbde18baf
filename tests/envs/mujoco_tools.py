"""Robots, and the comparison of a batched form with single ones."""

from __future__ import annotations

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from sb3_sgmrl.envs.mujoco_registry import register_mujoco

needs_batch = pytest.mark.skipif(
    tuple(int(part) for part in mujoco.__version__.split(".")[:2]) < (3, 17), reason="mujoco.batch came with mujoco 3.17"
)

register_mujoco()


def draw_actions(space: gym.spaces.Box, n_steps: int, n_columns: int, seed: int = 0) -> np.ndarray:
    """Gaussian actions, many of them outside of the box; the last column's are small."""
    scale = space.high * np.linspace(1.5, 0.1, n_columns)[:, None]
    return (np.random.default_rng(seed).normal(size=(n_steps, n_columns, *space.shape)) * scale).astype(np.float32)

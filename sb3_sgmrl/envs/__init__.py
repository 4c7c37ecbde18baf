"""Task families. Importing this package registers them, because Gymnasium 1.0 and later load no plugins."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from sb3_sgmrl.envs.mujoco_registry import register_mujoco


def register_envs() -> None:
    """Register every family with Gymnasium, single and batched form under one id. You may call it repeatedly."""
    _register("Navigation2D-v0", "navigation:Navigation2D", 100)
    _register("Navigation2DPaper-v0", "navigation:Navigation2D", 100, action_bound=10.0)
    _register("BernoulliBandit-v0", "bandit:BernoulliBandit", 10)
    _register("TabularMDP-v0", "tabular_mdp:TabularMDP", 10)
    register_mujoco()


def _register(env_id: str, family: str, max_episode_steps: int, **kwargs: Any) -> None:
    if env_id in gym.registry:
        return
    gym.register(
        id=env_id,
        entry_point=f"sb3_sgmrl.envs.{family}Env",
        vector_entry_point=f"sb3_sgmrl.envs.{family}VectorEnv",
        max_episode_steps=max_episode_steps,
        kwargs=kwargs,
    )


register_envs()

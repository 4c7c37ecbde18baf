"""The ids of the MuJoCo task families."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

HORIZON = 200

_CHEETAH_DIRECTION = {"task": "direction", "ctrl_cost_weight": 0.05}
_CHEETAH_VELOCITY = {"task": "velocity", "task_range": (0.0, 3.0), "ctrl_cost_weight": 0.05}
_SWIMMER_VELOCITY = {"task": "velocity", "task_range": (0.1, 0.2), "ctrl_cost_weight": 1e-4}

# As in ProMP and PEARL, the robot's position is observed, and only the horizon ends an episode.
_GOAL = {
    "task": "goal",
    "task_range": (0.0, 3.0),
    "ctrl_cost_weight": 0.1,
    "healthy_reward": 0.0,
    "terminate_when_unhealthy": False,
    "exclude_current_positions_from_observation": False,
}

# Robot and arguments of each family. In the velocity tasks of robots that can fall, ``healthy_reward`` is at least the highest
# goal velocity. Standing still is then never worse than falling, which ends the episode.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "HalfCheetahDir-v0": ("HalfCheetah", _CHEETAH_DIRECTION),
    "HalfCheetahVel-v0": ("HalfCheetah", _CHEETAH_VELOCITY),
    "SwimmerVel-v0": ("Swimmer", _SWIMMER_VELOCITY),
    "HopperDir-v0": ("Hopper", {"task": "direction"}),
    "HopperVel-v0": ("Hopper", {"task": "velocity", "task_range": (0.0, 2.0), "healthy_reward": 2.0}),
    "Walker2dDir-v0": ("Walker2d", {"task": "direction"}),
    "Walker2dVel-v0": ("Walker2d", {"task": "velocity", "task_range": (0.0, 3.0), "healthy_reward": 3.0}),
    "HopperRandParams-v0": ("Hopper", {"task": "dynamics"}),
    "Walker2dRandParams-v0": ("Walker2d", {"task": "dynamics"}),
    "AntDir-v0": ("Ant", {"task": "direction"}),
    "AntVel-v0": (
        "Ant",
        {"task": "velocity", "task_range": (0.0, 3.0), "healthy_reward": 3.0, "ctrl_cost_weight": 0.005},
    ),
    "AntGoal-v0": ("Ant", _GOAL),
    "HumanoidDir-v0": ("Humanoid", {"task": "angle"}),
    "HumanoidVel-v0": ("Humanoid", {"task": "velocity", "task_range": (0.0, 2.0), "forward_reward_weight": 1.0}),
    "HumanoidGoal-v0": ("Humanoid", {**_GOAL, "forward_reward_weight": 1.0}),
    # The settings of the SG-MRL paper's program: the action bound is 10, and the Swimmer's reward has the wrong sign.
    "HalfCheetahDirPaper-v0": ("HalfCheetah", {**_CHEETAH_DIRECTION, "action_bound": 10.0}),
    "HalfCheetahVelPaper-v0": ("HalfCheetah", {**_CHEETAH_VELOCITY, "action_bound": 10.0}),
    "SwimmerVelPaper-v0": ("Swimmer", {**_SWIMMER_VELOCITY, "task": "velocity_wrong_sign", "action_bound": 10.0}),
}


def register_mujoco() -> None:
    """Register the families with Gymnasium, and keep existing entries. Making an environment imports MuJoCo."""
    for env_id, (robot, kwargs) in FAMILIES.items():
        if env_id not in gym.registry:
            gym.register(
                env_id,
                entry_point="sb3_sgmrl.envs.mujoco_robots:RobotTaskEnv",
                vector_entry_point="sb3_sgmrl.envs.mujoco_robots:RobotTaskVectorEnv",
                max_episode_steps=HORIZON,
                kwargs={"robot": robot, **kwargs},
            )

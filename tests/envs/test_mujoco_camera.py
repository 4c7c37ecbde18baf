"""The camera follows robots that can leave their place; a camera that the user chose stays."""

import gymnasium as gym
import mujoco
import pytest
from own_robots import ARM

import sb3_sgmrl  # noqa: F401
from sb3_sgmrl import MujocoFamily
from sb3_sgmrl.envs.mujoco_single import MujocoTaskEnv

SLED = """<mujoco><worldbody>
<body name="post"><geom size="0.1" pos="0 2 0"/></body>
<body name="sled"><joint name="x" type="slide" axis="1 0 0"/><geom size="0.1"/></body>
</worldbody><actuator><motor joint="x" ctrlrange="-1 1"/></actuator></mujoco>"""


@pytest.mark.parametrize("env_id", ["HalfCheetahDir-v0", "AntDir-v0", "SwimmerVel-v0", "HumanoidDir-v0"])
def test_registered_robots_stay_in_the_picture(env_id):
    env = gym.make(env_id, render_mode="rgb_array").unwrapped
    renderer = env.mujoco_renderer
    assert env.model.camera(renderer.camera_id).name == "track"
    assert renderer.default_cam_config["type"] == mujoco.mjtCamera.mjCAMERA_TRACKING  # of a window
    free = gym.make(env_id, render_mode="rgb_array", default_camera_config={"distance": 9.0}).unwrapped.mujoco_renderer
    assert free.default_cam_config == {"distance": 9.0}
    assert gym.make(env_id, render_mode="rgb_array", camera_id=0).unwrapped.mujoco_renderer.camera_id == 0


class Zero(MujocoFamily):
    """Rewards nothing."""

    def reward(self, state, controls, tasks):
        return 0.0 * controls[:, 0]


def renderer_of(xml):
    family = Zero(mujoco.MjModel.from_xml_string(xml), frame_skip=1, factors={"body_mass": (0.5, 2.0)})
    return MujocoTaskEnv(family, render_mode="rgb_array").mujoco_renderer


def test_own_robots_without_a_camera_are_followed():
    renderer = renderer_of(SLED)
    assert renderer.camera_id is None  # the camera of the configuration
    assert renderer.default_cam_config == {"trackbodyid": 2, "type": mujoco.mjtCamera.mjCAMERA_TRACKING}


def test_a_robot_that_is_fixed_has_a_camera_that_is_fixed():
    assert renderer_of(ARM.read_text()).default_cam_config is None

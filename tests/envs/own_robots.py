"""An arm from a file, and a robot on which every kind of field has something to act."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from paths import EXAMPLES

from sb3_sgmrl import MujocoFamily

ARM = EXAMPLES / "own_robot" / "arm.xml"
PLACE = spaces.Box(-0.5, 0.5, (2,))

# Every kind of field that tasks may change has something to act on here.
RICH = """
<mujoco>
  <option timestep="0.005" density="1.2" viscosity="0.1" wind="1 0 0"/>
  <worldbody>
    <geom name="floor" type="plane" size="3 3 .1"/>
    <site name="anchor" pos="0 0.5 1"/>
    <body name="upper" pos="0 0 0.7">
      <joint name="shoulder" axis="0 1 0" damping="0.1" stiffness="1" armature="0.01" frictionloss="0.02" springref="10"/>
      <geom name="upper" type="capsule" fromto="0 0 0 0.3 0 0" size="0.05"/>
      <body name="fore" pos="0.3 0 0">
        <joint name="elbow" axis="0 0 1" damping="0.1" stiffness="0.5" armature="0.01" frictionloss="0.01"/>
        <geom name="fore" type="box" size="0.1 0.05 0.02" pos="0.1 0 0"/>
        <geom name="hand" size="0.03" pos="0.2 0.1 0"/>
        <site name="tip" pos="0.2 0 0"/>
      </body>
    </body>
    <body name="ball" pos="1 0 0.12"><freejoint name="free"/><geom name="ball" size="0.1"/></body>
  </worldbody>
  <tendon>
    <spatial name="cord" stiffness="3" damping="0.2" frictionloss="0.1"><site site="tip"/><site site="anchor"/></spatial>
  </tendon>
  <actuator>
    <general name="slow" joint="shoulder" gear="2" ctrlrange="-1 1" dyntype="filter" dynprm="0.1"/>
    <position name="servo" joint="elbow" kp="3" ctrlrange="-1 1"/>
  </actuator>
  <sensor>
    <framepos name="tip" objtype="site" objname="tip"/><accelerometer name="imu" site="tip"/>
    <subtreelinvel name="drift" body="upper"/>
  </sensor>
  <keyframe><key name="bent" qpos="0.5 -0.5 1 0 0.12 1 0 0 0" qvel="0.1 0.2 0 0 0 0 0 0" act="0.5" ctrl="0.2 0.3"/></keyframe>
</mujoco>
"""


class Arm(MujocoFamily):
    """Bring the tip to a place."""

    def reward(self, state, controls, tasks):
        return -np.square(state.site("tip")[:, :2] - tasks[:, :2]).sum(axis=1)


class Rich(Arm):
    """Reads states, controls, what is computed from them, forces and sensors of every stage, and what was before."""

    def observe(self, state):
        fields = [state.qpos, state.qvel, state.act, state.ctrl, state.actuator_force, state.qacc, state.time[:, None]]
        return np.concatenate([*fields, *map(state.sensor, self.sensors), state.body("fore")], axis=1).astype(np.float32)

    def remember(self, state):
        return state.ctrl

    def reward(self, state, controls, tasks):
        return super().reward(state, controls, tasks) - np.square(controls - state.before).sum(axis=1)

    def terminated(self, state, tasks):
        return state.qpos[:, 0] > 1.0

    def draw_state(self, rng, task):
        qpos, qvel = super().draw_state(rng, task)
        qpos[0] += 0.1 * task[0]
        return qpos, qvel


def arm(cls=Arm, **kwargs):
    return cls(ARM, frame_skip=5, **{"task_space": PLACE, "reset_noise": 0.1, **kwargs})


def rich(**kwargs):
    changes = {
        "factors": {"body_mass": {"fore": (0.5, 2.0)}, "dof_damping": (0.5, 2.0), "geom_friction": ([0.5] * 5, [2.0] * 5)},
        "values": {"opt.gravity": ([0, 0, -12], [0, 0, -6])},
    }
    settings = {"task_space": PLACE, "sensors": ("tip", "imu", "drift"), "reset_noise": 0.02, "keyframe": "bent"}
    return Rich(RICH, frame_skip=3, **{**settings, **changes, **kwargs})

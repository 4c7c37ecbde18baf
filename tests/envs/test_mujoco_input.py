"""What does not fit an own MuJoCo family is refused by one sentence."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from mujoco_tools import needs_batch
from own_robots import PLACE, RICH, Arm, arm

from sb3_sgmrl.envs.mujoco_batch import MujocoTaskVectorEnv
from sb3_sgmrl.envs.mujoco_single import MujocoTaskEnv


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"model": "<mujoco><worldbody><body><joint/></body></worldbody></mujoco>"},
            "`model` must compile, but MuJoCo rejects .*mass",
        ),
        ({"model": "<mujoco><worl"}, "`model` must compile, but MuJoCo rejects the text given: .*worl"),
        ({"model": "nowhere.xml"}, "but there is no file 'nowhere.xml'"),
        ({"model": 3}, "`model` must be an XML file, its text, or an MjModel, got 3"),
        ({"model": "<mujoco/>"}, "`model` must have actuators with a control range, but it has no actuators"),
        ({"model": RICH.replace('gear="2" ctrlrange="-1 1"', "")}, "but actuator 'slow' has none: put ctrlrange into the XML"),
        ({"frame_skip": 0}, "`frame_skip` must be a positive integer, got 0"),
        ({"reset_noise": -1.0}, r"`reset_noise` must be a finite number of at least 0, got -1\.0"),
        ({"action_bound": np.inf}, "`action_bound` must be positive or None, got inf"),
        ({"task_space": None}, "Arm has no tasks: pass `task_space`, `factors` or `values`"),
        ({"task_space": spaces.Discrete(3)}, r"`task_space` must be a Box of shape \(k,\), got Discrete\(3\)"),
        ({"task_space": spaces.Box(-1.0, np.inf, (2,))}, r"`task_space` must have finite bounds .* \[inf, inf\]"),
        ({"default_task": [1.0, 0.0]}, "`task` must lie in Box"),
        (
            {"sensors": ["tipp"]},
            r"`sensors` must name sensors of the model, which has \['tip', 'imu', 'drift'\], got \['tipp'\]",
        ),
        (
            {"sensors": "tipp"},
            r"`sensors` must name sensors of the model, which has \['tip', 'imu', 'drift'\], got \['tipp'\]",
        ),
        ({"keyframe": "home"}, r"`keyframe` must be one of \['bent'\], got 'home'"),
        ({"factors": ["body_mass"]}, "`factors` must be a dictionary"),
        ({"factors": {"body_mas": (1, 2)}}, "`factors` must name fields of the model among .*body_mass.*, got 'body_mas'"),
        ({"values": {"geom_size": (1, 2)}}, "`values` must name fields of the model among .*, got 'geom_size'"),
        ({"factors": {"dof_damping": (1, 2)}, "values": {"dof_damping": (1, 2)}}, "`values` must not name 'dof_damping'"),
        (
            {"factors": {"body_mass": ([1, 1], [2, 2])}},
            r"`factors\['body_mass'\]` must hold bounds .* of \(4,\), got .* \(2,\)",
        ),
        (
            {"values": {"geom_friction": {"ball": (0.5, 1.0)}}},
            r"\['ball'\]` must hold bounds for all of \(3,\), got the shape \(\)",
        ),
        (
            {"values": {"opt.gravity": (-12.0, -6.0)}},
            r"`values\['opt.gravity'\]` must hold bounds for all of \(3,\), got .* \(\)",
        ),
        ({"factors": {"body_mass": 3.0}}, r"`factors\['body_mass'\]` must be a Box or a pair \(low, high\) .*, got 3\.0"),
        ({"factors": {"body_mass": (2.0, 1.0)}}, "must have finite bounds with low <= high, got 2.0 and 1.0"),
        ({"factors": {"body_mass": (0.0, 1.0)}}, "must have lower bounds that are positive, got 0.0"),
        ({"values": {"dof_damping": (-1.0, 1.0)}}, "must have lower bounds that are at least 0, got -1.0"),
        ({"factors": {"body_mass": {"hand": (1, 2)}}}, r"must name a body of the model, one of .*'fore'.*, got 'hand'"),
        ({"factors": {"dof_damping": {"wrist": (1, 2)}}}, r"must name a joint of the model, one of .*'elbow'.*, got 'wrist'"),
        ({"factors": {"opt.gravity": {"z": (1, 2)}}}, "opt.gravity has no rows with names"),
        ({"factors": {"actuator_biasprm": {"slow": (1, 2)}}}, "must not scale fields that are zero: use `values` instead"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Arm(**{"model": RICH, "task_space": PLACE, **kwargs})


def returning(method, result):
    return type("Odd", (Arm,), {method: lambda self, state, *_: result(state)})


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (returning("reward", lambda s: s.qpos[:, :1]), r"`reward` of Odd must return .* shape \((\d+),\) .*, got \(\1, 1\)"),
        (returning("reward", lambda s: s.qpos.sum(axis=0)), r"`reward` of Odd must return .*, got \(2,\) and float64"),
        (returning("reward", lambda s: 1.0), r"`reward` of Odd must return .*, got \(\) and float64"),
        (returning("reward", lambda s: None), r"`reward` of Odd must return .* dtype float64, got \(\) and object"),
        (returning("reward", lambda s: s.qpos[:, 0] > 0), "`reward` of Odd must return .* dtype float64, got .* and bool"),
        (returning("terminated", lambda s: s.qpos[:, 0]), "`terminated` of Odd must return .* dtype bool, got .* and float64"),
        (returning("observe", lambda s: s.qpos[0]), r"`observe` of Odd must return an array of shape \(\d+, size\) .*\(2,\)"),
        (returning("observe", lambda s: s.qpos.astype(int)), "`observe` of Odd must return .* and int64"),
        (returning("draw_state", lambda s: (np.zeros(3), np.zeros(2))), r"`draw_state` must return .* got \[\(3,\), \(2,\)\]"),
        (
            returning("info", lambda s: {"speed": 1.0}),
            r"`info` of Odd must hold arrays of (\d+) rows for \1 episodes, got 'speed'",
        ),
        (returning("reward", lambda s: s.sensor("x")), r"`name` of a sensor must be one of \['tip'\], got 'x'"),
        (returning("reward", lambda s: s.site("x")), r"`name` of a site must be one of \['tip'\], got 'x'"),
    ],
)
def test_functions_that_return_what_does_not_fit_are_refused(cls, message):
    with pytest.raises(ValueError, match=message):
        arm(cls).register("OwnOdd-v0", max_episode_steps=5)
    assert "OwnOdd-v0" not in gym.registry


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("xpso", "must be read by fields of MjData such as qpos or site_xpos, got 'xpso'"),
        ("ncon", "must be read by fields of MjData"),
        ("cfrc_ext", "must not read 'cfrc_ext', which MuJoCo does not always compute: use a sensor instead"),
        ("solver_nnz", "must not read 'solver_nnz'"),
    ],
)
def test_fields_that_both_forms_do_not_have_are_refused(field, message):
    with pytest.raises(AttributeError, match=message):
        arm(returning("reward", lambda state: getattr(state, field))).register("OwnOdd-v0", max_episode_steps=5)


@needs_batch
def test_a_field_read_in_some_states_only_is_refused():
    """Its rows would be zeros when they are read for the first time."""

    class Moody(Arm):
        def reward(self, state, controls, tasks):
            return state.xpos[:, 1, 0] if (np.abs(state.qvel) > 1.0).any() else np.zeros(len(tasks))

    for make in (MujocoTaskEnv, lambda family: MujocoTaskVectorEnv(2, family)):
        env = make(arm(Moody))
        env.reset(seed=0)
        with pytest.raises(AttributeError, match="Moody must read 'xpos' in every state or in none, not in some"):
            for _ in range(50):
                env.step(env.action_space.high)


def test_actions_of_another_shape_are_refused():
    env = MujocoTaskEnv(arm())
    env.reset()
    with pytest.raises(ValueError, match=r"`action` must have the shape \(2,\), got \(1,\)"):
        env.step(np.zeros(1))

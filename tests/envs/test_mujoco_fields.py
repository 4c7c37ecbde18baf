"""Fields of a MuJoCo model that differ from task to task are what a compiler makes of them."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from mujoco_tools import needs_batch
from own_robots import ARM, RICH, Arm, arm, rich

from sb3_sgmrl.envs.mujoco_batch import MujocoTaskVectorEnv
from sb3_sgmrl.envs.mujoco_model import FIELDS
from sb3_sgmrl.envs.mujoco_single import MujocoTaskEnv


def times(factor, *names):
    """An edit of a specification: attributes of elements of these kinds are scaled."""

    def edit(spec, kind, attribute):
        for element in getattr(spec, kind):
            if not names or element.name in names:
                setattr(element, attribute, np.multiply(getattr(element, attribute), factor))

    return edit


def dense(spec, *bodies):
    for geom in spec.geoms:
        if not bodies or geom.parent.name in bodies:
            geom.density *= 2.0


def option(name, value):
    return lambda spec: setattr(spec.option, name, value)


COMPILED = {
    "body_mass": ({"factors": {"body_mass": (2.0, 2.0)}}, dense),
    "body_mass of one": ({"factors": {"body_mass": {"fore": (2.0, 2.0)}}}, lambda spec: dense(spec, "fore")),
    "dof_damping": ({"factors": {"dof_damping": (3.0, 3.0)}}, lambda spec: times(3.0)(spec, "joints", "damping")),
    "dof_armature": (
        {"factors": {"dof_armature": {"elbow": (3.0, 3.0)}}},
        lambda spec: times(3.0, "elbow")(spec, "joints", "armature"),
    ),
    "dof_frictionloss": (
        {"factors": {"dof_frictionloss": (3.0, 3.0)}},
        lambda spec: times(3.0)(spec, "joints", "frictionloss"),
    ),
    "jnt_stiffness": ({"factors": {"jnt_stiffness": (3.0, 3.0)}}, lambda spec: times(3.0)(spec, "joints", "stiffness")),
    "geom_friction": ({"factors": {"geom_friction": (0.3, 0.3)}}, lambda spec: times(0.3)(spec, "geoms", "friction")),
    "actuator_gainprm": (
        {"values": {"actuator_gainprm": {"slow": ([4.0] + [0] * 9,) * 2}}},
        lambda spec: setattr(spec.actuator("slow"), "gainprm", [4.0] + [0] * 9),
    ),
    "actuator_biasprm": (
        {"values": {"actuator_biasprm": {"servo": ([0, -5.0] + [0] * 8,) * 2}}},
        lambda spec: setattr(spec.actuator("servo"), "biasprm", [0, -5.0] + [0] * 8),
    ),
    "actuator_gear": ({"factors": {"actuator_gear": (0.5, 0.5)}}, lambda spec: times(0.5)(spec, "actuators", "gear")),
    "tendon_stiffness": ({"factors": {"tendon_stiffness": (4.0, 4.0)}}, lambda spec: times(4.0)(spec, "tendons", "stiffness")),
    "tendon_damping": ({"factors": {"tendon_damping": (4.0, 4.0)}}, lambda spec: times(4.0)(spec, "tendons", "damping")),
    "tendon_frictionloss": (
        {"values": {"tendon_frictionloss": (0.5, 0.5)}},
        lambda spec: setattr(spec.tendons[0], "frictionloss", 0.5),
    ),
    "opt.gravity": ({"values": {"opt.gravity": ([0, 1, -4],) * 2}}, option("gravity", [0, 1, -4])),
    "opt.wind": ({"values": {"opt.wind": ([0, 5, 0],) * 2}}, option("wind", [0, 5, 0])),
    "opt.density": ({"factors": {"opt.density": (10.0, 10.0)}}, option("density", 12.0)),
    "opt.viscosity": ({"values": {"opt.viscosity": (0.7, 0.7)}}, option("viscosity", 0.7)),
}


def test_every_field_is_compared_with_a_compiler():
    # an inertia of its own is what a user gives in place of the compiler's
    assert {name.split()[0] for name in COMPILED} == set(FIELDS) - {"body_inertia"}


@needs_batch
@pytest.mark.parametrize("name", COMPILED)
def test_a_field_of_a_task_is_what_the_compiler_makes_of_it(name):
    """Every array of the model with the constants derived from it, and the way of every column."""
    changes, edit = COMPILED[name]
    spec = mujoco.MjSpec.from_string(RICH)
    edit(spec)
    compiled, plain = spec.compile(), mujoco.MjModel.from_xml_string(RICH)
    family = Arm(RICH, frame_skip=3, **changes)
    batched = MujocoTaskVectorEnv(2, family)
    single = MujocoTaskEnv(family)
    single.reset(seed=0)
    observations = [batched.reset(seed=0)[0]]
    for model in (single.model, batched._batch.get_model(1)):
        arrays = [field for field in dir(model) if isinstance(getattr(model, field, None), np.ndarray)]
        for field in arrays:
            if getattr(model, field).dtype.kind == "f":
                np.testing.assert_allclose(
                    getattr(model, field), getattr(compiled, field), rtol=1e-9, atol=1e-12, err_msg=field
                )
    ways = []
    actions = np.random.default_rng(0).uniform(-1, 1, (40, 2))
    observations += [batched.step(np.stack([action, action]))[0] for action in actions]
    for model in (compiled, plain):
        data = mujoco.MjData(model)
        way = [np.concatenate([data.qpos, data.qvel])]
        for action in actions:
            data.ctrl[:] = action
            mujoco.mj_step(model, data, nstep=3)
            way.append(np.concatenate([data.qpos, data.qvel]))
        ways.append(np.array(way))
    np.testing.assert_allclose(np.array(observations)[:, 1], ways[0], rtol=1e-6, atol=1e-7)
    if name != "geom_friction":  # the ball rolls, and its friction hardly matters
        assert np.abs(ways[0] - ways[1]).max() > 1e-4


def test_inertias_follow_the_masses_unless_they_are_named():
    plain = mujoco.MjModel.from_xml_path(str(ARM))
    for more, scale in (({}, 3.0), ({"body_inertia": (1.0, 1.0)}, 1.0)):
        env = MujocoTaskEnv(arm(factors={"body_mass": {"payload": (3.0, 3.0)}, **more}))
        env.reset()
        np.testing.assert_allclose(env.model.body_mass, plain.body_mass * [1, 1, 1, 3])
        np.testing.assert_allclose(env.model.body_inertia[3], plain.body_inertia[3] * scale)


def test_a_task_leaves_nothing_behind():
    env = MujocoTaskEnv(rich())
    plain = env.reset(seed=3)[0]
    heavy = env.task_space.high.copy()
    heavy[:2] = 0.0
    env.set_task(heavy)
    for _ in range(3):
        env.reset(seed=3)
    mass = env.model.body_mass[2]
    assert mass == 2 * env.family.model.body_mass[2]
    env.set_task(env.family.default_task)
    np.testing.assert_array_equal(env.reset(seed=3)[0], plain)


def test_numbers_of_a_task_have_labels_and_a_default():
    family = rich()
    friction = [f"geom_friction[{i}]" for i in range(5)]
    gravity = [f"opt.gravity[{i}]" for i in range(3)]
    assert family.task_labels == ["task[0]", "task[1]", "body_mass:fore", "dof_damping", *friction, *gravity]
    np.testing.assert_array_equal(family.default_task, [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0, -9.81])
    assert family.task_space.shape == (12,)

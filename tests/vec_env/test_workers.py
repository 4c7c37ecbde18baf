"""One environment to many workers."""

import cloudpickle
import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv
from sb3_sgmrl.vec_env.clones import edited_model_fields, make_task_vec_env


def pendulum(**kwargs):
    return TaskDistEnv("Pendulum-v1", task_space=spaces.Box(5.0, 15.0, (1,)), set_task="g", **kwargs)


def set_gravity(env, task):
    env.model.opt.gravity[2] = -task


def cheetah():
    # The model's own gravity is the task that a copy would draw.
    return TaskDistEnv("HalfCheetah-v5", tasks=[9.81, 5.0, 15.0], weights=[1.0, 1e-9, 1e-9], set_task=set_gravity)


def no_step(vec_env):
    return vec_env.step(np.zeros((vec_env.num_envs, *vec_env.action_space.shape), np.float32))


def state(env):
    return cloudpickle.dumps([env.np_random.bit_generator.state, env.unwrapped.state, env.get_task(), env.action_space])


@pytest.mark.parametrize("seed", [0, None])
def test_workers_are_seeded_differently_and_the_original_stays(seed):
    env = pendulum()
    env.reset(seed=3)
    env.action_space.seed(3)
    before = state(env)
    vec_env = make_task_vec_env(env, 4, seed)
    assert isinstance(vec_env, DummyVecEnv) and vec_env.num_envs == 4
    assert all(vec_env.env_is_wrapped(TaskDistEnv)) and all(vec_env.env_is_wrapped(Monitor))
    drawn = vec_env.env_method("sample_tasks", 1)
    assert len({task.item() for (task,) in drawn}) == 4
    assert len({vec_env.envs[i].action_space.sample().item() for i in range(4)}) == 4
    observations = vec_env.reset()
    assert len({tuple(row) for row in observations.tolist()}) == 4
    no_step(vec_env)
    assert state(env) == before
    assert all(worker.unwrapped is not env.unwrapped for worker in vec_env.envs)


def test_the_seed_determines_the_workers():
    runs = [make_task_vec_env(pendulum(), 3, seed).reset().tolist() for seed in (7, 7, 8)]
    assert runs[0] == runs[1] != runs[2]
    # as Stable-Baselines3 does it: worker i has seed + i
    assert runs[0][1:] == runs[2][:-1]


def test_a_monitor_is_not_doubled():
    vec_env = make_task_vec_env(Monitor(pendulum(max_episode_steps=2)), 2)
    assert not isinstance(vec_env.envs[0].env, Monitor)
    vec_env.reset()
    no_step(vec_env)
    *_, infos = no_step(vec_env)
    assert [info["episode"]["l"] for info in infos] == [2, 2]


def test_the_pinned_task_goes_along():
    env = pendulum()
    env.set_task(8.0)
    vec_env = make_task_vec_env(env, 2)
    vec_env.reset()
    assert [info["task"].item() for info in no_step(vec_env)[-1]] == [8.0, 8.0]


def test_what_cannot_be_pickled_is_explained(tmp_path):
    env = pendulum()
    with (
        open(tmp_path / "log", "w") as env.log,
        pytest.raises(ValueError, match=r"cannot be copied to 2 workers .PicklingError.*pass make_vec_env") as caught,
    ):
        make_task_vec_env(env, 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("n_envs", [0, -1])
def test_the_number_of_workers_is_positive(n_envs):
    with pytest.raises(ValueError, match="`n_envs` must be a positive integer"):
        make_task_vec_env(pendulum(), n_envs)


def edit_mass(model):
    model.body_mass[1] *= 2


def edit_damping(model):
    model.dof_damping[:] += 1


def edit_wind(model):
    model.opt.wind[0] = 3


def edit_solver(model):
    model.opt.iterations = 7


@pytest.mark.parametrize(
    "edit, name",
    [(edit_mass, "body_mass"), (edit_damping, "dof_damping"), (edit_wind, "opt.wind"), (edit_solver, "opt.iterations")],
)
@pytest.mark.parametrize("when", ["before reset", "pinned"])
def test_an_edited_mujoco_model_is_refused(edit, name, when):
    env = cheetah()
    edit(env.unwrapped.model)
    if when == "pinned":
        env.set_task(15.0)
        env.reset(seed=0)
    assert edited_model_fields(env) == [name]
    with pytest.raises(ValueError, match=rf"was edited \({name}\).*pass make_vec_env"):
        make_task_vec_env(env, 2)


@pytest.mark.parametrize("task", [5.0, 9.81, None])
def test_a_task_is_not_an_edit(task):
    env = cheetah()
    env.set_task(task)
    env.reset(seed=1)
    env.step(env.action_space.sample())
    if task is not None:
        env.set_task(None)
    env.set_schedule([])
    vec_env = make_task_vec_env(env, 2)
    vec_env.env_method("set_schedule", None)
    vec_env.env_method("set_task", 5.0)
    vec_env.reset()
    assert [worker.unwrapped.model.opt.gravity[2] for worker in vec_env.envs] == [-5.0, -5.0]


class MovingGoal(gym.Env):
    """Moves a site of its model at every reset, as robot arms do to show a goal."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self):
        self.observation_space = spaces.Box(-1, 1, (1,))
        self.action_space = spaces.Box(-1, 1, (1,))
        self._load()

    def _load(self):
        self.model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><site name="goal"/></worldbody></mujoco>')

    def __getstate__(self):
        return {key: value for key, value in vars(self).items() if key != "model"}

    def __setstate__(self, state):
        vars(self).update(state)
        self._load()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.model.site_pos[0] = self.np_random.uniform(size=3)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_what_a_reset_moves_is_not_an_edit():
    env = TaskDistEnv(MovingGoal, tasks=[1, 2], set_task=lambda env, task: None)
    env.reset(seed=1)
    assert edited_model_fields(env) == []
    env.unwrapped.model.opt.timestep = 0.5
    assert edited_model_fields(env) == ["opt.timestep"]


def test_every_environment_of_a_list_is_looked_at():
    env = TaskDistEnv(["HalfCheetah-v5", "HalfCheetah-v5"])
    env.set_task(1)
    env.reset(seed=0)
    assert edited_model_fields(env) == []
    edit_mass(env.members[1].unwrapped.model)
    env.set_task(0)
    env.reset()
    assert edited_model_fields(env) == ["body_mass"]

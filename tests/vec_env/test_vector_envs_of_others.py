"""Batched environments of others: a skeleton that is one, and what is not."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.vec_env import DummyVecEnv
from toys import state, tiny

from sb3_sgmrl import MAML, TaskDistEnv, from_vector_env
from sb3_sgmrl.vec_env.task_vec_env import TaskVecEnv

BOX = spaces.Box(-np.inf, np.inf, (1,), np.float32)
MOVES = spaces.Box(-1.0, 1.0, (1,), np.float32)
GOALS = spaces.Box(-1.0, 1.0, (), np.float64)


class Walks(VectorEnv):
    """Each column walks to its goal."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, num_envs=6, max_episode_steps=5):
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = BOX, MOVES
        self.observation_space, self.action_space = batch_space(BOX, num_envs), batch_space(MOVES, num_envs)
        self.goals, self.places, self.n_played = np.zeros(num_envs), np.zeros(num_envs), np.zeros(num_envs, int)

    def set_task(self, column, task):
        self.goals[column] = task

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        self.places[mask] = 0.0
        self.n_played[mask] = 0
        return self.observe(), {}

    def observe(self):
        return self.places[:, None].astype(np.float32)

    def step(self, actions):
        self.places += 0.1 * actions[:, 0]
        self.n_played += 1
        rewards, truncated, infos = -abs(self.places - self.goals), self.n_played >= 5, {}
        if truncated.any():
            infos["final_obs"] = np.full(self.num_envs, None)
            for column in np.flatnonzero(truncated):
                infos["final_obs"][column] = self.observe()[column]
            self.reset(options={"reset_mask": truncated})
        return self.observe(), rewards, np.zeros(self.num_envs, bool), truncated, infos


class Walk(gym.Env):
    """The single form, with tasks of its own."""

    observation_space, action_space, task_space, goal = BOX, MOVES, GOALS, 0.0
    place = 0.0

    def set_task(self, task):
        self.goal = float(task)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0.0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.place += 0.1 * action[0]
        return np.array([self.place], np.float32), -float(abs(self.place - self.goal)), False, False, {}


class NoTasks(Walks):
    set_task = None


class NoLimit(Walks):
    def __init__(self, num_envs):
        super().__init__(num_envs)


@pytest.fixture(autouse=True)
def registered():
    for name, vector in (("Walk", Walks), ("Walk-NoTasks", NoTasks), ("Walk-NoLimit", NoLimit)):
        if f"{name}-v0" not in gym.registry:
            gym.register(f"{name}-v0", Walk, vector_entry_point=vector, max_episode_steps=5)


def test_a_registered_environment_with_a_vector_form_of_its_own():
    env = TaskDistEnv("Walk-v0")
    auto = tiny(MAML, env).learn(1)
    assert isinstance(auto.env, DummyVecEnv)
    batched = tiny(MAML, TaskDistEnv("Walk-v0"), engine="batched").learn(1)
    assert isinstance(batched.env, TaskVecEnv)
    for name, value in state(auto).items():  # the two forms differ in rounding
        np.testing.assert_allclose(value, state(batched)[name], rtol=1e-4, atol=1e-7)
    with pytest.raises(ValueError, match=r"`vector_env` has no method `set_task\(column, task\)`"):
        tiny(MAML, TaskDistEnv("Walk-NoTasks-v0"), engine="batched")
    with pytest.raises(
        ValueError,
        match="`engine='batched'` needs a vector_entry_point that makes a VectorEnv, but that of Walk-NoLimit-v0 failed",
    ):
        tiny(MAML, TaskDistEnv("Walk-NoLimit-v0"), engine="batched")
    with pytest.warns(UserWarning, match="The batched form of Walk-NoLimit-v0 is not available"):
        assert isinstance(tiny(MAML, TaskDistEnv("Walk-NoLimit-v0")).env, DummyVecEnv)


class OtherArguments(Walks):
    def set_task(self, task):
        pass


class ResetsAll(Walks):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)

    def step(self, actions):
        answer = super().step(actions)
        # as if episodes were of different lengths
        self.n_played[0] += 1
        return answer


class Flat(Walks):
    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        return observations, rewards[:, None], *rest


def test_what_does_not_fit_is_one_sentence():
    with pytest.raises(
        TypeError, match=r"`set_task` of `vector_env` must take the arguments \(column, task\), but takes \(task\)"
    ):
        from_vector_env(OtherArguments(), task_space=GOALS, max_episode_steps=5)
    with pytest.raises(TypeError, match=r"`set_task` must take the arguments \(vector_env, column, task\)"):
        from_vector_env(Walks(), lambda column, task: None, task_space=GOALS, max_episode_steps=5)
    for kind, match in (
        (ResetsAll, r"`reset` of ResetsAll must reset the columns of options\['reset_mask'\] only"),
        (Flat, r"`step` of Flat must return rewards of shape \(6,\), got \(6, 1\)"),
    ):
        env = from_vector_env(kind(), task_space=GOALS, max_episode_steps=4)
        with pytest.raises(ValueError, match=match):
            tiny(MAML, env).learn(1)

"""Environments that answer otherwise than Gymnasium's: one sentence, and nothing broadcast or cast in silence."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from toys import PointEnv

from sb3_sgmrl import TaskDistEnv

BOX = spaces.Box(-9.0, 9.0, (3,), np.float32)
GOOD = np.zeros(3, np.float32)
PARTS = spaces.Dict(a=BOX, b=spaces.Discrete(4))


class Answers(PointEnv):
    def __init__(self, space, first, step):
        super().__init__()
        self.observation_space = space
        self.first, self.answer = first, step

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        return self.first

    def step(self, action):
        return self.answer


@pytest.mark.parametrize("limit", [False, True])
@pytest.mark.parametrize(
    "space, answer, match",
    [
        (
            BOX,
            (np.zeros(1), 0.0, False, False, {}),
            r"`step` of Answers must return an observation of Box.*, got one of shape \(1,\)",
        ),
        (BOX, (0.0, 0.0, False, False, {}), r"observation of Box.*, got one of shape \(\)"),
        (BOX, (None, 0.0, False, False, {}), r"observation of Box.*, got None"),
        (BOX, (["a"] * 3, 0.0, False, False, {}), r"observation of Box.*, got \['a'"),
        (
            spaces.Box(0, 255, (3,), np.uint8),
            (np.full(3, 0.5), 0.0, False, False, {}),
            "got one of dtype float64 whose numbers uint8 cannot hold",
        ),
        (spaces.Discrete(3), (np.nan, 0.0, False, False, {}), "whose numbers int64 cannot hold"),
        (spaces.Box(0, 255, (3,), np.uint8), (np.full(3, -1), 0.0, False, False, {}), "whose numbers uint8 cannot hold"),
        (PARTS, ({"a": GOOD}, 0.0, False, False, {}), "got one without the key 'b'"),
        (PARTS, ({"a": GOOD[:1], "b": 1}, 0.0, False, False, {}), r"got one of shape \(1,\) under the key 'a'"),
        (PARTS, (GOOD, 0.0, False, False, {}), r"observation of Dict.*, got array"),
        (BOX, (GOOD, np.zeros(2), False, False, {}), "The `reward` of Answers must be a number, got array"),
        (BOX, (GOOD, "1.0", False, False, {}), "The `reward` of Answers must be a number, got '1.0'"),
        (BOX, (GOOD, 0.0, None, False, {}), "The `terminated` of Answers must be True or False, got None"),
        (BOX, (GOOD, 0.0, False, False, None), "`step` of Answers must return observation, .* got None as the last"),
        (BOX, (GOOD, 0.0, False, {}), "got 4 values, as in the interface before Gymnasium"),
        (BOX, GOOD, r"`step` of Answers must return observation, .* got array"),
    ],
)
def test_steps(space, answer, match, limit):
    first = {"a": GOOD, "b": 0} if space is PARTS else np.zeros(space.shape, space.dtype)
    env = Answers(space, (first, {}), answer)
    env = TaskDistEnv(TimeLimit(env, 5) if limit else env)
    env.reset(seed=0)
    with pytest.raises((TypeError, ValueError), match=match) as caught:
        env.step(env.action_space.sample())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "answer, match",
    [
        (GOOD, "`reset` of Answers must return an observation and a dictionary, got array"),
        ((GOOD, None), "`reset` of Answers must return an observation and a dictionary"),
        ((np.zeros(1), {}), r"`reset` of Answers must return an observation of Box.*, got one of shape \(1,\)"),
    ],
)
def test_resets(answer, match):
    with pytest.raises((TypeError, ValueError), match=match):
        TaskDistEnv(TimeLimit(Answers(BOX, answer, None), 5)).reset(seed=0)


def test_what_loses_nothing_is_taken():
    uint8 = spaces.Box(0, 255, (3,), np.uint8)
    for space, observation, reward in (
        (BOX, np.zeros(3), np.ones(1)),
        (uint8, np.full(3, 7), np.int64(1)),
        (BOX, [0, 1, 2], True),
    ):
        env = TaskDistEnv(Answers(space, (observation, {}), (observation, reward, 0, np.bool_(True), {})))
        env.reset(seed=0)
        _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert (reward, terminated, truncated) == (1, False, True) and np.shape(reward) == ()


def test_a_reset_without_seed_or_options_is_found_at_once():
    class Old(PointEnv):
        def reset(self):
            return GOOD

    class OldWrapper(gym.Wrapper):
        def reset(self, seed=None):
            return self.env.reset(seed=seed)

    for env, name in ((Old(), "Old"), (OldWrapper(PointEnv()), "OldWrapper")):
        with pytest.raises(
            TypeError, match=f"`reset` of {name} must take the arguments `seed` and `options`, as Gymnasium's does"
        ):
            TaskDistEnv(TimeLimit(env, 5))


def test_an_error_of_the_environment_stays_as_it_is():
    class Broken(PointEnv):
        def step(self, action):
            raise ValueError("what the environment says")

    env = TaskDistEnv(TimeLimit(Broken(), 5))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="what the environment says"):
        env.step(env.action_space.sample())

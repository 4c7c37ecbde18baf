"""Spaces of every kind: played as they are, or refused in one sentence that names them."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from toys import small_discrete, tiny

from sb3_sgmrl import SGMRL, TaskDistEnv
from sb3_sgmrl.common.sampling import collect_phase
from sb3_sgmrl.data.spaces import check_values

VECTOR, TWO = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)
LARGE = float(np.finfo(np.float32).max)


def box(low=-1.0, high=1.0, shape=(2,), dtype=np.float32):
    return spaces.Box(low, high, shape, dtype)


class AnySpaces(gym.Env):
    """Refuses actions that are not in its space."""

    goal = 0.0

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observe(self.observation_space), {}

    def step(self, action):
        if isinstance(self.action_space, spaces.Box):
            action = np.asarray(action)  # one element of an array of numbers is no array
        assert self.action_space.contains(action), (action, self.action_space)
        reward = float(np.tanh(np.sum(np.asarray(action, dtype=float))) + 0.1 * self.goal)
        return self._observe(self.observation_space), reward, False, False, {}

    def _observe(self, space):
        if isinstance(space, spaces.Dict):
            return {key: self._observe(part) for key, part in space.spaces.items()}
        if isinstance(space, spaces.Box) and space.dtype.kind == "f":
            return np.clip(self.np_random.standard_normal(space.shape), space.low, space.high).astype(space.dtype)
        space.seed(int(self.np_random.integers(2**31)))
        return space.sample()


def env_of(observation_space, action_space):
    env = gym.wrappers.TimeLimit(AnySpaces(observation_space, action_space), 4)
    return TaskDistEnv(env, task_space=spaces.Box(-1, 1, ()), set_task="goal")


def model_of(observation_space, action_space, workers=None):
    policy = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    env = env_of(observation_space, action_space)
    if workers:
        env = make_vec_env(lambda: env_of(observation_space, action_space), workers)
    return tiny(SGMRL, env, policy, meta_batch_size=2)


UNDERSTOOD = [
    *((VECTOR, action) for action in (
        box(-LARGE, LARGE), box(0, LARGE), box(dtype=np.float64), box(dtype=np.float16), box(shape=()), box(shape=(2, 3)),
        box(-1e300, 1e300, dtype=np.float64), spaces.Discrete(1), small_discrete(3),
        spaces.MultiDiscrete([3, 1]), spaces.MultiDiscrete([3, 2], dtype=np.int8), spaces.MultiBinary(3),
    )),
    *((observation, TWO) for observation in (
        box(-LARGE, LARGE), box(-np.inf, np.inf), box(0, np.inf),
        spaces.Box(np.float32([-np.inf, 0]), np.float32([0, np.inf])),
        box(dtype=np.float64), box(dtype=np.float16), box(-5, 5, dtype=np.int64), box(0, 255, dtype=np.uint8),
        box(0, 1, dtype=bool), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary([2, 3]),
        spaces.Dict({"a": spaces.MultiBinary(2), "b": box(-np.inf, np.inf, (2, 2)), "c": spaces.MultiDiscrete([2, 3])}),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("observation_space", "action_space"), UNDERSTOOD, ids=str)
def test_spaces_that_are_understood(observation_space, action_space):
    model = model_of(observation_space, action_space)
    model.learn(1)
    policy = model.adapt(task=0.3)
    action, _ = policy.predict(env_of(observation_space, action_space).reset(seed=0)[0])
    assert np.shape(action) == (action_space.shape or ())


REFUSED = [
    *((VECTOR, action, match) for action, match in (
        (box(0, 10, dtype=np.int64), r"action_space Box\(0, 10, \(2,\), int64\), which would truncate actions"),
        (box(0, 255, dtype=np.uint8), "which would truncate actions to integers"),
        (box(0, 1, dtype=bool), "which would truncate actions to integers"),
        (box(-np.inf, np.inf), "lacks the finite bounds"),
        (spaces.Box(np.float32([-1, 0]), np.float32([1, np.inf])), "lacks the finite bounds"),
        (box(shape=(0,)), "has no elements"),
        (spaces.Discrete(3, start=-1), r"action_space Discrete\(3, start=-1\), which does not start at 0"),
        (spaces.MultiDiscrete([3, 2], start=[0, 1]), "does not start at 0"),
        (spaces.MultiDiscrete([[3, 2], [2, 2]]), "one dimension only"),
        (spaces.MultiBinary([2, 2]), "one dimension only"),
        (spaces.Dict({"a": TWO}), "do not support"),
        (spaces.Tuple((TWO, TWO)), "do not support"),
        (spaces.Sequence(TWO), "do not support"),
    )),
    *((observation, TWO, match) for observation, match in (
        (spaces.Tuple((TWO, VECTOR)), r"observation_space Tuple\(Discrete\(2\), .*do not support: use Box"),
        (spaces.Text(3), "do not support"),
        (spaces.Graph(VECTOR, TWO), "do not support"),
        (spaces.OneOf((TWO, VECTOR)), "do not support"),
        (spaces.Discrete(3, start=1), "does not start at 0"),
        (spaces.MultiDiscrete([3, 2], start=[1, 0]), "does not start at 0"),
        (spaces.MultiDiscrete([[3, 2], [2, 2]]), "one dimension only"),
        (spaces.Dict({"a": VECTOR, "b": spaces.Discrete(3, start=2)}), r"observation_space\['b'\] .*does not start at 0"),
        (spaces.Dict({"a": spaces.Dict({"b": VECTOR})}), r"observation_space\['a'\] .*do not support"),
        (spaces.Dict({"a": box(shape=())}), r"observation_space\['a'\] .*has no dimension"),
        (spaces.Dict({"a": spaces.Text(3)}), r"observation_space\['a'\] Text.*do not support"),
        (spaces.Dict({}), "empty Dict"),
        (box(shape=()), "has no dimension"),
        (box(shape=(0, 2)), "has no elements"),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("observation_space", "action_space", "match"), REFUSED, ids=str)
def test_spaces_that_are_refused(observation_space, action_space, match):
    with pytest.raises(ValueError, match=match) as caught:
        model_of(observation_space, action_space)
    assert "\n" not in str(caught.value) and "`env`" in str(caught.value)


def test_workers_and_other_environments_are_checked_too():
    with pytest.raises(ValueError, match="does not start at 0"):
        model_of(VECTOR, spaces.Discrete(3, start=1), workers=2)
    model = model_of(VECTOR, TWO)
    for ask in (model.set_env, model.adapt):
        with pytest.raises(ValueError, match="has no dimension"):
            ask(env_of(box(shape=()), TWO))


def test_actions_of_half_precision_are_kept_as_they_were_drawn():
    model = model_of(VECTOR, box(dtype=np.float16))
    phase = collect_phase(model.env, model.functional, [model.functional.parameters()], [0.1, 0.2], 2, [0])
    assert phase.actions.dtype == np.float32
    assert (phase.actions != phase.actions.astype(np.float16)).any()


def test_given_episodes_with_other_categories():
    model = model_of(spaces.Discrete(4), spaces.MultiDiscrete([3, 2]))
    phase = collect_phase(model.env, model.functional, [model.functional.parameters()], [0.1], 2, [0])
    model.adapt(episodes=phase)
    phase.actions[0, 0, 0] = [3, 0]
    with pytest.raises(ValueError, match=r"`episodes` must hold actions of MultiDiscrete\(\[3 2\]\), counted from 0"):
        model.adapt(episodes=phase)
    phase.actions[0, 0, 0] = [0, 0]
    phase.observations[0, 0, 0] = -1
    with pytest.raises(ValueError, match=r"`episodes` must hold observations of Discrete\(4\), counted from 0, got -1"):
        model.adapt(episodes=phase)


INTEGERS = np.array([[0, 1]])
VALUES = [
    (spaces.MultiDiscrete([3, 2]), INTEGERS, INTEGERS + 0.5, "got float64 instead of integers"),
    (spaces.MultiDiscrete([3, 2]), np.array([[2, 1]]), INTEGERS + 1, r"counted from 0, got 1 to 2\."),
    (spaces.MultiBinary(2), INTEGERS, INTEGERS + 1, r"counted from 0, got 1 to 2\."),
    (TWO, np.array([1]), np.array([2]), r"counted from 0, got 2 to 2\."),
    (TWO, np.array([0]), np.array([-1]), r"counted from 0, got -1 to -1\."),
    (box(0, 255, dtype=np.uint8), np.array([[0, 255]]), np.array([[0, 256]]), r"uint8\), got 0 to 256\."),
    (box(0, 255, dtype=np.uint8), np.array([[0, 255]]), np.array([[0.0, 1.0]]), "got float64 instead of integers"),
    (box(-5, 5, dtype=np.int64), np.array([[-5, 5]]), np.array([[-6, 5]]), r"int64\), got -6 to 5\."),
]


@pytest.mark.parametrize(("space", "good", "bad", "match"), VALUES, ids=str)
def test_given_values_are_of_their_space(space, good, bad, match):
    check_values("actions", good, space)
    with pytest.raises(ValueError, match=f"`episodes` must hold actions of .*{match}"):
        check_values("actions", bad, space)


def test_given_floats_may_lie_outside_the_bounds():
    check_values("actions", np.array([[-7.5, 3.0]]), VECTOR)

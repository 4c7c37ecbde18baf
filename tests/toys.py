"""A small family of tasks with every kind of observation and action, and models that train on it within milliseconds."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from inspect import signature
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv
from torch import nn

from sb3_sgmrl import EMAML, MAML, SGMRL, TRPOMAML, ProMP, Reptile, TaskDistEnv, register

HORIZON = 5
# of a meta-iteration of ``tiny``: two phases of three tasks of four episodes
SAMPLES = 2 * 3 * 4 * HORIZON
ALGORITHMS = [MAML, SGMRL, EMAML]
# with those that share their gradients and have outer steps of their own
FAMILY = [*ALGORITHMS, ProMP, TRPOMAML, Reptile]
ACTIONS = {
    "box": spaces.Box(-1.0, 1.0, (2,), np.float32),
    "discrete": spaces.Discrete(4),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(2),
}
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
VECTOR = spaces.Box(-9.0, 9.0, (3,), np.float32)
OBSERVATIONS = {
    "vector": VECTOR,
    "discrete": spaces.Discrete(5),
    "image": IMAGE,
    "dict": spaces.Dict({"vector": VECTOR, "category": spaces.Discrete(5), "image": IMAGE}),
}


class PointEnv(gym.Env):
    """
    A point in the plane that is moved by the actions and some noise; the reward is minus the distance to the task, a goal.

    :param observation: key of ``OBSERVATIONS``
    :param action: key of ``ACTIONS``
    :param end: probability that an episode terminates at a step
    """

    def __init__(self, observation: str = "vector", action: str = "box", end: float = 0.0):
        self.observation_space = OBSERVATIONS[observation]
        self.action_space = ACTIONS[action]
        self.task_space = spaces.Box(-1.0, 1.0, (2,), np.float64)
        self.end = end
        self.goal = np.array([0.5, -0.5])
        self.position = np.zeros(2)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[np.ndarray]:
        return list(rng.uniform(-1, 1, (n, 2)))

    def set_task(self, task: np.ndarray) -> None:
        self.goal = task

    def get_task(self) -> np.ndarray:
        return self.goal

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = self.np_random.normal(0, 0.3, 2)
        return self._observe(self.observation_space), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        if isinstance(self.action_space, spaces.Discrete):
            move = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])[action]
        elif isinstance(self.action_space, spaces.Box):
            move = action
        else:
            move = np.asarray(action) * 2.0 - 1
        self.position = np.clip(self.position + 0.3 * move + self.np_random.normal(0, 0.05, 2), -2, 2)
        reward = -float(np.linalg.norm(self.position - self.goal))
        return self._observe(self.observation_space), reward, bool(self.np_random.random() < self.end), False, {}

    def _observe(self, space: spaces.Space) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: self._observe(part) for key, part in space.spaces.items()}
        if isinstance(space, spaces.Discrete):
            return int(np.digitize(self.position[0], [-0.5, 0.0, 0.5, 1.0]))
        if space == IMAGE:
            image = np.zeros(IMAGE.shape, np.uint8)
            row, column = ((self.position + 2) * 8).astype(int)
            image[row : row + 4, column : column + 4] = 255
            return image
        return np.array([*self.position, 1.0], np.float32)


@register
class SmallCnn(BaseFeaturesExtractor):
    """A convolution that is trained, much smaller than SB3's."""

    def __init__(self, observation_space: spaces.Box, features_dim: int = 4):
        super().__init__(observation_space, features_dim)
        self.net = nn.Sequential(nn.Conv2d(1, 2, 8, stride=7), nn.Tanh(), nn.Flatten(), nn.Linear(50, features_dim))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.net(observations)


@register
class LinearExtractor(BaseFeaturesExtractor):
    """A trained extractor for vectors."""

    def __init__(self, observation_space: spaces.Box, features_dim: int = 4):
        super().__init__(observation_space, features_dim)
        self.linear = nn.Linear(observation_space.shape[0], features_dim)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return th.tanh(self.linear(observations))


@register
class Float64(BaseFeaturesExtractor):
    """SB3's preprocessing ends in float32."""

    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=spaces.flatdim(observation_space))

    def forward(self, observations):
        return observations.flatten(1).double()


@register
class FrozenExtractor(LinearExtractor):
    """As from an earlier training: it is not to be trained on, and has a scale and a batch norm."""

    def __init__(self, observation_space: spaces.Box):
        super().__init__(observation_space)
        self.requires_grad_(False)
        self.norm = nn.BatchNorm1d(self.features_dim)
        self.register_buffer("scale", 1 + th.rand(self.features_dim))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.norm(super().forward(observations)) * self.scale


def small_discrete(n: int) -> spaces.Discrete:
    """Categories in 32 bits, where this version of Gymnasium has them."""
    has_dtype = "dtype" in signature(spaces.Discrete).parameters
    return spaces.Discrete(n, dtype=np.int32) if has_dtype else spaces.Discrete(n)


def point(horizon: int | None = HORIZON, **kwargs: Any) -> TaskDistEnv:
    """The family as a single environment."""
    env = PointEnv(**kwargs)
    return TaskDistEnv(env if horizon is None else TimeLimit(env, horizon))


def point_vec(n_envs: int, subprocess: bool = False, **kwargs: Any) -> VecEnv:
    """The same with workers."""
    vec_env_cls = SubprocVecEnv if subprocess else DummyVecEnv
    vec_env_kwargs = {"start_method": "fork"} if subprocess else {}
    return make_vec_env(partial(point, **kwargs), n_envs, vec_env_cls=vec_env_cls, vec_env_kwargs=vec_env_kwargs)


def tiny(algorithm: type, env: Any, policy: str = "MlpPolicy", **kwargs: Any) -> Any:
    """A model with three tasks of four episodes, and few parameters."""
    settings: dict[str, Any] = {"meta_batch_size": 3, "n_episodes": 4, "n_threads": 1, "seed": 0, "device": "cpu", **kwargs}
    settings["policy_kwargs"] = {"net_arch": [5], **settings.get("policy_kwargs", {})}
    return algorithm(policy, env, **settings)


def vector(parameters: dict[str, th.Tensor]) -> th.Tensor:
    """All parameters in a row."""
    return th.cat([value.flatten() for value in parameters.values()])


def rollout_of(model: Any) -> Any:
    """One iteration's data, without training on it."""
    _, callback = model._setup_learn(1, None)
    callback.on_training_start(locals(), globals())
    return model.collect_rollouts(model.env, callback)


def state(model: Any) -> dict[str, np.ndarray]:
    """Copies of the parameters of the policy."""
    return {name: value.detach().numpy().copy() for name, value in model.policy.state_dict().items()}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """Equal to the bit."""
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def differ(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> set[str]:
    """Names of what is not equal."""
    return {name for name in one if not np.array_equal(one[name], other[name])}


def snapshot(folder: Path) -> dict[str, bytes]:
    """What is in the files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def error_of(command: ModuleType, arguments: list[str], captured: pytest.CaptureFixture[str]) -> str:
    """What a command says that fails as a user's errors do: exit code 2 and one sentence, in one line."""
    assert command.main(arguments) == 2, arguments
    error = captured.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def rotated(first: Iterable[Any], *others: Iterable[Any]) -> list[Any]:
    """All combinations: those of the others are ordinary tests with one of the first in turn, and slow with the rest."""
    turns = list(first)
    return [
        pytest.param(turn, *combination, marks=() if i % len(turns) == j else pytest.mark.slow)
        for i, combination in enumerate(product(*others))
        for j, turn in enumerate(turns)
    ]

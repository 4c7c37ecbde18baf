"""The kinds of methods that a comparison can hold: algorithms of the package, and baselines."""

from __future__ import annotations

import inspect
import pathlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import yaml
from sb3_contrib import TRPO, RecurrentPPO
from stable_baselines3 import PPO

from sb3_sgmrl.algorithms import ALGORITHMS
from sb3_sgmrl.baselines import (
    RL2,
    Baseline,
    FromScratch,
    MultiTaskPPO,
    MultiTaskTRPO,
    OraclePPO,
    RandomActions,
    StandingStill,
)
from sb3_sgmrl.common.arguments import argument_names
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv

# arguments of SB3's algorithms that belong to a run, and objects that no file can hold
_OF_A_RUN = {
    *("policy", "env", "seed", "verbose", "tensorboard_log", "device", "_init_setup_model", "stats_window_size", "kwargs"),
    *("rollout_buffer_class", "rollout_buffer_kwargs"),
}
# the algorithm whose hyperparameters of a family the baselines share: the network, the discount and the episodes
_SHARED_FILE, _SHARED = "maml", ("gamma", "policy_kwargs", "n_episodes")


# draws a value of a setting
Distribution = Callable[[np.random.Generator], Any]
# settings of the network, which stays the same for every method of a comparison
_OF_THE_NETWORK = ("net_arch", "log_std_init")


class Kind(ABC):
    """A kind of method: the settings that it has, and how to make and load a model of it."""

    #: whether ranks share the tasks of a training
    shares_tasks: ClassVar[bool] = False

    @abstractmethod
    def defaults(self, env_id: str) -> dict[str, Any]:
        """
        Return all settings that change results.

        :param env_id: The task family; families without hyperparameters of their own have the default ones
        :return: The settings by name
        """

    @abstractmethod
    def search_space(self) -> dict[str, Distribution]:
        """
        Return the settings that a search varies.

        :return: The distributions by setting; ``one_minus_gamma`` is a distribution of 1 - gamma
        """

    @abstractmethod
    def make(self, env: TaskDistEnv, seed: int, n_threads: int, arguments: Mapping[str, Any]) -> Any:
        """
        Make an untrained model.

        :param env: The task family
        :param seed: The seed of the run
        :param n_threads: The number of threads
        :param arguments: The arguments of the constructor
        :return: The model
        :raises ValueError: When an argument is outside its range
        """

    def load(self, path: pathlib.Path, env: TaskDistEnv, seed: int, n_threads: int, arguments: Mapping[str, Any]) -> Any:
        """
        Load a checkpoint into a new model.

        :param path: The file
        :param env: The task family
        :param seed: The seed of the run
        :param n_threads: The number of threads
        :param arguments: The arguments of the constructor
        :return: The model as it was saved
        """
        model = self.make(env, seed, n_threads, arguments)
        model.restore(path)
        return model


@dataclass(frozen=True)
class AlgorithmKind(Kind):
    """
    An algorithm of this package.

    :param name: The name in the registry of algorithms
    :param own: The settings that make a variant of it
    """

    shares_tasks = True

    name: str
    own: Mapping[str, Any] = field(default_factory=dict)

    def defaults(self, env_id: str) -> dict[str, Any]:
        """See :class:`Kind`."""
        cls = ALGORITHMS[self.name].cls
        signature = inspect.signature(cls).parameters
        known = [name for name in signature if name in argument_names(cls, "learning")]
        of_class = {name: signature[name].default for name in known}
        return {**of_class, **hyperparameters(self.name, env_id), **self.own}

    def search_space(self) -> dict[str, Distribution]:
        """See :class:`Kind`. The space is that of the command ``tune``, without the network."""
        from sb3_sgmrl.cli.zoo.tuning import search_space

        ranges = search_space(self.name, is_continuous=False)
        return {name: _distribution(values) for name, values in ranges.items() if name not in _OF_THE_NETWORK}

    def make(self, env: TaskDistEnv, seed: int, n_threads: int, arguments: Mapping[str, Any]) -> Any:
        """See :class:`Kind`."""
        return ALGORITHMS[self.name].cls(env=env, seed=seed, n_threads=n_threads, **arguments)

    def load(self, path: pathlib.Path, env: TaskDistEnv, seed: int, n_threads: int, arguments: Mapping[str, Any]) -> Any:
        """See :class:`Kind`."""
        return ALGORITHMS[self.name].cls.load(path, env=env, n_threads=n_threads)


@dataclass(frozen=True)
class BaselineKind(Kind):
    """
    A baseline.

    :param cls: The class
    :param algorithm: The algorithm of SB3 or sb3-contrib that trains it, if it learns
    :param policy: The policy
    :param own: The settings that differ from the defaults
    :param search: The ranges that a search draws from, on a logarithmic scale
    """

    cls: type[Baseline]
    algorithm: type[Any] | None = None
    policy: str = "MlpPolicy"
    own: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def search_space(self) -> dict[str, Distribution]:
        """See :class:`Kind`."""
        return {name: partial(_log_uniform, *ends) for name, ends in self.search.items()}

    def defaults(self, env_id: str) -> dict[str, Any]:
        """See :class:`Kind`."""
        settings = _defaults_of(self.cls)
        shared = hyperparameters(_SHARED_FILE, env_id)
        if self.algorithm is not None:
            # None: as the baseline chooses by the horizon
            settings = {"policy": self.policy, **_defaults_of(self.algorithm), "n_steps": None, "batch_size": None, **settings}
        return {**settings, **{name: shared[name] for name in _SHARED if name in settings and name in shared}, **self.own}

    def make(self, env: TaskDistEnv, seed: int, n_threads: int, arguments: Mapping[str, Any]) -> Any:
        """See :class:`Kind`."""
        chosen = {
            name: value for name, value in arguments.items() if value is not None or name not in ("n_steps", "batch_size")
        }
        make: Any = self.cls
        return make(env=env, seed=seed, **chosen)


def _log_uniform(low: float, high: float, rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _distribution(values: Any) -> Distribution:
    """Convert a distribution of Optuna."""
    if hasattr(values, "choices"):
        return lambda rng: values.choices[int(rng.integers(len(values.choices)))]
    if values.log:
        return partial(_log_uniform, values.low, values.high)
    return lambda rng: float(rng.uniform(values.low, values.high))


def _defaults_of(cls: type[Any]) -> dict[str, Any]:
    signature = inspect.signature(cls).parameters
    return {name: parameter.default for name, parameter in signature.items() if name not in _OF_A_RUN}


def family_arguments(env_id: str) -> dict[str, Any]:
    """
    Read the arguments of a family from the hyperparameters of the package, which are the same for all algorithms.

    :param env_id: The id of the family
    :return: The arguments; empty for a family without any
    """
    return dict(_entry(_SHARED_FILE, env_id).get("env_kwargs", {}))


def hyperparameters(algo: str, env_id: str) -> dict[str, Any]:
    """
    Read the arguments of an algorithm from the hyperparameters of the package.

    :param algo: The name of the algorithm
    :param env_id: The id of the family; one without an entry of its own has the default ones
    :return: The arguments, with the policy, without the steps and the arguments of the family
    """
    return {name: value for name, value in _entry(algo, env_id).items() if name not in ("n_timesteps", "env_kwargs")}


def _entry(algo: str, env_id: str) -> dict[str, Any]:
    entries = yaml.safe_load(ALGORITHMS[algo].hyperparameters.read_text(encoding="utf-8"))
    return entries.get(env_id, entries["default"])


_OF_CRITICS = {"learning_rate": (1e-4, 1e-2), "one_minus_gamma": (1e-3, 0.1), "one_minus_gae_lambda": (1e-3, 0.2)}
_OF_PPO = {**_OF_CRITICS, "max_grad_norm": (0.1, 10.0), "clip_range": (0.1, 0.4)}
_OF_FINE_TUNING = {"fine_tuning_rate": (1e-4, 1e-2)}

KINDS: dict[str, Kind] = {
    **{name: AlgorithmKind(name) for name in ALGORITHMS},
    "fomaml": AlgorithmKind("maml", {"first_order": True}),
    "ppo": BaselineKind(MultiTaskPPO, PPO, search={**_OF_PPO, **_OF_FINE_TUNING}),
    "trpo": BaselineKind(MultiTaskTRPO, TRPO, search={**_OF_CRITICS, "target_kl": (1e-3, 0.1)}),
    "scratch": BaselineKind(FromScratch, PPO, search=_OF_PPO),
    "oracle": BaselineKind(OraclePPO, PPO, search=_OF_PPO),
    "rl2": BaselineKind(RL2, RecurrentPPO, "MlpLstmPolicy", search=_OF_PPO),
    "random": BaselineKind(RandomActions),
    "standing": BaselineKind(StandingStill),
}

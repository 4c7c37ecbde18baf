"""Copy, check, compare and set the statistics of a VecNormalize as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

# arguments of VecNormalize that must match; `training` and `norm_reward` may differ between training and play
_SETTINGS = ("norm_obs", "norm_obs_keys", "clip_obs", "clip_reward", "gamma", "epsilon")
_USE = ("training", "norm_reward")
_NEW = RunningMeanStd(shape=()).count

Statistics = Mapping[str, Any]


def statistics_of(normalizer: VecNormalize) -> dict[str, Any]:
    """
    Return the settings and statistics of a VecNormalize.

    :param normalizer: The VecNormalize
    :return: The settings, and copies of the statistics
    """
    settings = {name: getattr(normalizer, name) for name in (*_SETTINGS, *_USE)}
    observations: Any = getattr(normalizer, "obs_rms", None) if normalizer.norm_obs else None
    of_parts = {key: _of(part) for key, part in observations.items()} if isinstance(observations, dict) else None
    obs_rms = of_parts or (None if observations is None else _of(observations))
    return {"settings": settings, "obs_rms": obs_rms, "ret_rms": _of(normalizer.ret_rms)}


def _of(statistics: RunningMeanStd) -> dict[str, Any]:
    return {"mean": np.array(statistics.mean), "var": np.array(statistics.var), "count": float(statistics.count)}


def check_statistics(statistics: Any, observation_space: spaces.Space) -> Statistics:
    """
    Check statistics from a file.

    :param statistics: The statistics in the file
    :param observation_space: The observation space of the model
    :return: The same statistics
    :raises ValueError: When the statistics do not fit the observation space
    """
    settings = statistics["settings"] if statistics.keys() == {"settings", "obs_rms", "ret_rms"} else {}
    if settings.keys() != {*_SETTINGS, *_USE}:
        raise ValueError("settings or statistics are missing, or there are more than expected")
    _check_settings(settings)
    _check_moments("ret_rms", statistics["ret_rms"], ())
    if not settings["norm_obs"]:
        expected: Any = None
    elif isinstance(observation_space, spaces.Dict):
        expected = {key: observation_space[key].shape for key in settings["norm_obs_keys"]}
    else:
        expected = observation_space.shape
    found = statistics["obs_rms"]
    if isinstance(expected, dict):
        if expected.keys() != found.keys():
            raise ValueError(f"there are statistics of {', '.join(found)} instead of {', '.join(expected)}")
        for key, shape in expected.items():
            _check_moments(f"obs_rms of {key}", found[key], shape)
    elif expected is not None:
        _check_moments("obs_rms", found, expected)
    elif found is not None:
        raise ValueError("there are statistics of observations, which are not normalised")
    return statistics


def _check_settings(settings: Mapping[str, Any]) -> None:
    for name in ("norm_obs", *_USE):
        if type(settings[name]) is not bool:
            raise ValueError(f"{name} must be true or false, not {settings[name]!r}")
    for name in ("clip_obs", "clip_reward", "gamma", "epsilon"):
        if type(settings[name]) not in (int, float) or settings[name] < 0:
            raise ValueError(f"{name} must be a number that is not negative, not {settings[name]!r}")


def _check_moments(name: str, moments: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    if moments.keys() != {"mean", "var", "count"}:
        raise ValueError(f"{name} must have mean, var and count")
    for key in ("mean", "var"):
        value = moments[key]
        if not isinstance(value, np.ndarray) or value.dtype != np.float64 or not _fits(value.shape, shape):
            raise ValueError(f"the {key} of {name} must be float64 of shape {shape}")
        if not np.isfinite(value).all() or (key == "var" and (value < 0).any()):
            raise ValueError(f"the {key} of {name} is not finite, or negative")
    if type(moments["count"]) is not float or not 0 < moments["count"] < np.inf:
        raise ValueError(f"the count of {name} must be positive")


def _fits(found: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    # wrappers above the VecNormalize may stack frames or move the channels of images
    return found == shape or (len(found) == len(shape) > 0 and math.prod(shape) % max(math.prod(found), 1) == 0)


def with_statistics(env: VecEnv, statistics: Statistics) -> VecEnv:
    """
    Return workers in a VecNormalize with the given statistics.

    The workers may have no VecNormalize, a new one, or one with equal statistics.

    :param env: The workers
    :param statistics: The statistics of a model
    :return: The workers in a VecNormalize with these statistics
    :raises ValueError: When the VecNormalize of the workers has other settings or statistics
    """
    normalizer = unwrap_vec_normalize(env)
    if normalizer is None:
        env = normalizer = VecNormalize(env, **statistics["settings"])
        _check_shapes(normalizer, statistics)
        _give(normalizer, statistics)
        return env
    for name in _SETTINGS:
        wanted, found = statistics["settings"][name], getattr(normalizer, name)
        if wanted != found:
            raise ValueError(
                f"`env` is in a VecNormalize with {name}={found!r}, and the model was trained with {wanted!r}: pass `env` "
                "without one, and it gets that of the model."
            )
    if _is_new(normalizer):
        _check_shapes(normalizer, statistics)
        _give(normalizer, statistics)
    elif not _equal(statistics_of(normalizer), statistics):
        raise ValueError(
            "`env` is in a VecNormalize with other statistics than those that the model was saved with: pass `env` without "
            "one, or in a new one, and it gets those of the model."
        )
    return env


def check_same_statistics(training: VecNormalize | None, here: VecNormalize | None) -> None:
    """
    Check that observations are normalised as in the training of a model.

    :param training: The VecNormalize of training, if any
    :param here: The VecNormalize to play in, if any
    :raises ValueError: When the VecNormalize to play in has other statistics of observations
    """
    if training is None or here is None or training is here or not (training.norm_obs and here.norm_obs):
        return
    of_training, of_here = statistics_of(training), statistics_of(here)
    wanted, found = ((of["settings"]["clip_obs"], of["settings"]["epsilon"]) for of in (of_training, of_here))
    if wanted != found:
        raise ValueError(f"`env` must be in a VecNormalize with the clip_obs and epsilon of training, {wanted}, got {found}.")
    if _flat(of_training["obs_rms"]) != _flat(of_here["obs_rms"]):
        state = "has seen nothing yet" if _is_new(here) else "has others"
        raise ValueError(
            f"`env` must be in a VecNormalize with the statistics of training, but its VecNormalize {state}: pass the "
            "environment of the model, the one of `load(path, env=...)`, or call SB3's `sync_envs_normalization` before."
        )


def _is_new(normalizer: VecNormalize) -> bool:
    observations: Any = normalizer.obs_rms if normalizer.norm_obs else {}
    parts = observations.values() if isinstance(observations, dict) else [observations]
    return all(part.count == _NEW for part in (*parts, normalizer.ret_rms))


def _parts(normalizer: VecNormalize, statistics: Statistics) -> list[tuple[RunningMeanStd, Mapping[str, Any]]]:
    pairs = [(normalizer.ret_rms, statistics["ret_rms"])]
    if not normalizer.norm_obs:
        return pairs
    observations: Any = normalizer.obs_rms
    if isinstance(observations, dict):
        return [*pairs, *((part, statistics["obs_rms"][key]) for key, part in observations.items())]
    return [*pairs, (observations, statistics["obs_rms"])]


def _check_shapes(normalizer: VecNormalize, statistics: Statistics) -> None:
    for part, moments in _parts(normalizer, statistics):
        if part.mean.shape != moments["mean"].shape:
            raise ValueError(
                f"`env` has observations of shape {part.mean.shape} where the model was trained with a VecNormalize of shape "
                f"{moments['mean'].shape}: pass it in the wrappers of training, VecNormalize below those that stack or move."
            )


def _give(normalizer: VecNormalize, statistics: Statistics) -> None:
    for part, moments in _parts(normalizer, statistics):
        part.mean, part.var, part.count = moments["mean"].copy(), moments["var"].copy(), moments["count"]


def _equal(one: Statistics, other: Statistics) -> bool:
    return _flat(one["ret_rms"]) == _flat(other["ret_rms"]) and _flat(one["obs_rms"]) == _flat(other["obs_rms"])


def _flat(moments: Any) -> Any:
    if isinstance(moments, Mapping):
        return {key: _flat(value) for key, value in moments.items()}
    return moments.tolist() if isinstance(moments, np.ndarray) else moments


def saved_normalizer(statistics: Statistics, observation_space: spaces.Space, action_space: spaces.Space) -> VecNormalize:
    """
    Make a VecNormalize without workers, for a model that is loaded without an environment.

    It normalises observations, and holds the statistics for a later environment.

    :param statistics: The statistics of the model
    :param observation_space: The observation space of the model
    :param action_space: The action space of the model
    :return: The VecNormalize
    """
    shapes = {name: moments["mean"].shape for name, moments in _named(statistics["obs_rms"]).items()}
    boxes = {name: spaces.Box(-np.inf, np.inf, shape) for name, shape in shapes.items()}
    space: Any = observation_space
    if boxes:
        space = boxes[""] if "" in boxes else spaces.Dict({**observation_space.spaces, **boxes})  # type: ignore[attr-defined]
    normalizer = VecNormalize(_NoWorkers(space, action_space), **statistics["settings"])
    _give(normalizer, statistics)
    return normalizer


def _named(moments: Any) -> dict[str, Any]:
    if moments is None:
        return {}
    return {"": moments} if "mean" in moments and isinstance(moments["mean"], np.ndarray) else dict(moments)


class _NoWorkers(VecEnv):
    """The empty VecEnv inside a VecNormalize without workers."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        super().__init__(0, observation_space, action_space)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None]  # the render mode

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        pass

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return []

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return []

    def reset(self) -> Any:
        raise ValueError("`env` is missing: this VecNormalize only has statistics.")

    def step_async(self, actions: np.ndarray) -> None:
        self.reset()

    def step_wait(self) -> Any:
        return self.reset()

    def close(self) -> None:
        pass

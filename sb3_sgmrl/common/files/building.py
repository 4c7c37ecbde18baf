"""Check the contents of a model file before building the model, so that it is built completely or not at all."""

from __future__ import annotations

import inspect
import math
import pathlib
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from sb3_sgmrl.gradient.score_weight import SignalWeight, SignalWeights
from sb3_sgmrl.score_terms.control_variates import VariateScaling
from sb3_sgmrl.score_terms.names import ScoreMemory
from sb3_sgmrl.util.archive import BadFileError

# derived from other attributes by `_setup_model`
DERIVED = ("lr_schedule",)
# non-negative integers: counters, and the entropy that starts the random streams
_COUNTS = (
    *("num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_n_updates", "_iteration", "_entropy", "_episode_num"),
    *("_stats_window_size", "n_envs"),
)
_ALWAYS = ("observation_space", "action_space", "policy_class", "policy_kwargs", "num_timesteps", "_iteration", "_entropy")
# how much larger than its saved parameters a network may become before building stops
_MOST_BYTES_MORE, _MOST_PARAMETERS_MORE = 32 * 2**20, 1000


def check_settings(model: BaseAlgorithm, settings: Mapping[str, Any], left_out: list[str], given: Mapping[str, Any]) -> None:
    """
    Check the attributes in a file.

    :param model: A new model of the same algorithm
    :param settings: The attributes in the file
    :param left_out: The attributes that ``save`` was told to exclude
    :param given: The attributes that replace the file's attributes
    :raises BadFileError: When an attribute is missing, unknown or invalid
    """
    for name in settings:
        static = inspect.getattr_static(type(model), name, None)
        if (
            not name.isidentifier()
            or name in model._excluded_save_params()
            or callable(static)
            or isinstance(static, property)
        ):
            raise BadFileError(f"holds `{name}`, which is not an attribute that models save")
    # newer versions may have added other attributes: they keep the defaults of a new model
    for name in _ALWAYS:
        if name not in settings and name not in left_out:
            raise BadFileError(f"lacks `{name}`")
    for name in ("observation_space", "action_space"):
        if not isinstance(settings[name], spaces.Space):
            raise BadFileError(f"holds no space in `{name}`")
    for name in {*_COUNTS} & settings.keys() - given.keys():
        if type(settings[name]) is not int or settings[name] < 0:
            raise BadFileError(f"holds {settings[name]!r} in `{name}`, which must be a whole number that is not negative")
    _check_types(model, settings, {*given, *_COUNTS})
    _check_episodes(settings)
    if not isinstance(settings.get("tensorboard_log"), (str, pathlib.PurePath, type(None))):
        raise BadFileError("holds no folder in `tensorboard_log`")
    seed = settings.get("seed")
    if seed is not None and (type(seed) is not int or seed < 0):
        raise BadFileError(f"holds {seed!r} in `seed`")
    if not isinstance(settings["policy_class"], type) or not isinstance(settings["policy_kwargs"], dict):
        raise BadFileError("holds no policy")


def _check_types(model: BaseAlgorithm, settings: Mapping[str, Any], given: set[str]) -> None:
    """Check the types of attributes that are not arguments; arguments have checks of their own."""
    for name in settings.keys() & vars(model).keys() - given:
        new, saved = getattr(model, name), settings[name]
        is_own = name.startswith("_") or name in ("use_sde", "verbose", "start_time", "action_noise")
        if not is_own or new is None:
            continue
        of_type = (int, float) if type(new) is float else type(new)
        if not isinstance(saved, of_type) or (type(saved) is bool and type(new) is not bool):
            raise BadFileError(f"holds {type(saved).__name__} in `{name}`, which must be {type(new).__name__}")
        if isinstance(saved, float) and not math.isfinite(saved):
            raise BadFileError(f"holds {saved} in `{name}`")
    if settings.get("action_noise") is not None:
        raise BadFileError("holds something in `action_noise`, which no model of this package has")
    if settings.get("use_sde"):
        raise BadFileError("holds true in `use_sde`, which no model of this package has")


def _check_episodes(settings: Mapping[str, Any]) -> None:
    """Check the episode buffers, from which the log computes its means."""
    for name in ("ep_info_buffer", "ep_success_buffer"):
        buffer = settings.get(name)
        if buffer is None:
            continue
        if not isinstance(buffer, deque) or buffer.maxlen is None:
            raise BadFileError(f"holds no buffer in `{name}`")
        if name == "ep_info_buffer" and not all(isinstance(info, dict) and {"r", "l"} <= info.keys() for info in buffer):
            raise BadFileError(f"holds no episodes in `{name}`")


# ---------------------------------------------------------------- parameters


def check_parameters(model: BaseAlgorithm, parameters: Mapping[str, Mapping[str, Any]]) -> None:
    """
    Check that the parameters in a file fit the model.

    :param model: The model, built from the settings of the file, with new parameters
    :param parameters: The state dictionaries by name
    :raises BadFileError: When the parameters do not fit the model
    """
    expected = model._get_torch_save_params()[0]
    if missing := [name for name in expected if name not in parameters]:
        raise BadFileError(f"lacks the parameters of {', '.join(missing)}")
    if additional := [name for name in parameters if name not in expected]:
        raise BadFileError(f"holds parameters of {', '.join(additional)}, which such a model has not")
    for name in expected:
        part: Any = recursive_getattr(model, name)
        if isinstance(part, th.optim.Optimizer):
            _check_optimizer(name, part, parameters[name])
        else:
            _check_module(name, part, parameters[name])


def _check_module(name: str, module: nn.Module, state: Mapping[str, Any]) -> None:
    expected = module.state_dict()
    if missing := [key for key in expected if key not in state]:
        raise BadFileError(f"lacks {_some(missing)} of {name}")
    if additional := [key for key in state if key not in expected]:
        raise BadFileError(f"holds {_some(additional)} in {name}, which its network has not")
    for key, value in expected.items():
        _check_tensor(f"`{key}` of {name}", state[key], value.dtype, [value.shape])


def _check_tensor(name: str, found: Any, dtype: th.dtype, shapes: list[Any]) -> None:
    if not isinstance(found, th.Tensor):
        raise BadFileError(f"holds no tensor in {name}")
    if found.dtype != dtype:
        raise BadFileError(f"holds {found.dtype} in {name}, which must be {dtype}")
    if tuple(found.shape) not in [tuple(shape) for shape in shapes]:
        wanted = " or ".join(str(tuple(shape)) for shape in shapes)
        raise BadFileError(f"holds shape {tuple(found.shape)} in {name}, which must be {wanted}")
    if not th.isfinite(found).all():
        raise BadFileError(f"holds NaN or infinite numbers in {name}")


def _check_optimizer(name: str, optimizer: th.optim.Optimizer, state: Mapping[str, Any]) -> None:
    fresh = optimizer.state_dict()
    if state.keys() != fresh.keys() or not isinstance(state["state"], dict) or not isinstance(state["param_groups"], list):
        raise BadFileError(f"holds no state of an optimiser in {name}")
    if len(state["param_groups"]) != len(fresh["param_groups"]):
        raise BadFileError(f"holds {len(state['param_groups'])} groups of parameters in {name}")
    for found, wanted in zip(state["param_groups"], fresh["param_groups"], strict=True):
        _check_group(name, found, wanted, isinstance(optimizer, th.optim.AdamW))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    known = _state_of_a_step(optimizer)
    for index, values in state["state"].items():
        if type(index) is not int or not 0 <= index < len(parameters) or not isinstance(values, dict):
            raise BadFileError(f"holds {index!r} in {name}, which has {len(parameters)} parameters")
        if known is not None and values.keys() != known.keys():
            raise BadFileError(
                f"holds {', '.join(map(str, values))} for parameter {index} in {name} instead of {', '.join(known)}"
            )
        for key, value in values.items():
            where = f"`{key}` of parameter {index} in {name}"
            if isinstance(value, th.Tensor):
                dtype = value.dtype if value.dtype.is_floating_point else parameters[index].dtype
                shapes = [(), parameters[index].shape] if known is not None else [value.shape]
                _check_tensor(where, value, dtype, shapes)
            if known is not None and isinstance(known[key], th.Tensor) != isinstance(value, th.Tensor):
                raise BadFileError(
                    f"holds no tensor in {where}" if isinstance(known[key], th.Tensor) else f"holds a tensor in {where}"
                )
            if type(value) is float and not math.isfinite(value):
                raise BadFileError(f"holds {value} in {where}")


# PyTorch before 2.7 does not name this setting of Adam and AdamW.
_UNNAMED = "decoupled_weight_decay"


def _check_group(name: str, found: Any, wanted: Mapping[str, Any], is_decoupled: bool) -> None:
    of_one = found.keys() ^ wanted.keys() if isinstance(found, dict) else {name}
    known = not of_one - {"initial_lr", _UNNAMED}
    if not known or (_UNNAMED in of_one and {**found, **wanted}[_UNNAMED] is not is_decoupled):
        raise BadFileError(f"holds other settings in {name} than its optimiser has")
    if found["params"] != wanted["params"]:
        raise BadFileError(f"holds other parameters in {name} than its optimiser has")
    for key, value in wanted.items():
        if key in of_one:
            continue
        is_number = type(value) in (int, float)
        if type(found[key]) is not type(value) and not (is_number and type(found[key]) in (int, float)) and value is not None:
            raise BadFileError(f"holds {found[key]!r} in `{key}` of {name}")
        if is_number and not math.isfinite(found[key]):
            raise BadFileError(f"holds {found[key]!r} in `{key}` of {name}")


def _state_of_a_step(optimizer: th.optim.Optimizer) -> dict[str, Any] | None:
    """Return the optimiser's state for one parameter after one step, or None if a trial cannot determine it."""
    parameter = nn.Parameter(th.zeros(2, 3))
    settings = {key: value for key, value in optimizer.param_groups[0].items() if key not in ("params", "initial_lr")}
    try:
        trial: Any = type(optimizer)([parameter], **{k: v for k, v in settings.items() if k in _arguments(optimizer)})
        parameter.grad = th.ones(2, 3)
        trial.step()
        state = dict(trial.state[parameter])
    except Exception:  # the user's own optimiser may raise anything
        return None
    shapes = {tuple(value.shape) for value in state.values() if isinstance(value, th.Tensor)}
    return state if shapes <= {(), (2, 3)} else None


def _arguments(optimizer: th.optim.Optimizer) -> set[str]:
    return {*inspect.signature(type(optimizer)).parameters}


def _some(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def check_learned(settings: Mapping[str, Any], parameters: Mapping[str, th.Tensor]) -> None:
    """
    Check the state that an algorithm learns besides its parameters. The reader has already checked the types.

    :param settings: The attributes in the file
    :param parameters: The adapted parameters of the model by name
    :raises BadFileError: When the state does not fit these parameters
    """
    for name, learned in settings.items():
        if isinstance(learned, SignalWeights):
            is_right = all(_is_weight(weight, parameters) for weight in learned._weights.values())
        elif isinstance(learned, ScoreMemory):
            regression, scaling, scale = learned.task_regression, learned.scaling, learned.outer_scale
            features = regression._features
            is_right = (
                len(features) == len(regression._targets) <= regression.memory
                and len({vector.shape for vector in features}) <= 1
                and all(vector.ndim == 1 and vector.dtype == np.float64 for vector in features)
                and 0 < scaling.decay < 1
                and scaling._sums.shape == VariateScaling()._sums.shape
                and 0 < scale.decay < 1
                and scale._sum >= 0
                and scale._weight >= 0
            )
        else:
            continue
        if not is_right:
            raise BadFileError(f"holds a `{name}` of another model")


def _is_weight(weight: SignalWeight, parameters: Mapping[str, th.Tensor]) -> bool:
    sums = (weight._n, weight._square, weight._nonzero_square, weight._nonzero)
    return (0 < weight.decay < 1 and min(sums) >= 0) and all(
        name in parameters and mean.shape == parameters[name].shape and mean.dtype == parameters[name].dtype
        for name, mean in weight._mean.items()
    )


@contextmanager
def not_larger_than(parameters: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """
    Stop building a network as soon as it is much larger than its saved parameters.

    Use it in a ``with`` statement around the code that builds the network.

    :param parameters: The state dictionaries by name
    :raises BadFileError: When the network is much larger than its parameters
    """
    tensors = [value for state in parameters.values() for value in state.values() if isinstance(value, th.Tensor)]
    most = 4 * sum(value.nbytes for value in tensors) + _MOST_BYTES_MORE
    n_most = 4 * len(tensors) + _MOST_PARAMETERS_MORE
    thread, n_bytes, n = threading.get_ident(), 0, 0

    def count(module: nn.Module, name: str, parameter: Any) -> None:
        nonlocal n_bytes, n
        if threading.get_ident() != thread or parameter is None:
            return
        n_bytes, n = n_bytes + parameter.nbytes, n + 1
        # the system allocates the memory of a new tensor at its first write, which comes later
        if n_bytes > most or n > n_most:
            raise BadFileError("has settings of a network that is much larger than its parameters")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()

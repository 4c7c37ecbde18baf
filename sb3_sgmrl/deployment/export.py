"""Export adapted policies to ONNX and TorchScript, with the normalisation of observations."""

from __future__ import annotations

import importlib
import inspect
import io
import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sgmrl.deployment.network import DeployedPolicy, predicted, random_inputs
from sb3_sgmrl.policies.calls import unchecked_distributions
from sb3_sgmrl.util.files import replace_when_complete
from sb3_sgmrl.util.validation import check_path

_OPSET = 17
_N_CHECKED = (1, 64)
# of the width of the action space
_TOLERANCE = 1e-4

# from observations by name to actions
Run = Callable[[Mapping[str, np.ndarray]], np.ndarray]


def export_onnx(model: BaseAlgorithm, path: str | pathlib.Path, policy: ActorCriticPolicy | None = None) -> None:
    """
    Export a policy to an ONNX file.

    The network has an input for the observation, or one for each key of a dictionary, and the output ``action``. It
    normalises observations as the model's VecNormalize, and chooses the deterministic action of ``predict``, clipped or
    scaled to the action space. All have a batch axis of any size. Floats are ``float32``, and images have their channels in
    front. The file is compared with ``predict`` on random observations before it is written.

    :param model: The model, whose VecNormalize is included
    :param path: The file, which ends in ``.onnx``; an existing one is replaced once everything is right
    :param policy: The adapted policy, from ``model.adapt``; the model's own when None
    :raises ValueError: When the policy cannot be traced, or the exported network disagrees with ``predict``
    :raises ImportError: When onnx or onnxruntime is missing, which the extra ``onnx`` installs
    """
    onnxruntime = import_onnx()

    def write(network: DeployedPolicy, inputs: Mapping[str, th.Tensor]) -> tuple[bytes, Run]:
        axes = {name: {0: "batch"} for name in (*inputs, "action")}
        # this exporter needs no further package, and is the only one of torch before 2.5
        which = {"dynamo": False} if "dynamo" in inspect.signature(th.onnx.export).parameters else {}
        file = io.BytesIO()
        th.onnx.export(
            *(network, tuple(inputs.values()), file),  # type: ignore[arg-type]
            input_names=list(inputs),
            output_names=["action"],
            dynamic_axes=axes,
            opset_version=_OPSET,
            **which,  # type: ignore[arg-type]
        )
        session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
        return file.getvalue(), lambda observations: session.run(["action"], dict(observations))[0]

    _export(model, path, policy, ".onnx", write)


def import_onnx() -> Any:
    """
    Import what an export to ONNX needs.

    :return: The module ``onnxruntime``
    :raises ImportError: When onnx or onnxruntime is missing
    """
    try:
        importlib.import_module("onnx")
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ImportError(f"{error}; install the package with its extra [onnx] to export to ONNX.") from error


def export_torchscript(model: BaseAlgorithm, path: str | pathlib.Path, policy: ActorCriticPolicy | None = None) -> None:
    """
    Export a policy to a TorchScript file, for ``torch.jit.load`` in Python or C++.

    The inputs and the output are those of :func:`export_onnx`; a dictionary's keys are inputs in their sorted order.

    :param model: The model, whose VecNormalize is included
    :param path: The file, which ends in ``.pt``; an existing one is replaced once everything is right
    :param policy: The adapted policy, from ``model.adapt``; the model's own when None
    :raises ValueError: When the policy cannot be traced, or the exported network disagrees with ``predict``
    """

    def write(network: DeployedPolicy, inputs: Mapping[str, th.Tensor]) -> tuple[bytes, Run]:
        file = io.BytesIO()
        th.jit.save(th.jit.trace(network, tuple(inputs.values()), check_trace=False), file)
        loaded = th.jit.load(io.BytesIO(file.getvalue()))
        return file.getvalue(), lambda observations: loaded(*map(th.as_tensor, observations.values())).numpy()

    _export(model, path, policy, ".pt", write)


def _export(model: Any, path: str | pathlib.Path, policy: Any, suffix: str, write: Callable[..., tuple[bytes, Run]]) -> None:
    """Trace a policy, compare the result with ``predict``, and write it."""
    if not isinstance(model, BaseAlgorithm):
        raise ValueError(f"`model` must be a model of this package or of SB3, got {type(model).__name__}.")
    policy = model.policy if policy is None else policy
    if not isinstance(policy, ActorCriticPolicy):
        raise ValueError(f"`policy` must be an ActorCriticPolicy, as `adapt` returns it, got {type(policy).__name__}.")
    for name in ("observation_space", "action_space"):
        if getattr(policy, name) != getattr(model, name):
            raise ValueError(f"`policy` must have the {name} of `model`, {getattr(model, name)}.")
    check_path("path", path)
    if pathlib.Path(path).suffix != suffix:
        raise ValueError(f"`path` must end in {suffix}, got {path}.")
    normalizer = model.get_vec_normalize_env()
    network = DeployedPolicy(policy, normalizer)
    # with two rows, because a size of one would broadcast
    inputs = {name: th.as_tensor(values) for name, values in random_inputs(policy, normalizer, 2, seed=1).items()}
    try:
        with th.no_grad(), unchecked_distributions(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", th.jit.TracerWarning)
            content, run = write(network, inputs)
            _compare(run, policy, normalizer)
    except _Disagreement:
        raise
    except Exception as error:  # a user's network, and two exporters, raise errors of many kinds
        cause = error.__cause__ if isinstance(error.__cause__, th.jit.TracerWarning) else error
        line = (str(cause).strip() or type(cause).__name__).splitlines()[0].split(". ")[0].rstrip(".")
        raise ValueError(f"`policy` cannot be traced for an export to {suffix}: {line}.") from error
    with replace_when_complete(path) as file:
        file.write(content)


class _Disagreement(ValueError):
    """The exported network acts differently."""


def _compare(run: Run, policy: ActorCriticPolicy, normalizer: VecNormalize | None) -> None:
    space = policy.action_space
    for n in _N_CHECKED:
        inputs = random_inputs(policy, normalizer, n, seed=n)
        wanted, found = predicted(policy, normalizer, inputs), run(inputs)
        if found.shape != wanted.shape:
            raise _Disagreement(
                f"The exported `policy` disagrees with predict on the actions' shape: {found.shape}, not {wanted.shape}."
            )
        if isinstance(space, spaces.Box):
            wrong = np.abs(found - wanted) / (space.high - space.low)
            differ = ~(wrong <= _TOLERANCE).reshape(n, -1).all(1)
        else:  # rounding may decide between two actions that are about equally likely
            differ = (found != wanted).reshape(n, -1).any(1)
            differ[differ] = _likelihoods(policy, normalizer, inputs, differ, found, wanted)
        if differ.any():
            raise _Disagreement(
                f"The exported `policy` disagrees with predict on {differ.mean():.0%} of random observations: a branch in it "
                "may depend on values, which a trace cannot hold."
            )


def _likelihoods(
    policy: ActorCriticPolicy,
    normalizer: VecNormalize | None,
    inputs: Mapping[str, np.ndarray],
    rows: np.ndarray,
    found: np.ndarray,
    wanted: np.ndarray,
) -> np.ndarray:
    """Whether the exported network's actions are less likely than those of predict."""
    seen: Any = {name: values[rows] for name, values in inputs.items()}
    if not isinstance(policy.observation_space, spaces.Dict):
        (seen,) = seen.values()
    if normalizer is not None:
        seen = normalizer.normalize_obs(seen)
    distribution = policy.get_distribution(policy.obs_to_tensor(seen)[0])
    one, other = (distribution.log_prob(th.as_tensor(x[rows], device=policy.device)) for x in (found, wanted))
    return (one < other - _TOLERANCE).cpu().numpy()

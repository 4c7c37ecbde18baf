"""Probing of a policy, which may have any network and any distribution, for the calls that it supports."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_sgmrl.data.batch import Observations
from sb3_sgmrl.policies.actions import draw_noise
from sb3_sgmrl.policies.calls import PolicyCall, by_key, seeded, unchecked_distributions
from sb3_sgmrl.policies.copies import detached_copy
from sb3_sgmrl.policies.distributions import find_kind

# the numbers of observations and of parameter sets in a probe
_N_ROWS, _N_SETS = 4, 2

Parameters = dict[str, th.Tensor]
Arrays = tuple[th.Tensor, ...]


def probe_observations(space: spaces.Space, n: int, generator: np.random.Generator) -> Observations:
    """
    Draw observations inside a space, small where the space has wide bounds or none.

    :param space: The observation space
    :param n: The number of observations
    :param generator: The source of randomness
    :return: An array of shape (n, \\*obs_shape), or such an array per key
    """
    if isinstance(space, spaces.Dict):
        return {key: probe_observations(part, n, generator) for key, part in space.spaces.items()}  # type: ignore[misc]
    shape = (n, *(space.shape or ()))
    if isinstance(space, spaces.Box):
        whole = space.dtype.kind in "iu"
        values = generator.integers(0, 256, shape) if whole else generator.standard_normal(shape)
        # away from the bounds, where a logarithm may be infinite
        values = np.where(values < space.low, space.low + np.abs(values), values)
        values = np.where(values > space.high, space.high - np.abs(values), values)
        return np.clip(values, space.low, space.high).astype(space.dtype)
    n_values: Any = 2 if isinstance(space, spaces.MultiBinary) else getattr(space, "nvec", getattr(space, "n", None))
    return generator.integers(0, n_values, shape).astype(space.dtype)


class Probe:
    """
    A probe of a policy at parameters near its own. It uses a copy, and restores torch's generator afterwards.

    :param policy: The policy
    :param call: The function that evaluates :class:`PolicyCall` at given parameters: (parameters, method, observations,
        argument)
    :param to_tensor: The conversion of observations to tensors
    :raises ValueError: When the policy is not a function of one observation and its parameters, or no trainable parameter
        shapes its actions
    """

    def __init__(self, policy: ActorCriticPolicy, call: Callable[..., Any], to_tensor: Callable[[Observations], Any]) -> None:
        self._space, self._device, self._call = policy.action_space, policy.device, call
        self._extractor = type(policy.features_extractor).__name__
        generator = np.random.default_rng(0)
        self._raw, others = (probe_observations(policy.observation_space, _N_ROWS, generator) for _ in range(2))
        self._observations = to_tensor(self._raw)
        self._original = {name: p for name, p in policy.named_parameters() if p.requires_grad}
        moved = _moved_copy(policy)
        self._parameters: Parameters = {name: p for name, p in moved.named_parameters() if p.requires_grad}
        self._draw(PolicyCall(moved))
        self._check_function()
        self._check_rows(to_tensor(others))
        self.adapted_names = self._find_adapted()
        self.not_twice = self._try_second_derivatives()

    def _draw(self, direct: PolicyCall) -> None:
        """Draw actions of the policy, and find the kind of their distribution."""
        with th.no_grad(), _named_errors():
            distribution = direct.policy.get_distribution(self._observations)
            self.kind = find_kind(distribution, self._space)
            self._arrays: Arrays = () if self.kind is None else self.kind.arrays(distribution.distribution)
            drawn, again = self._sample(distribution), self._sample(distribution)
        name, shape = type(distribution).__name__, self._space.shape or ()
        if drawn.size != _N_ROWS * int(np.prod(shape)):
            raise ValueError(f"`policy` must draw actions of shape {shape}, but {name} draws {drawn.shape[1:]}.")
        if not np.array_equal(drawn, again):
            raise ValueError(f"`policy` must draw actions with torch's generator, but {name}.sample() uses another one.")
        self._actions = th.as_tensor(drawn.reshape(_N_ROWS, *shape).astype(self._space.dtype), device=self._device)
        with _named_errors():
            self._direct = direct("log_prob", self._observations, self._actions)
        if self._direct.shape != (_N_ROWS,):
            raise ValueError(
                f"`policy` must have a distribution whose log_prob is one number for an action, but that of {name} has shape "
                f"{tuple(self._direct.shape)} for {_N_ROWS} actions."
            )

    def _sample(self, distribution: Distribution) -> np.ndarray:
        if self.kind is None:
            with seeded(0, self._device):
                return distribution.sample().cpu().numpy()
        noise = draw_noise(self._space, _N_ROWS, np.random.default_rng(0))
        return self.kind.draw(self._space, tuple(array.cpu().numpy() for array in self._arrays), noise)

    def _log_prob(self, observations: Any) -> th.Tensor:
        with th.no_grad():
            return self._call(self._parameters, "log_prob", observations, self._actions)

    def _check_function(self) -> None:
        with _named_errors():
            once, again = self._log_prob(self._observations), self._log_prob(self._observations)
        if not _same(once, again):
            raise ValueError(
                f"`policy` must treat an observation alike in every call, but with {self._extractor} it does not, because "
                "it remembers earlier calls or is random."
            )
        with _named_errors():
            functional = self._call(self._parameters, "log_prob", self._observations, self._actions)
            # a function made from a module of the policy may still read the parameters of the original module
            original = {f"original {name}": p for name, p in self._original.items()}
            self._acting = _reached(functional, {**self._parameters, **original})
            reached = _reached(self._direct, self._parameters)
        if self._acting != reached or not _close(functional, self._direct):
            raise ValueError(
                f"`policy` with {self._extractor} cannot be evaluated at other parameters than its own: each module must read "
                "its own parameters in every call."
            )

    def _check_rows(self, others: Any) -> None:
        usual = self._log_prob(self._observations)
        for i in range(_N_ROWS):
            if not _same(self._log_prob(_with_row(others, i, self._observations))[i], usual[i]):
                raise ValueError(
                    f"`policy` must treat each observation by itself, but with {self._extractor} its actions depend on the "
                    "other observations of a batch."
                )

    def _find_adapted(self) -> tuple[str, ...]:
        """
        Find the trainable parameters that shape actions. A parameter that the probe does not reach may belong to a branch
        for other observations.
        """
        if not self._acting:
            raise ValueError("`policy` has no trainable parameter that shapes its actions: set requires_grad=True for one.")
        with _named_errors():
            valuing = _reached(self._call(self._parameters, "values", self._observations), self._parameters)
        self.shared_with_critic = tuple(name for name in self._parameters if name in self._acting and name in valuing)
        return tuple(name for name in self._parameters if name in self._acting or name not in valuing)

    def _try_second_derivatives(self) -> str | None:
        """Return torch's message when there are no second derivatives, else None."""
        leaves = [self._parameters[name] for name in self.adapted_names]
        log_prob = self._call(self._parameters, "log_prob", self._observations, self._actions)
        try:
            first = th.autograd.grad(log_prob.sum(), leaves, create_graph=True, allow_unused=True)
            total = th.stack([g.sum() for g in first if g is not None]).sum()
            if total.requires_grad:  # grad would skip functions marked as once differentiable
                total.backward()
        except RuntimeError as error:
            return _first_line(error)
        return None

    def agrees(self, arrays: Callable[[Parameters, Observations], tuple[np.ndarray, ...]]) -> bool:
        """
        Compare another computation of the distributions with the policy's own.

        :param arrays: The function to compare, of parameters and observations with a leading axis of one parameter set
        :return: Whether it computes the same distributions as the policy
        """
        parameters = {name: value.detach()[None] for name, value in self._parameters.items()}
        if self.kind is None:
            return False
        found = arrays(parameters, by_key(lambda x: x[None], self._raw))
        if isinstance(self._space, spaces.Discrete):  # defined up to a constant
            found = tuple(th.log_softmax(th.tensor(part), -1).numpy() for part in found)
        return all(_close(th.tensor(a[0]), b.cpu()) for a, b in zip(found, self._arrays, strict=True))

    def vectorizes(self, arrays: Callable[[Parameters, Any], Arrays]) -> bool:
        """
        Try to compute the distributions of many parameter sets in one call.

        :param arrays: The function that describes the distributions of many parameter sets in one call
        :return: Whether its result is right and needs no loop over the sets
        """
        if self.kind is None:
            return False
        parameters = {name: th.stack([value.detach()] * _N_SETS) for name, value in self._parameters.items()}
        observations = by_key(lambda x: th.stack([x] * _N_SETS), self._observations)
        try:
            # torch warns when it loops over the sets itself, which is slower
            with th.no_grad(), unchecked_distributions(), warnings.catch_warnings():
                warnings.simplefilter("error")
                found = arrays(parameters, observations)
        except Exception:  # torch.func raises many kinds of errors, and so do modules that read values
            return False
        return all(_close(a[-1], b) for a, b in zip(found, self._arrays, strict=True))


@contextmanager
def _named_errors() -> Iterator[None]:
    """Turn errors of a user's network or distribution, of any kind, into one sentence. Torch's own check is on meanwhile."""
    checked = th.distributions.Distribution._validate_args
    th.distributions.Distribution.set_default_validate_args(True)
    try:
        yield
    except Exception as error:
        raise ValueError(f"`policy` fails on an observation of its space: {_first_line(error)}") from error
    finally:
        th.distributions.Distribution.set_default_validate_args(checked)


def _moved_copy(policy: ActorCriticPolicy) -> ActorCriticPolicy:
    """Copy a policy and move its parameters, so that a function that ignores given parameters is noticed."""
    moved = detached_copy(policy)
    moved.set_training_mode(False)
    generator = th.Generator().manual_seed(0)
    with th.no_grad():
        for parameter in moved.parameters():
            if parameter.requires_grad:
                factor, shift = (th.randn(parameter.shape, generator=generator).to(parameter) for _ in range(2))
                parameter.mul_(1 + 0.05 * factor).add_(1e-3 * shift)
    return moved


def _with_row(observations: Any, i: int, of: Any) -> Any:
    if isinstance(observations, dict):
        return {key: _with_row(value, i, of[key]) for key, value in observations.items()}
    return th.cat([observations[:i], of[i : i + 1], observations[i + 1 :]])


def _reached(output: th.Tensor, parameters: Parameters) -> set[str]:
    if not output.requires_grad:
        return set()
    gradients = th.autograd.grad(output.sum(), list(parameters.values()), allow_unused=True)
    return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def _same(one: th.Tensor, other: th.Tensor) -> bool:
    """Compare up to the rounding of a computation in the same shape."""
    rounding = 100 * th.finfo(one.dtype).eps
    return th.allclose(one, other, rtol=rounding, atol=rounding, equal_nan=True)


def _close(one: th.Tensor, other: th.Tensor) -> bool:
    """Compare up to the rounding of different computations."""
    return th.allclose(one.detach(), other.detach().to(one.dtype), rtol=1e-3, atol=1e-3, equal_nan=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

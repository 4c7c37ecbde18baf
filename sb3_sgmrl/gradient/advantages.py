"""From rewards to the weights of the log-likelihoods: advantages, normalisation and reduction."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

import numpy as np
from gymnasium import spaces

from sb3_sgmrl.data.batch import PhaseBatch
from sb3_sgmrl.gradient.baselines import BASELINES, Baseline, BaselineName
from sb3_sgmrl.gradient.discounting import discounted_sum
from sb3_sgmrl.util.validation import check_choice

DiscountStart = Literal["step", "episode"]
TimeReduction = Literal["mean", "sum"]
# a standard deviation of advantages that is none
_NO_DEVIATION = 1e-8


@dataclass(frozen=True)
class AdvantageSettings:
    """
    How rewards become the weights of the log-likelihoods.

    :param gamma: discount factor
    :param gae_lambda: λ of generalised advantage estimation; 1 gives reward-to-go minus baseline
    :param baseline: ``linear`` (features of observation and time, fitted on the episodes it then predicts; Duan et al.
        2016), ``critic`` (values handed in) or ``none``
    :param normalize: subtract the mean and divide by the standard deviation over all steps of the task
    :param discount_from: ``step``: the reward-to-go of step h is discounted from h, as is customary; ``episode``: from the
        start of the episode, R^h = Σ_{t≥h} γ^t r_t as in eq. (4) of the paper
    :param time_reduction: ``mean``: the surrogate is a mean over all steps; ``sum``: a sum over the steps of an episode and a
        mean over episodes, as in eq. (3)
    """

    gamma: float = 0.99
    gae_lambda: float = 0.997
    baseline: BaselineName = "linear"
    normalize: bool = True
    discount_from: DiscountStart = "step"
    time_reduction: TimeReduction = "mean"

    def __post_init__(self) -> None:
        for name in ("gamma", "gae_lambda"):
            if not (isinstance(getattr(self, name), Real) and 0 <= getattr(self, name) <= 1):
                raise ValueError(f"`{name}` must lie in [0, 1], got {getattr(self, name)!r}.")
        choices = {"baseline": BaselineName, "discount_from": DiscountStart, "time_reduction": TimeReduction}
        for name, choice in choices.items():
            check_choice(name, getattr(self, name), get_args(choice))

    @property
    def predictor(self) -> Baseline:
        """What ``baseline`` names."""
        return BASELINES[self.baseline]

    def discounts(self, n_steps: int) -> np.ndarray:
        """
        :param n_steps: The length of an episode
        :return: d_t, which multiplies the advantage of step t: γ^t, or 1 with ``discount_from="step"``; shape (n_steps,)
        """
        return self.gamma ** np.arange(n_steps) if self.discount_from == "episode" else np.ones(n_steps)

    def divisor(self, mask: np.ndarray) -> np.ndarray:
        """
        :param mask: The steps that count, shape (..., n_episodes, n_steps)
        :return: What the sum over all steps is divided by: their number, or that of episodes with ``time_reduction="sum"``;
            shape (...)
        """
        return mask.any(-1).sum(-1) if self.time_reduction == "sum" else mask.sum((-2, -1))

    def shares(self, mask: np.ndarray) -> np.ndarray:
        """
        :param mask: The steps that count, shape (n_episodes, n_steps)
        :return: What each step adds to :meth:`divisor`, same shape; an episode that counts as one is added at its first step
        """
        return mask * (np.arange(mask.shape[-1]) == 0) if self.time_reduction == "sum" else mask


@dataclass(frozen=True)
class WeightedEpisodes:
    """
    The weights w of a surrogate Σ w log π: normalised advantages times the reduction.

    :param weights: shape (n_episodes, n_steps), zero where nothing was played
    :param scale: what a return is divided by in the surrogate (reduction × standard deviation); ∇ Σ w log π estimates
        ∇J / scale. Infinite where advantages are equal, as of a reward that no episode met
    """

    weights: np.ndarray
    scale: float


# features of as many tasks at a time as fit into this many numbers, which should stay in the processor's cache
_CHUNK = 2**18


def td_errors(rewards: np.ndarray, values: np.ndarray, settings: AdvantageSettings) -> np.ndarray:
    """
    δ_t = r_t + γ V_{t+1} − V_t. The value after the last step of an episode is zero, also when a time limit ended it: the
    objective is the return within the horizon.

    :param rewards: shape (..., n_steps), zero after the end
    :param values: shape (..., n_steps), zero after the end
    :param settings: discount factor
    :return: shape (..., n_steps)
    """
    deltas = rewards - values
    deltas[..., :-1] += settings.gamma * values[..., 1:]
    return deltas


def gae(rewards: np.ndarray, values: np.ndarray, settings: AdvantageSettings) -> np.ndarray:
    """
    Generalised advantage estimates of complete episodes, Σ_{k≥t} (γλ)^{k−t} δ_k with the :func:`td_errors` δ.

    :param rewards: shape (..., n_steps), zero after the end
    :param values: shape (..., n_steps), zero after the end
    :param settings: discount factor and λ
    :return: shape (..., n_steps)
    """
    return discounted_sum(td_errors(rewards, values, settings), settings.gamma * settings.gae_lambda)


def finish(raw: np.ndarray, mask: np.ndarray, settings: AdvantageSettings) -> tuple[np.ndarray, np.ndarray]:
    """
    Discounting from the start, normalisation and reduction: from raw advantages to the weights of the log-likelihoods.

    :param raw: advantages, shape (..., n_episodes, n_steps)
    :param mask: which of them count, same shape
    :param settings: what is asked for
    :return: weights (..., n_episodes, n_steps) and scale (...), see :class:`WeightedEpisodes`
    """
    raw = raw * settings.discounts(raw.shape[-1])
    n_samples = mask.sum((-2, -1))
    scale = settings.divisor(mask).astype(np.float64)
    unit = scale / mask.any(-1).sum(-1)
    raw = raw * mask
    if settings.normalize:
        centred = raw - (raw.sum((-2, -1)) / n_samples)[..., None, None]
        centred *= mask
        deviation = np.sqrt((centred**2).sum((-2, -1)) / n_samples)
        std = deviation + _NO_DEVIATION
        return centred / (std * scale)[..., None, None], np.where(deviation < _NO_DEVIATION, np.inf, unit * std)
    return raw / scale[..., None, None], unit


def episode_weights(
    phase: PhaseBatch, settings: AdvantageSettings, space: spaces.Space, values: np.ndarray | None = None
) -> list[WeightedEpisodes]:
    """
    Weights of the log-likelihoods in the surrogate Σ w log π of each task.

    :param phase: the episodes of every task
    :param settings: how rewards become weights
    :param space: observation space, for the linear baseline
    :param values: predictions of the critic, shape (n_tasks, n_episodes, n_steps); only read with ``baseline="critic"``
    :return: weights and scale per task
    """
    n_features = settings.predictor.n_features(space)
    size = max(1, _CHUNK // (n_features * int(np.prod(phase.mask.shape[1:]))))
    weighted: list[WeightedEpisodes] = []
    for start in range(0, phase.n_tasks, size):
        chunk = phase.tasks(slice(start, start + size))
        of_chunk = None if values is None else values[start : start + size]
        predictions = settings.predictor.predict(chunk, settings.gamma, space, of_chunk)
        weights, scales = finish(gae(chunk.rewards, predictions, settings), chunk.mask, settings)
        weighted += [WeightedEpisodes(w, float(scale)) for w, scale in zip(weights, scales, strict=True)]
    return weighted

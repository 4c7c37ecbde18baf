"""Turn rewards into the weights of the log-likelihoods: advantages, normalisation and reduction."""

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
# A standard deviation of advantages below this value counts as zero.
_NO_DEVIATION = 1e-8


@dataclass(frozen=True)
class AdvantageSettings:
    """
    Settings that turn rewards into the weights of the log-likelihoods.

    :param gamma: The discount factor
    :param gae_lambda: The λ of generalised advantage estimation; 1 gives reward-to-go minus baseline
    :param baseline: The baseline. ``linear`` regresses on features of observation and time, fitted on the episodes it then
        predicts (Duan et al. 2016). ``critic`` takes values as an argument. ``none`` subtracts nothing
    :param normalize: Whether to subtract the mean and divide by the standard deviation over all steps of the task
    :param discount_from: The step from which rewards are discounted. ``step`` discounts the reward-to-go of step h from h, as
        is customary. ``episode`` discounts from the start of the episode, R^h = Σ_{t≥h} γ^t r_t as in eq. (4) of the paper
    :param time_reduction: The reduction of the surrogate. ``mean`` is a mean over all steps. ``sum`` is a sum over the steps
        of an episode and a mean over episodes, as in eq. (3)
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
        """The baseline that ``baseline`` names."""
        return BASELINES[self.baseline]

    def discounts(self, n_steps: int) -> np.ndarray:
        """
        Compute the factor that multiplies the advantage of each step.

        :param n_steps: The length of an episode
        :return: The factors d_t of the advantages: γ^t, or 1 with ``discount_from="step"``; shape (n_steps,)
        """
        return self.gamma ** np.arange(n_steps) if self.discount_from == "episode" else np.ones(n_steps)

    def divisor(self, mask: np.ndarray) -> np.ndarray:
        """
        Compute the number that divides the sum over all steps.

        :param mask: The steps that count, shape (..., n_episodes, n_steps)
        :return: The number of steps, or of episodes with ``time_reduction="sum"``; shape (...)
        """
        return mask.any(-1).sum(-1) if self.time_reduction == "sum" else mask.sum((-2, -1))

    def shares(self, mask: np.ndarray) -> np.ndarray:
        """
        Compute what each step adds to :meth:`divisor`.

        :param mask: The steps that count, shape (n_episodes, n_steps)
        :return: The contribution of each step, same shape. An episode that counts as one is added at its first step
        """
        return mask * (np.arange(mask.shape[-1]) == 0) if self.time_reduction == "sum" else mask


@dataclass(frozen=True)
class WeightedEpisodes:
    """
    The weights w of a surrogate Σ w log π: normalised advantages times the reduction.

    :param weights: The weights, shape (n_episodes, n_steps), zero where nothing was played
    :param scale: The divisor of a return in the surrogate (reduction × standard deviation). ∇ Σ w log π estimates ∇J / scale.
        It is infinite where advantages are equal, for example when no episode met a reward
    """

    weights: np.ndarray
    scale: float


# The features of as many tasks as fit into this many numbers are computed at once, to stay in the processor's cache.
_CHUNK = 2**18


def td_errors(rewards: np.ndarray, values: np.ndarray, settings: AdvantageSettings) -> np.ndarray:
    """
    Compute the temporal-difference errors δ_t = r_t + γ V_{t+1} − V_t.

    The value after the last step of an episode is zero, also when a time limit ended it. The objective is the return within
    the horizon.

    :param rewards: The rewards, shape (..., n_steps), zero after the end
    :param values: The values V, shape (..., n_steps), zero after the end
    :param settings: The settings, which give the discount factor
    :return: The errors δ, shape (..., n_steps)
    """
    deltas = rewards - values
    deltas[..., :-1] += settings.gamma * values[..., 1:]
    return deltas


def gae(rewards: np.ndarray, values: np.ndarray, settings: AdvantageSettings) -> np.ndarray:
    """
    Compute generalised advantage estimates of complete episodes.

    The estimates are Σ_{k≥t} (γλ)^{k−t} δ_k with the :func:`td_errors` δ.

    :param rewards: The rewards, shape (..., n_steps), zero after the end
    :param values: The values V, shape (..., n_steps), zero after the end
    :param settings: The settings, which give the discount factor and λ
    :return: The advantages, shape (..., n_steps)
    """
    return discounted_sum(td_errors(rewards, values, settings), settings.gamma * settings.gae_lambda)


def finish(raw: np.ndarray, mask: np.ndarray, settings: AdvantageSettings) -> tuple[np.ndarray, np.ndarray]:
    """
    Turn raw advantages into the weights of the log-likelihoods.

    The steps are discounting from the start, normalisation and reduction, as the settings ask for them.

    :param raw: The advantages, shape (..., n_episodes, n_steps)
    :param mask: The steps that count, same shape
    :param settings: The settings of discounting, normalisation and reduction
    :return: The weights (..., n_episodes, n_steps) and the scale (...), see :class:`WeightedEpisodes`
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
    Compute the weights of the log-likelihoods in the surrogate Σ w log π of each task.

    :param phase: The episodes of every task
    :param settings: The settings that turn rewards into weights
    :param space: The observation space, for the linear baseline
    :param values: The predictions of the critic, shape (n_tasks, n_episodes, n_steps); only read with ``baseline="critic"``
    :return: The weights and the scale of each task
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

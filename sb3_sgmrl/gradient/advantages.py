"""Turn rewards into the weights of the log-likelihoods: advantages, normalisation and reduction."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
# Differences below this part of the rewards are rounding. Rewards come in single precision.
ROUNDING = 1e-9


@dataclass(frozen=True)
class AdvantageSettings:
    """
    Settings that turn rewards into the weights of the log-likelihoods.

    :param gamma: The discount factor
    :param gae_lambda: The λ of generalised advantage estimation; 1 gives reward-to-go minus baseline
    :param baseline: The baseline. ``linear`` regresses on features of observation and time, fitted on the episodes it then
        predicts (Duan et al. 2016). ``critic`` takes values as an argument. ``none`` subtracts nothing
    :param normalize: Whether to subtract the mean and divide by the standard deviation over all steps of the task. The mean
        reward is subtracted first, before anything is fitted, see :func:`centred`
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
        It is infinite where advantages are equal or episodes are alike, for example when no episode met a reward
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


def centred(rewards: np.ndarray, mask: np.ndarray, settings: AdvantageSettings, values: np.ndarray | None) -> np.ndarray:
    """
    Subtract the mean reward c of a task, so that no baseline has to predict it.

    The subtracted rewards are c times the :func:`unit_rewards`. The reward-to-go of step t falls by c Σ_{k<n−t} γ^k in every
    episode, where n is the longest length. This is a baseline of time, so the expected gradient stays as it is. Episodes that
    end early keep their value.

    :param rewards: The rewards, shape (..., n_episodes, n_steps), zero where nothing was played
    :param mask: The steps that count, same shape
    :param settings: The settings, which give the discount factor
    :param values: The predictions of a critic, same shape; None without a critic. See :func:`mean_reward`
    :return: The rewards less their mean, same shape
    """
    return rewards - mean_reward(rewards, mask, settings, values)[..., None, None] * unit_rewards(mask, settings.gamma)


def mean_reward(rewards: np.ndarray, mask: np.ndarray, settings: AdvantageSettings, values: np.ndarray | None) -> np.ndarray:
    """
    Compute the c of :func:`centred`.

    :param rewards: The rewards, shape (..., n_episodes, n_steps), zero where nothing was played
    :param mask: The steps that count, same shape
    :param settings: The settings, which give the discount factor
    :param values: The predictions of a critic, same shape. With them c is the mean of the :func:`td_errors`
    :return: The mean over all steps of each task, shape (...)
    """
    left = rewards if values is None else td_errors(rewards, values * mask, settings)
    return (left * mask).sum((-2, -1)) / mask.sum((-2, -1))


def unit_rewards(mask: np.ndarray, gamma: float, longest: np.ndarray | None = None) -> np.ndarray:
    """
    Compute a reward of 1 at every step, for as many steps as the longest episode of the task has.

    An episode that ends earlier gets the rewards of the missing steps at its last step, discounted.

    :param mask: The steps that count, shape (..., n_episodes, n_steps)
    :param gamma: The discount factor
    :param longest: The number of steps that are rewarded, shape (..., n_episodes) or (..., 1); None for the length of the
        longest episode
    :return: The rewards, same shape as ``mask``, zero where nothing was played
    """
    lengths, n_steps = mask.sum(-1), mask.shape[-1]
    longest = lengths.max(-1, keepdims=True) if longest is None else longest
    missing = np.where(lengths > 0, np.maximum(longest - lengths, 0), 0)
    missed = np.cumsum(gamma ** np.arange(n_steps + 1))[missing] - 1
    is_last = mask.copy()
    is_last[..., :-1] &= ~mask[..., 1:]
    return mask * (np.arange(n_steps) < longest[..., None]) + is_last * missed[..., None]


def are_alike(rewards: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """
    Check whether all episodes of a task have the same length and the same reward at each step.

    Then no episode was better than another. Differences of their advantages come from the baseline alone.

    :param rewards: The rewards, shape (..., n_episodes, n_steps), zero where nothing was played
    :param mask: The steps that count, same shape
    :return: Whether the episodes are alike, shape (...); false for a single episode, which has no other to compare with
    """
    if mask.shape[-2] < 2:
        return np.zeros(mask.shape[:-2], dtype=bool)
    return np.asarray(_equal_to(rewards, mask, 0).all(-1))


def alike_without_each(rewards: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """
    Check :func:`are_alike` of all episodes but each in turn.

    :param rewards: The rewards of one task, shape (n_episodes, n_steps), zero where nothing was played
    :param mask: The steps that count, same shape
    :return: Whether the episodes that stay are alike, shape (n_episodes left out,)
    """
    n = len(mask)
    if n < 3:
        return np.zeros(n, dtype=bool)
    to_first, to_second = _equal_to(rewards, mask, 0), _equal_to(rewards, mask, 1)
    without = (~to_first).sum() - ~to_first == 0
    without[0] = to_second[1:].all()
    return without


def _equal_to(rewards: np.ndarray, mask: np.ndarray, index: int) -> np.ndarray:
    """Check which episodes have the length and, up to rounding, the rewards of one of them, shape (..., n_episodes)."""
    largest = np.abs(rewards).max((-2, -1), keepdims=True)
    differs = np.abs(rewards - rewards[..., index, None, :]) > ROUNDING * largest
    return ~(differs | (mask != mask[..., index, None, :])).any(-1)


def finish(
    raw: np.ndarray, mask: np.ndarray, settings: AdvantageSettings, sizes: np.ndarray, alike: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """
    Turn advantages into the weights of the log-likelihoods by normalisation and reduction.

    :param raw: The advantages, discounted from the start where the settings ask for it, shape (..., n_episodes, n_steps)
    :param mask: The steps that count, same shape
    :param settings: The settings of normalisation and reduction
    :param sizes: The root mean square of the rewards, shape (...). A standard deviation that is rounding beside it is zero
    :param alike: Whether the episodes are alike, see :func:`are_alike`, shape (...). Then the weights are zero
    :return: The weights (..., n_episodes, n_steps) and the scale (...), see :class:`WeightedEpisodes`
    """
    n_samples = mask.sum((-2, -1))
    scale = settings.divisor(mask).astype(np.float64)
    unit = scale / mask.any(-1).sum(-1)
    raw = raw * mask
    if settings.normalize:
        raw -= (raw.sum((-2, -1)) / n_samples)[..., None, None]
        raw *= mask
        std = np.sqrt((raw**2).sum((-2, -1)) / n_samples)
        std = np.where((std <= ROUNDING * sizes) | alike, np.inf, std)
        return raw / (std * scale)[..., None, None], unit * std
    return raw / scale[..., None, None], unit


def episode_weights(
    phase: PhaseBatch,
    settings: AdvantageSettings,
    space: spaces.Space,
    values: np.ndarray | None = None,
    own: range | None = None,
) -> list[WeightedEpisodes]:
    """
    Compute the weights of the log-likelihoods in the surrogate Σ w log π of each task.

    :param phase: The episodes of every task
    :param settings: The settings that turn rewards into weights
    :param space: The observation space, for the linear baseline
    :param values: The predictions of the critic, shape (n_tasks, n_episodes, n_steps); only read with ``baseline="critic"``
    :param own: The tasks whose weights are wanted; None for all. Observations of the other tasks are not needed
    :return: The weights and the scale of each task of ``own``
    """
    own = range(phase.n_tasks) if own is None else own
    n_features = settings.predictor.n_features(space)
    size = max(1, _CHUNK // (n_features * int(np.prod(phase.mask.shape[1:]))))
    weighted: list[WeightedEpisodes] = []
    for start in range(0, phase.n_tasks, size):
        wanted = range(max(start, own.start), min(start + size, own.stop))
        if not wanted:
            continue
        # the others in the chunk are computed, too, because rounding depends on the shape of the arrays
        chunk = phase.tasks(slice(start, start + size))
        of_chunk = values[start : start + size] if settings.predictor.needs_critic and values is not None else None
        rewards = chunk.rewards
        if settings.normalize:
            chunk = replace(chunk, rewards=centred(rewards, chunk.mask, settings, of_chunk))
        predictions = settings.predictor.predict(chunk, settings.gamma, space, of_chunk)
        raw = gae(chunk.rewards, predictions, settings) * settings.discounts(rewards.shape[-1])
        sizes = np.sqrt((rewards**2).sum((-2, -1)) / chunk.mask.sum((-2, -1)))
        weights, scales = finish(raw, chunk.mask, settings, sizes, are_alike(rewards, chunk.mask))
        weighted += [WeightedEpisodes(weights[i - start], float(scales[i - start])) for i in wanted]
    return weighted

"""The gain of one policy over another, estimated from episodes of the other one, with a confidence interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

# fewer episodes say nothing of the spread
FEWEST_EPISODES = 5
# below this share the interval covers too seldom
_ENOUGH_OVERLAP = 0.5


def gains_of_episodes(rewards: np.ndarray, log_ratios: np.ndarray) -> np.ndarray:
    """
    Estimate the gain from each episode by importance weights of single decisions.

    The gain of an episode is Σ_t (r_t − b_t)(ρ_t − 1). Here ρ_t = Π_{k≤t} π_new/π_old, and b_t is the mean reward of the other
    episodes at step t. The estimate is unbiased for new parameters that do not depend on the episode, because the other
    episodes are independent of it, and ρ_t − 1 has mean zero.

    :param rewards: The rewards, zero after the end of an episode, shape (n_episodes, n_steps)
    :param log_ratios: The values of log π_new − log π_old, zero after the end, shape (n_episodes, n_steps)
    :return: The gains, shape (n_episodes,)
    """
    others = (rewards.sum(0) - rewards) / max(len(rewards) - 1, 1)
    return ((rewards - others) * np.expm1(log_ratios.cumsum(1))).sum(1)


@dataclass(frozen=True)
class GainEstimate:
    """
    The mean of the gains of single episodes, with a confidence interval.

    The interval is the wider of two at each end: Student's, and Hall's, which corrects the skewness of importance weights.

    :param gains: The gains of the episodes, shape (n_episodes,)
    :param log_weights: The log-ratios of whole episodes, shape (n_episodes,)
    :param level: The coverage of the interval, in (0, 1)
    """

    gains: np.ndarray
    log_weights: np.ndarray
    level: float = 0.95

    @property
    def gain(self) -> float:
        """The estimate of the gain in return."""
        return float(self.gains.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The confidence interval of the gain."""
        n = len(self.gains)
        deviation, quantile = float(self.gains.std(ddof=1)), student_quantile((1 + self.level) / 2, n - 1)
        if not deviation > 0:
            return self.gain, self.gain
        skewness = float(np.mean((self.gains - self.gain) ** 3)) / float(self.gains.std()) ** 3
        skewness *= math.sqrt(n * (n - 1)) / (n - 2)
        error, a = deviation / math.sqrt(n), skewness / math.sqrt(n)
        ends = [_unskewed(sign * quantile, a) for sign in (1, -1)]
        return self.gain - error * max(quantile, ends[0]), self.gain + error * max(quantile, -ends[1])

    @property
    def overlap(self) -> float:
        """The share of the episodes that is left after weighting, from 0 to 1, if log-weights are normally distributed."""
        return math.exp(-float(self.log_weights.var(ddof=1)))

    @property
    def is_reliable(self) -> bool:
        """Whether the policies are similar enough for the interval to have about its coverage."""
        return self.overlap >= _ENOUGH_OVERLAP

    def episodes_needed(self, gain: float) -> int:
        """
        Compute how many episodes make the interval of a true gain exclude zero on average.

        :param gain: The true gain, positive
        :return: The number of episodes with a spread as in these
        :raises ValueError: When the gain is not positive
        """
        if not gain > 0 or not math.isfinite(gain):
            raise ValueError(f"`gain` must be a positive number, got {gain!r}.")
        quantile = NormalDist().inv_cdf((1 + self.level) / 2)
        return max(FEWEST_EPISODES, math.ceil((quantile * float(self.gains.std(ddof=1)) / gain) ** 2))


def _unskewed(quantile: float, a: float) -> float:
    """Invert Hall's cubic x + a x²/3 + a² x³/27 + a/6, which makes a mean of skewed numbers symmetric."""
    shifted = quantile - a / 6
    return shifted if abs(a) < 1e-6 else 3 / a * (float(np.cbrt(1 + a * shifted)) - 1)


def student_quantile(probability: float, degrees: int) -> float:
    """
    Compute a quantile of Student's distribution, by Fisher's expansion; to 0.1 % between 0.8 and 0.995.

    :param probability: The probability, in (0, 1)
    :param degrees: The degrees of freedom, at least 4
    :return: The quantile
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / degrees**k for k, term in enumerate(terms))

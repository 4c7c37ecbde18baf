"""Take adapted parameters only if episodes say that they are no worse."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_sgmrl.common.adaptation import AdaptiveModel
from sb3_sgmrl.data.batch import PhaseBatch, index_observations
from sb3_sgmrl.deployment.gain import FEWEST_EPISODES, GainEstimate, gains_of_episodes
from sb3_sgmrl.util.validation import check_positive, is_number


@dataclass(frozen=True)
class GuardedPolicy:
    """
    The decision about an inner step.

    :param policy: The policy to use: the adapted one if it was accepted, else the one that played the last episodes
    :param accepted: Whether the adapted parameters were taken
    :param estimate: The estimate of the gain in undiscounted return
    :param tolerance: The loss that was allowed
    :param is_held_out: Whether the estimate is from episodes that the step did not see
    """

    policy: ActorCriticPolicy
    accepted: bool
    estimate: GainEstimate
    tolerance: float
    is_held_out: bool

    def __str__(self) -> str:
        low, high = self.estimate.interval
        source = "held-out" if self.is_held_out else "the same"
        lines = [
            f"Gain {self.estimate.gain:.2f}, {self.estimate.level:.0%} interval [{low:.2f}, {high:.2f}], from "
            f"{len(self.estimate.gains)} {source} episodes.",
            "The adapted policy is taken." if self.accepted else "The adapted policy is not taken: it may be worse.",
        ]
        if not self.estimate.is_reliable:
            lines.append(
                f"The interval may be too narrow: the policies differ so much that few episodes count (overlap "
                f"{self.estimate.overlap:.2f}); a smaller inner step or more episodes help."
            )
        if not self.accepted and self.estimate.gain > 0:
            needed = self.estimate.episodes_needed(self.estimate.gain)
            lines.append(f"A true gain of {self.estimate.gain:.2f} needs about {needed} episodes.")
        return "\n".join(lines)


def guarded_adapt(
    model: AdaptiveModel,
    episodes: PhaseBatch | Sequence[PhaseBatch],
    held_out: PhaseBatch | None = None,
    level: float = 0.95,
    tolerance: float = 0.0,
    n_folds: int = 5,
) -> GuardedPolicy:
    """
    Adapt to logged episodes, and take the last inner step only if it is no worse by an estimate from episodes.

    The estimate weighs the rewards of episodes by the likelihood ratio of the two policies. Without ``held_out``, the episodes
    are divided into folds: each fold estimates the gain of a step on the others. This is the gain of a step on fewer episodes,
    a little less than that of the step which is taken.

    :param model: The model
    :param episodes: The episodes, as for :meth:`~sb3_sgmrl.common.adaptation.AdaptiveModel.adapt`
    :param held_out: Further episodes of the policy that played the last ones, which the step does not use; at least 5
    :param level: The coverage of the confidence interval
    :param tolerance: The loss in return that is allowed: the lower end of the interval must be at least its negative
    :param n_folds: The number of folds without ``held_out``
    :return: The policy to use, with the estimate
    :raises ValueError: When an argument is outside its range, episodes do not fit the model, or there are too few
    """
    if not is_number(level) or not 0 < level < 1:
        raise ValueError(f"`level` must lie between 0 and 1, got {level!r}.")
    if not is_number(tolerance) or not 0 <= tolerance < np.inf:
        raise ValueError(f"`tolerance` must be a number of at least 0, got {tolerance!r}.")
    check_positive(n_folds=n_folds)
    batches = [episodes] if isinstance(episodes, PhaseBatch) else episodes
    model.fit_episodes(batches)  # checks them
    if held_out is not None:
        model.fit_episodes([held_out])
    judged = batches[-1] if held_out is None else held_out
    n = judged.mask.shape[1]
    name = "episodes" if held_out is None else "held_out"
    if n < FEWEST_EPISODES:
        raise ValueError(f"`{name}` must hold at least {FEWEST_EPISODES} episodes to judge a step, got {n}.")
    if held_out is None and not 2 <= n_folds <= n:
        raise ValueError(f"`n_folds` must lie between 2 and the number of episodes, {n}, got {n_folds}.")
    before, after = [model.policy, *model.adapt_stepwise(episodes=batches)][-2:]
    if held_out is not None:
        log_ratios = _log_ratios(model, before, after, judged)
    else:
        log_ratios = np.zeros(judged.mask.shape[1:])
        for fold in range(n_folds):
            part = np.arange(n) % n_folds == fold
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # all episodes were looked at above
                other = model.adapt(episodes=[*batches[:-1], _some(judged, ~part)])
            log_ratios[part] = _log_ratios(model, before, other, _some(judged, part))
    estimate = GainEstimate(gains_of_episodes(judged.rewards[0], log_ratios), log_ratios.sum(1), level)
    accepted = estimate.interval[0] >= -tolerance
    return GuardedPolicy(after if accepted else before, accepted, estimate, tolerance, held_out is not None)


def _some(batch: PhaseBatch, index: np.ndarray) -> PhaseBatch:
    """Return some of the episodes of one task."""
    return replace(
        batch,
        observations=index_observations(batch.observations, (slice(None), index)),
        actions=batch.actions[:, index],
        rewards=batch.rewards[:, index],
        mask=batch.mask[:, index],
        episode_returns=batch.episode_returns[:, index],
    )


def _log_ratios(model: AdaptiveModel, before: ActorCriticPolicy, after: ActorCriticPolicy, batch: PhaseBatch) -> np.ndarray:
    """Compute log π_after − log π_before of each step, shape (n_episodes, n_steps), zero after the end of an episode."""
    policy, (fitted,) = model.functional, model.fit_episodes([batch])
    observations, actions = fitted.task(0).samples()
    seen, taken = policy.to_tensor(observations), th.as_tensor(actions, device=policy.device)
    found = []
    for each in (before, after):
        named = dict(each.named_parameters())
        with th.no_grad():
            log_prob = policy.log_prob({name: named[name].detach() for name in policy.adapted_names}, seen, taken)
        found.append(log_prob.cpu().numpy().astype(np.float64))
    ratios = np.zeros(fitted.mask.shape[1:])
    ratios[fitted.mask[0]] = found[1] - found[0]
    return ratios

"""How likely recorded actions are under a policy, compared with actions that the policy draws itself."""

from __future__ import annotations

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_sgmrl.data.batch import TaskBatch, index_observations
from sb3_sgmrl.policies.calls import seeded
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.util.user_warnings import warn_user

_N_DRAWS, _CHUNK = 16, 4096
# in standard errors; sums of few log-likelihoods have longer tails than a normal distribution
_TOO_FAR = 5.0


def likelihood_deviation(policy: FunctionalPolicy, parameters: Parameters, batch: TaskBatch) -> float:
    """
    Compare the log-likelihood of recorded actions with its expectation under a policy.

    If the policy drew the actions, the deviation has mean 0 and standard deviation 1. The expectation is a mean over actions
    that the policy draws at the same observations.

    :param policy: The policy as a function
    :param parameters: The parameters that should have drawn the actions
    :param batch: The episodes of a task
    :return: The deviation in standard errors; negative when the actions are less likely than expected
    """
    player = policy.policy_with(parameters)
    observations, actions = batch.samples()
    excess, variance = 0.0, 0.0
    for start in range(0, len(actions), _CHUNK):
        part = slice(start, start + _CHUNK)
        seen, taken = policy.to_tensor(index_observations(observations, part)), th.as_tensor(actions[part])
        with th.no_grad(), seeded(start, policy.device):
            distribution = player.get_distribution(seen)
            draws = [distribution.sample() for _ in range(_N_DRAWS)]
            own = np.stack([distribution.log_prob(draw).cpu().numpy() for draw in draws]).astype(np.float64)
            found = policy.log_prob(parameters, seen, taken.to(policy.device)).cpu().numpy()
        excess += float((found - own.mean(0)).sum())
        variance += float(own.var(0, ddof=1).sum()) * (1 + 1 / _N_DRAWS)
    return excess / np.sqrt(variance) if variance > 0 else (0.0 if excess > -1e-3 else -np.inf)


def share_at_bounds(batch: TaskBatch, space: spaces.Space) -> float:
    """
    Measure how many continuous actions lie exactly at a bound, as clipped ones do.

    :param batch: The episodes of a task
    :param space: The action space
    :return: The share, from 0 to 1; 0 for other spaces
    """
    if not isinstance(space, spaces.Box):
        return 0.0
    actions = batch.actions[batch.mask]
    return float(np.mean((actions == space.low) | (actions == space.high)))


def warn_of_other_policy(policy: FunctionalPolicy, parameters: Parameters, batch: TaskBatch) -> None:
    """
    Warn when recorded actions look clipped, or when this policy cannot have drawn them.

    :param policy: The policy as a function
    :param parameters: The parameters that should have drawn the actions
    :param batch: The episodes of a task
    """
    # tanh reaches the bounds by rounding
    bounded = policy.kind is not None and policy.kind.transform is not None
    share = 0.0 if bounded else share_at_bounds(batch, policy.policy.action_space)
    if share > 0:
        warn_user(
            f"`episodes` look clipped: {share:.1%} of the actions are exactly at a bound; record actions as they were drawn, "
            "before clipping, or the gradient is biased.",
        )
        return
    deviation = likelihood_deviation(policy, parameters, batch)
    if abs(deviation) > _TOO_FAR:
        direction = "less" if deviation < 0 else "more"
        warn_user(
            f"`episodes` were not drawn by this policy: their actions are {direction} likely than its own, by "
            f"{abs(deviation):.0f} standard errors; an inner step needs episodes of the policy adapted so far, with sampled "
            "actions.",
        )

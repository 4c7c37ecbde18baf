"""Actions of many parameter sets at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sb3_sgmrl.data.batch import Observations, index_observations
from sb3_sgmrl.policies.calls import seeded
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters, stack_parameters

Forward = Callable[[Parameters, Observations], tuple[np.ndarray, ...]]

# the number of parameter sets per vmap, for policies that need it
_GROUP = 8


class ParallelPolicies:
    """
    Action distributions of many parameter sets, each for some of its own rows.

    Rounding depends on the shape of a batch, and on the place in it. So each parameter set is always evaluated on
    ``n_rows`` rows, in a group of fixed size, and at the same place in it. The result of a row therefore does not depend on
    the other rows in the call, nor on the number of workers.

    :param policy: The policy as a function
    :param parameter_sets: The parameter sets, one per task of ``own`` or a single one for all
    :param n_tasks: The number of tasks
    :param n_rows: The number of rows per task
    :param own: The tasks that have rows; None for all
    """

    def __init__(
        self,
        policy: FunctionalPolicy,
        parameter_sets: list[Parameters],
        n_tasks: int,
        n_rows: int,
        own: range | None = None,
    ) -> None:
        own = range(n_tasks) if own is None else own
        self.policy = policy
        # numpy computes the matrix products of the sets one by one
        self.group = min(_GROUP, n_tasks) if policy.mlp is None and policy.vectorized else 1
        self.forward: Forward = _general_forward(policy, self.group) if policy.mlp is None else policy.mlp.arrays_of_turned
        sets = parameter_sets * len(own) if len(parameter_sets) == 1 else list(parameter_sets)
        # only the groups of the own tasks, with other sets in place of the other tasks
        first = own.start % self.group
        self.stacked = stack_parameters([*sets[:1] * first, *sets, *sets[-1:] * (-own.stop % self.group)])
        self._first_row = (own.start - first) * n_rows
        if policy.mlp is not None:
            self.stacked = {
                name: value.transpose(1, 2).contiguous() if value.dim() == 3 else value for name, value in self.stacked.items()
            }
        self.n_rows = n_rows
        self._all_rows = np.arange(len(next(iter(self.stacked.values()))) * n_rows)

    def actions(
        self, rows: np.ndarray, observations: Observations, noise: np.ndarray, check: Callable[..., None]
    ) -> np.ndarray:
        """
        Draw an action for each observation.

        :param rows: The row of each observation, counted through all tasks, shape (n,)
        :param observations: An array of shape (n, \\*obs_shape), or such an array per key
        :param noise: The noise from :meth:`FunctionalPolicy.draw_noise`, shape (n, n_dimensions)
        :param check: A function that checks that every row of some arrays is finite, shapes (n, ...)
        :return: The unclipped actions, shape (n, \\*action_shape)
        """
        kind, space = self.policy.kind, self.policy.policy.action_space
        if kind is not None:
            arrays = self.distributions(rows, observations)
            check(*arrays)  # categories could be drawn from non-finite logits, too
            return kind.draw(space, arrays, noise)
        parameters = [
            {name: value[i] for name, value in self.stacked.items()} for i in range(len(self._all_rows) // self.n_rows)
        ]
        drawn = []
        with seeded(0, self.policy.device):
            for i, row in enumerate(rows - self._first_row):
                own = self.policy.to_tensor(index_observations(observations, slice(i, i + 1)))
                drawn.append(self.policy.sample(parameters[row // self.n_rows], own, int(noise[i, 0])))
        check(actions := np.stack(drawn))
        return actions.astype(space.dtype, copy=False)

    def distributions(self, rows: np.ndarray, observations: Observations) -> tuple[np.ndarray, ...]:
        """
        Compute the action distribution for each observation.

        :param rows: The row of each observation, counted through all tasks, shape (n,)
        :param observations: An array of shape (n, \\*obs_shape), or such an array per key
        :return: The arrays of :meth:`FunctionalPolicy.distributions`, shapes (n, ...)
        """
        rows = rows - self._first_row
        if np.array_equal(rows, self._all_rows):
            grid = _map(lambda x: x.reshape(-1, self.n_rows, *x.shape[1:]), observations)
            return tuple(part.reshape(-1, *part.shape[2:]) for part in self.forward(self.stacked, grid))
        # all rows of every group that has a requested row
        size = self.group * self.n_rows
        groups, position = np.unique(rows // size, return_inverse=True)
        place = position * size + rows % size
        sets = (groups[:, None] * self.group + np.arange(self.group)).ravel()

        def spread(x: np.ndarray) -> np.ndarray:
            grid = np.zeros((len(sets) * self.n_rows, *x.shape[1:]), dtype=x.dtype)
            grid[place] = x
            return grid.reshape(len(sets), self.n_rows, *x.shape[1:])

        parameters = {name: value[sets] for name, value in self.stacked.items()}
        output = self.forward(parameters, _map(spread, observations))
        return tuple(part.reshape(-1, *part.shape[2:])[place] for part in output)


def _map(function: Callable[[np.ndarray], np.ndarray], observations: Observations) -> Observations:
    if isinstance(observations, dict):
        return {key: function(value) for key, value in observations.items()}
    return function(observations)


def _general_forward(policy: FunctionalPolicy, group: int) -> Forward:
    """
    Make the forward pass for any policy.

    :param policy: The policy as a function
    :param group: The number of parameter sets per vmap, which divides the number of sets
    :return: The function from parameters and observations to distributions
    """

    def forward(parameters: Parameters, observations: Observations) -> tuple[np.ndarray, ...]:
        parts = []
        for start in range(0, len(next(iter(parameters.values()))), group):
            # a copy, because rounding can also depend on where an array begins
            chunk = {name: value[start : start + group].clone() for name, value in parameters.items()}
            part = index_observations(observations, slice(start, start + group))
            parts.append(policy.distributions(chunk, policy.to_tensor(part)))
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))

    return forward

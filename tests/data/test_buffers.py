"""The buffer of complete episodes."""

import numpy as np
import pytest
from gymnasium import spaces

from sb3_sgmrl.data.buffers import TaskRolloutBuffer

VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)


@pytest.mark.parametrize(
    "observation_space", [VECTOR, spaces.Dict({"a": VECTOR, "b": spaces.Discrete(5)})], ids=["box", "dict"]
)
def test_a_buffer_that_grows_keeps_the_stored_steps(observation_space):
    """Two tasks with two episodes each; the second episode of the second task is longer than the first size."""
    buffer = TaskRolloutBuffer(2, observation_space, spaces.Box(-1.0, 1.0, (2,), np.float32), 4)
    lengths, rng = np.array([2, 1, 2, 3]), np.random.default_rng(0)
    played = {}
    for t in range(3):
        if t == 2:
            buffer.grow(3)
        columns = np.flatnonzero(lengths > t)
        vector = rng.random((len(columns), 3)).astype(np.float32)
        observations = {"a": vector, "b": columns} if isinstance(observation_space, spaces.Dict) else vector
        actions, rewards = rng.random((len(columns), 2)).astype(np.float32), rng.random(len(columns)).astype(np.float32)
        buffer.record(np.full(len(columns), t), columns, observations, actions, rewards)
        played.update({(c, t): (vector[i], actions[i], rewards[i]) for i, c in enumerate(columns)})
    phase = buffer.phase(2, lengths, np.arange(4.0))
    assert phase.mask.sum() == len(played) == 8 and phase.mask.shape == (2, 2, 3)
    for (column, t), (vector, action, reward) in played.items():
        task, episode = divmod(column, 2)
        assert phase.mask[task, episode, t]
        stored = phase.observations["a"] if isinstance(phase.observations, dict) else phase.observations
        np.testing.assert_array_equal(stored[task, episode, t], vector)
        np.testing.assert_array_equal(phase.actions[task, episode, t], action)
        assert phase.rewards[task, episode, t] == reward
        if isinstance(phase.observations, dict):
            assert phase.observations["b"][task, episode, t] == column
    np.testing.assert_array_equal(phase.episode_returns, [[0, 1], [2, 3]])

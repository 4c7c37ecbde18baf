"""Batches of episodes: their shapes agree, and what they return."""

import numpy as np
import pytest
from random_batches import phase

from sb3_sgmrl.data.batch import PhaseBatch, TaskBatch


def test_a_batch_whose_shapes_disagree():
    with pytest.raises(ValueError, match=r"got shapes \(2, 3\), \(2, 3, 1\) and \(2, 4\)"):
        TaskBatch(np.zeros((2, 3, 1)), np.zeros((2, 3, 1)), np.zeros((2, 3)), np.ones((2, 4), bool))


def test_returns_are_discounted_from_the_first_step():
    batch = phase().task(0)
    expected = [sum(0.5**t * r for t, r in enumerate(row)) for row in batch.rewards]
    np.testing.assert_allclose(batch.returns(0.5), expected)


def test_logged_episodes_have_their_returns():
    observations, actions = np.zeros((3, 2)), np.zeros((3, 1))
    episodes = [(observations[:n], actions[:n], np.array([1.0, 2.0, 4.0])[:n]) for n in (3, 1)]
    np.testing.assert_array_equal(PhaseBatch.from_episodes(episodes).episode_returns, [[7, 1]])

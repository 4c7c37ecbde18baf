"""Control variates: they leave out what they are subtracted for, and their scale is a regression."""

import numpy as np
import pytest

from sb3_sgmrl.score_terms.control_variates import (
    TaskRegression,
    VariateScaling,
    leave_one_out_return,
    leave_one_task_out,
    none,
)

# --------------------------------------------------------------------------------------------------- control variates


def test_control_variates_do_not_look_at_what_they_are_subtracted_for():
    rng = np.random.default_rng(0)
    outer, inner = rng.standard_normal(3), rng.standard_normal((3, 4))
    other_inner = inner.copy()
    other_inner[1, 2] += 5
    np.testing.assert_allclose(leave_one_out_return(outer, inner)[1, 2], leave_one_out_return(outer, other_inner)[1, 2])
    expected = np.delete(inner[1], 2).mean() + np.mean([outer[k] - inner[k].mean() for k in (0, 2)])
    assert leave_one_out_return(outer, inner)[1, 2] == pytest.approx(expected)
    np.testing.assert_allclose(leave_one_task_out(outer, inner)[1], [(outer[0] + outer[2]) / 2] * 4)


def test_a_single_task_has_no_others():
    np.testing.assert_array_equal(leave_one_task_out(np.array([3.0]), np.ones((1, 2))), 0)
    np.testing.assert_allclose(leave_one_out_return(np.array([3.0]), np.array([[1.0, 2.0]])), [[2.0, 1.0]])


def test_scaling_is_a_regression_on_earlier_iterations():
    scaling = VariateScaling(decay=0.5)
    assert scaling.factors() == (0, 1)
    rng = np.random.default_rng(0)
    stages = [rng.standard_normal((3, 4)) for _ in range(2)]
    unchanged = scaling.scale(stages)
    assert all(np.array_equal(*pair) for pair in zip(stages, unchanged, strict=True))
    pairs = []
    for weight in (0.25, 0.5, 1):
        outer = rng.standard_normal(3)
        b = [2 * outer[:, None] + rng.standard_normal((3, 4)) for _ in range(2)]
        scaling.observe(outer, b)
        pairs.append((np.sqrt(weight), np.stack(b).ravel(), np.tile(np.repeat(outer, 4), 2)))
    rows = np.concatenate([w * np.stack([np.ones_like(b), b], axis=1) for w, b, _ in pairs])
    expected = np.linalg.lstsq(rows, np.concatenate([w * outer for w, _, outer in pairs]), rcond=None)[0]
    np.testing.assert_allclose(scaling.factors(), expected)
    np.testing.assert_allclose(scaling.scale(stages)[1], expected[0] + expected[1] * stages[1])


@pytest.mark.parametrize("b", [0.0, -37.3])
def test_what_does_not_vary_is_shifted_to_the_mean(b):
    scaling = VariateScaling()
    scaling.observe(np.array([1.0, 3.0]), [np.full((2, 3), b)])
    assert scaling.factors()[1] == 1
    np.testing.assert_allclose(scaling.scale([np.full((1, 3), b)])[0], 2)


def test_task_regression_learns_what_tasks_are_worth():
    regression = TaskRegression(memory=60)
    rng = np.random.default_rng(0)
    assert regression.predict(np.ones((2, 1))).tolist() == [0, 0]
    for _ in range(10):
        features = rng.uniform(-1, 1, (20, 1))
        regression.observe(features, 3 - 2 * features[:, 0] ** 2 + 0.1 * rng.standard_normal(20))
    predicted = regression.predict(np.array([[-1.0], [0.0], [0.5]]))
    np.testing.assert_allclose(predicted, [1, 3, 2.5], atol=0.15)
    assert len(regression._targets) == len(regression._features) == 60


def test_task_regression_shrinks_towards_the_mean():
    """The ridge keeps predictions of exact targets between them and their mean."""
    regression, features = TaskRegression(), np.repeat([[-1.0], [1.0]], 10, axis=0)
    regression.observe(features, 5 + features[:, 0])
    low, high = regression.predict(np.array([[-1.0], [1.0]]))
    assert 4 < low < 4.1 and 5.9 < high < 6


def test_none_is_zero_for_every_episode():
    found = none(np.arange(3.0), np.ones((3, 4)))
    np.testing.assert_array_equal(found, np.zeros((3, 4)))

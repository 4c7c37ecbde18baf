"""Bias, variance and agreement of meta-gradients: their statistics against closed forms."""

import numpy as np
import pytest
import torch as th
from quality_tools import covers

from sb3_sgmrl.theory import (
    Estimate,
    GradientSample,
    compare_gradients,
    quality_table,
)
from sb3_sgmrl.theory.statistics import mean_over_batches, mean_over_pairs


def sample_of(**gradients):
    """Rows of numbers as a sample of gradients of a single parameter."""
    n_parameters = next(iter(gradients.values())).shape[1]
    return GradientSample(gradients, {"weight": th.zeros(n_parameters)}, 2.0, dict.fromkeys(gradients, 1.0))


# ---------------------------------------------------------------- statistics


@pytest.mark.parametrize("shape", [(7, 7), (5, 9), (9, 5)])
def test_means_without_a_batch_are_those_of_the_others(shape):
    rng = np.random.default_rng(0)
    products, values = rng.standard_normal(shape), rng.standard_normal(shape[0])
    n_batches = max(shape)
    different = ~np.eye(*shape, dtype=bool)
    found, found_values = mean_over_pairs(products, n_batches), mean_over_batches(values, n_batches)
    assert found[0] == pytest.approx(products[different].mean())
    assert found_values[0] == pytest.approx(values.mean())
    for j in range(n_batches):
        keep = np.ones(shape, dtype=bool)
        keep[j : j + 1], keep[:, j : j + 1] = False, False
        assert found[1 + j] == pytest.approx(products[keep & different].mean())
        assert found_values[1 + j] == pytest.approx(np.delete(values, j).mean() if j < shape[0] else values.mean())


def test_jackknife_of_a_mean_is_its_standard_error():
    sample = np.random.default_rng(0).standard_normal(50)
    estimate = Estimate.by_jackknife(mean_over_batches(sample, 50))
    assert estimate.value == pytest.approx(sample.mean())
    assert estimate.standard_error == pytest.approx(sample.std(ddof=1) / 50**0.5)
    assert Estimate.of_mean(sample).standard_error == pytest.approx(estimate.standard_error)
    assert np.isnan(Estimate.of_mean([1.0]).standard_error)


def test_moments_are_the_unbiased_ones():
    g = np.random.default_rng(0).standard_normal((20, 30)) + 0.5
    quality = compare_gradients(sample_of(g=g))["g"]
    variance = g.var(0, ddof=1).sum()
    assert quality.variance.value == pytest.approx(variance)
    assert quality.squared_norm.value == pytest.approx((g.mean(0) ** 2).sum() - variance / 20)
    assert quality.snr.value == pytest.approx(quality.squared_norm.value / variance)
    assert quality.noise_of_mean == pytest.approx(variance / 20 / (g.mean(0) ** 2).sum())
    assert quality.cost == pytest.approx(3.0 / quality.snr.value)
    assert quality.cost_interval[0] < quality.cost < quality.cost_interval[1]
    assert quality.relative_bias is None and quality.cosine is None


def test_metrics_against_closed_forms():
    """Gradients with known means and variances: no systematic error, and intervals that cover as often as they should."""
    n, n_reference, n_parameters, n_repeats = 30, 60, 40, 300
    rng = np.random.default_rng(0)
    reference, other = rng.standard_normal((2, n_parameters)) / n_parameters**0.5
    biased = reference + 0.5 * other
    truth = {
        "squared_norm": biased @ biased,
        "variance": 4.0 * n_parameters / 10,
        "snr": (biased @ biased) / (4.0 * n_parameters / 10),
        "squared_bias": 0.25 * (other @ other) / (reference @ reference),
        "cosine": biased @ reference / np.sqrt((biased @ biased) * (reference @ reference)),
    }
    found = {key: [] for key in truth}
    covered = {key: [] for key in truth}
    unbiased = []
    for _ in range(n_repeats):
        noise = rng.standard_normal((2, n_reference, n_parameters)) * (4.0 / 10) ** 0.5
        r = reference + 0.5 * noise[0]
        # part of the noise is shared, as it is for estimators with the same episodes
        g = biased + 0.8 * noise[0, :n] + 0.6 * noise[1, :n]
        quality = compare_gradients(sample_of(g=g, r=r, u=g - 0.5 * other), "r")
        for key, value in truth.items():
            found[key].append(getattr(quality["g"], key).value)
            covered[key].append(covers(getattr(quality["g"], key), value))
        unbiased.append(quality["u"].squared_bias.value)
        assert quality["r"].squared_bias is None
    for key in ("squared_norm", "variance"):
        assert covers(Estimate.of_mean(found[key]), truth[key]), key
    # what is divided by an estimated norm is a little off
    assert abs(np.mean(unbiased)) < 0.1
    for key, value in truth.items():
        assert np.median(found[key]) == pytest.approx(value, rel=0.15), key
        assert np.mean(covered[key]) > 0.88, key


def test_bias_against_an_exact_gradient():
    rng = np.random.default_rng(0)
    target = rng.standard_normal(10)
    g = target + 0.3 * rng.standard_normal((50, 10))
    quality = compare_gradients(sample_of(right=g, wrong=1.5 * g), {"weight": th.as_tensor(target)})
    assert covers(quality["right"].squared_bias, 0.0)
    assert covers(quality["wrong"].squared_bias, 0.25)
    assert quality["wrong"].relative_bias == pytest.approx(0.5, abs=0.05)
    assert quality["right"].cosine.value == pytest.approx(1.0, abs=0.01)


def test_what_noise_hides_is_not_resolved():
    rng = np.random.default_rng(0)
    noise = np.concatenate([x := rng.standard_normal((3, 20)), -x])
    quality = compare_gradients(sample_of(noise=noise, known=noise + 5.0), "noise")
    assert np.isnan([quality["known"].relative_bias, quality["known"].cosine.value]).all()
    assert quality["noise"].squared_norm.value < 0 and quality["noise"].cost == np.inf
    assert quality_table(quality).count("not resolved") == 2

"""The weight that the signal of a score term deserves."""

import numpy as np
import pytest
import torch as th

from sb3_sgmrl.gradient.score_weight import SignalWeight, SignalWeights, cut_off_weights


def observed(signal, noise, n, seed=0, size=400, decay=0.95):
    weight, rng = SignalWeight(decay), np.random.default_rng(seed)
    for _ in range(n):
        c = signal / np.sqrt(size) + noise / np.sqrt(size) * rng.normal(size=size)
        weight.observe({"a": th.as_tensor(c)})
    return weight.weights()["a"]


def test_signal_weight_is_the_one_of_a_wiener_filter():
    left = 0.05 / 1.95
    for signal, noise in ((1.0, 1.0), (0.2, 1.0)):
        expected = signal**2 / (signal**2 + left * noise**2)
        assert np.mean([observed(signal, noise, 200, seed) for seed in range(40)]) == pytest.approx(expected, abs=0.05)


def test_signal_weight_tends_to_one_with_the_batch_and_to_zero_without_signal():
    assert observed(1.0, 0.0, 5) == pytest.approx(1.0)
    larger = [np.mean([observed(0.1, noise, 100, seed) for seed in range(20)]) for noise in (1.0, 0.3, 0.1)]
    assert larger[0] < larger[1] < larger[2]
    assert larger[2] > 0.97
    assert np.mean([observed(0.0, 1.0, 200, seed) for seed in range(40)]) < 0.1


def test_signal_weight_has_no_opinion_at_first():
    weight = SignalWeight()
    assert weight.weights() == {}
    weight.observe({"a": th.ones(3)})
    assert weight.weights() == {"a": 0.0}
    weight.observe({"a": th.ones(3)})
    assert weight.weights() == {"a": pytest.approx(1.0)}


def test_a_weight_of_one_half_counts_as_iterations_of_the_past():
    weight = SignalWeight()
    assert weight.weights(4) == {}
    weight.observe({"a": th.ones(3)})
    assert weight.weights(4) == {"a": pytest.approx((4 * 0.5 + 0) / 5)}
    for _ in range(7):
        weight.observe({"a": th.ones(3)})
    assert weight.weights(4) == {"a": pytest.approx((4 * 0.5 + 8) / 12)}
    weights = SignalWeights({(0, False): weight, (1, True): SignalWeight()})
    assert weights.weights(2, 4) == [weight.weights(4), {}]
    for value in (-1.0, 1.0, -1.0):
        weight.observe({"a": th.full((3,), value)})
    own = weight.weights()["a"]
    assert weight.weights(1e9) == {"a": pytest.approx(0.5)} and weight.weights(0) == {"a": own}
    assert 0.5 < weight.weights(4)["a"] < own
    weight.observe({"a": th.ones(5)})  # a parameter has changed, so the past says nothing
    assert weight.weights(4) == {"a": pytest.approx(2 / 5)}


def test_signal_weight_is_that_of_its_formula():
    """β = 1/2: the sums can be written down."""
    weight = SignalWeight(0.5)
    for c in (1.0, 2.0, 4.0):
        weight.observe({"a": th.tensor([c, 0.0]), "b": th.tensor([1.0])})
    signal = ((2 * 1 + 1) / 2 + 4 * (0.5 * 1 + 2) / 1.5 + 1) / 1.5
    noise = (2 / 4 + 5 / 2 + 17) / 1.75 - signal
    assert weight.weights() == dict.fromkeys("ab", pytest.approx(signal / (signal + noise / 3)))


def test_network_and_standard_deviation_have_weights_of_their_own():
    weights, rng = SignalWeights(), np.random.default_rng(0)
    assert weights.weights(2) == [{}, {}]
    for _ in range(50):
        noise = {"net.weight": th.as_tensor(rng.normal(size=(9, 9))), "net.bias": th.as_tensor(rng.normal(size=9))}
        weights.observe([{**noise, "log_std": th.ones(2)}, {**noise, "log_std": th.zeros(2)}])
    first, second = weights.weights(2)
    assert first["net.weight"] == first["net.bias"] == second["net.bias"] < 0.6
    assert first["log_std"] == pytest.approx(1.0) and second["log_std"] == 0
    assert weights.weights(1) == [first]
    # saved models hold the groups by these names
    assert weights._weights[0, True].weights().keys() == {"net.weight", "net.bias"}


def test_signal_weight_of_a_term_that_is_zero():
    weight = SignalWeight()
    for _ in range(5):
        weight.observe({"a": th.zeros(3)})
    assert weight.weights() == {"a": 0.0}


def noisy(weight, rng, n, factor=1.0):
    """Terms whose signal has a third of the norm of their noise, with 400 entries."""
    for _ in range(n):
        weight.observe({"a": th.as_tensor(factor * (1 / 3 + rng.normal(size=400)) / 20, dtype=th.float32)})


@pytest.mark.parametrize("factor", [30.0, -30.0, 1e4, 1e37])
def test_an_outlier_is_not_remembered_for_long(factor):
    weight, rng = SignalWeight(), np.random.default_rng(0)
    noisy(weight, rng, 200)
    before = weight.weights()["a"]
    noisy(weight, rng, 1, factor)
    assert weight.weights()["a"] > 0.85 * before > 0.65
    noisy(weight, rng, 30)
    assert weight.weights()["a"] > 0.95 * before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_terms_that_are_not_finite_are_not_remembered(value):
    weight, rng = SignalWeight(), np.random.default_rng(0)
    noisy(weight, rng, 20)
    before = weight.weights(), weight.limit()
    weight.observe({"a": th.full((400,), value)})
    assert (weight.weights(), weight.limit()) == before


def test_products_of_large_terms_are_finite():
    """The square of a number of single precision need not be one."""
    weight = SignalWeight()
    for _ in range(3):
        weight.observe({"a": th.full((4,), 1e30)})
    assert weight.weights() == {"a": pytest.approx(1.0)}
    assert weight.limit() == pytest.approx(6e30)


def test_terms_are_cut_off_at_a_multiple_of_earlier_ones():
    weight = SignalWeight(0.5)
    assert weight.limit() == np.inf
    weight.observe({"a": th.zeros(2)})  # says nothing about how large terms are
    assert weight.limit() == np.inf
    weight.observe({"a": th.tensor([2.0, 0.0])})
    assert weight.limit() == pytest.approx(6.0)
    weight.observe({"a": th.tensor([0.0, 600.0])})
    assert weight.limit() == pytest.approx(3 * np.sqrt((4 / 2 + 36) / 1.5))
    # terms that grow for good are followed
    for _ in range(20):
        weight.observe({"a": th.tensor([600.0, 0.0])})
    assert weight.limit() == pytest.approx(1800, rel=0.01)


def test_weights_of_terms_that_are_cut_off():
    weights = [{"a": 0.5, "b": 0.5, "c": 1.0}, {"a": 0.25}]
    limits = [{("a", "b"): 2.5, ("c",): 1.0}, {("a",): np.inf}]
    terms = [{"a": th.tensor([3.0]), "b": th.tensor([4.0]), "c": th.tensor([0.5])}, {"a": th.tensor([1e9])}]
    assert cut_off_weights(weights, limits, terms) == [{"a": 0.25, "b": 0.25, "c": 1.0}, {"a": 0.25}]
    assert weights[0]["a"] == 0.5

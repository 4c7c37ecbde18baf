"""The weight that the signal of a score term deserves."""

import numpy as np
import pytest
import torch as th

from sb3_sgmrl.gradient.score_weight import SignalWeight, SignalWeights


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


def test_signal_weight_of_a_term_that_is_zero():
    weight = SignalWeight()
    for _ in range(5):
        weight.observe({"a": th.zeros(3)})
    assert weight.weights() == {"a": 0.0}


@pytest.mark.parametrize("value", [1e30, float("inf"), float("nan")])
def test_a_term_beyond_single_precision_is_not_remembered(value):
    """Its square overflows, and a weight of zero or NaN would be saved with the model."""
    rng, weight, alone = np.random.default_rng(0), SignalWeight(), SignalWeight()
    for _ in range(30):
        term = {"a": th.as_tensor(1 + 0.1 * rng.standard_normal(4), dtype=th.float32)}
        weight.observe(term)
        alone.observe(term)
        weight.observe({"a": th.full((4,), value)})
    assert weight.weights() == alone.weights() and 0.9 < weight.weights()["a"] <= 1.0

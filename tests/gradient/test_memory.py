"""What an iteration takes of the machine's memory, counted by hand."""

import os

import numpy as np
import pytest
from gymnasium import spaces

from sb3_sgmrl.gradient.memory import check_linear_baseline, check_memory

ACTIONS = spaces.Box(-1, 1, (2,), np.float32)
VECTOR = spaces.Box(-1, 1, (4,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 5, 1), np.uint8)


def box(n):
    return spaces.Box(-1, 1, (n,), np.float32)


def machine_with(monkeypatch, n_bytes):
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": n_bytes, "SC_PAGE_SIZE": 1}.__getitem__)


def takes(monkeypatch, n_bytes, check, *arguments):
    """The check passes on a machine with so many bytes, and not with a byte less."""
    machine_with(monkeypatch, n_bytes)
    check(*arguments)
    machine_with(monkeypatch, n_bytes - 1)
    with pytest.raises(ValueError, match="would take"):
        check(*arguments)


@pytest.mark.parametrize(
    ("observations", "actions", "per_step"),
    [
        (VECTOR, ACTIONS, 4 * 4 + 2 * 4 + 17),
        (IMAGE, ACTIONS, 15 + 2 * 4 + 17),
        (spaces.Dict({"image": IMAGE, "vector": VECTOR}), ACTIONS, 15 + 16 + 2 * 4 + 17),
        (spaces.Discrete(3), spaces.Discrete(7), 8 + 4 + 17),
    ],
    ids=str,
)
def test_a_step_has_an_observation_an_action_a_reward_a_weight_and_a_flag(observations, actions, per_step, monkeypatch):
    takes(monkeypatch, 6 * 10 * per_step, check_memory, 6, 10, observations, actions)


@pytest.mark.parametrize(
    ("size", "n_features"),
    [(3, 10), (254, 512), (255, 12), (5000, 12)],
)
def test_the_linear_baseline_has_four_matrices_for_each_episode(size, n_features, monkeypatch):
    """Above 512 features there are as many as steps: two episodes of six here."""
    takes(monkeypatch, 4 * 2 * n_features**2 * 8, check_linear_baseline, 2, 6, box(size))


def test_many_unknowns_are_announced():
    check_linear_baseline(2, 1000, box(748))  # 1500 unknowns; warnings are errors here
    check_linear_baseline(1, 1500, box(5000))
    with pytest.warns(UserWarning, match="with 1502 unknowns"):
        check_linear_baseline(2, 1000, box(749))


def test_the_error_counts_in_gibibytes(monkeypatch):
    machine_with(monkeypatch, 2 * 2**30)
    with pytest.raises(
        ValueError, match=r"A meta-iteration would take 3 GiB and the machine has 2: `meta_batch_size`.* smaller"
    ):
        check_memory(2**26, 3, spaces.Box(0, 1, (0,), np.uint8), spaces.Box(-1, 1, (0,)), smaller="`meta_batch_size`")


def test_a_machine_that_does_not_say_is_not_measured(monkeypatch):
    monkeypatch.delattr(os, "sysconf")
    check_memory(10**9, 10**9, VECTOR, ACTIONS)

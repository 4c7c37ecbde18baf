"""The number of ranks changes nothing, to the bit, and a fault of one rank stops all of them."""

import json

import numpy as np
import pytest
import rank_faults
from rank_runs import LONG, SHORT, digest, results, sums, train
from rank_tools import HERE, run_ranks
from stable_baselines3.common.vec_env import VecNormalize
from toys import SAMPLES, LinearExtractor, point, point_vec, tiny

from sb3_sgmrl import SGMRL
from sb3_sgmrl.distributed import ALONE, start
from sb3_sgmrl.policies.inference import ParallelPolicies
from sb3_sgmrl.vec_env.normalization import EpisodeMoments, merged


def test_two_ranks_equal_one_process(two_ranks):
    _, ((first, *_), (second, *_)), _ = two_ranks
    assert first == second == results(SHORT)


def _close_to_exact(found):
    """Whether numbers are within rounding of the exact ones, which other sums than these would not reach."""
    exact = sums()
    assert found.keys() == exact.keys()
    for name, numbers in found.items():
        np.testing.assert_allclose(numbers, exact[name], rtol=1e-5, atol=1e-6, err_msg=name)
    return exact


def test_sums_by_blocks_are_equal_within_rounding(two_ranks):
    _, ((*_, first), (*_, second)), _ = two_ranks
    assert first == second
    exact = _close_to_exact(first)
    assert all(first[name] != exact[name] for name in exact)  # as a sum in another order is


@pytest.mark.slow
@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_sums_by_blocks_on_any_number_of_ranks(n_ranks):
    ends = run_ranks(n_ranks, str(HERE / "rank_runs.py"), "blocks")
    found = [json.loads(end.stdout.splitlines()[-1]) for end in ends]
    assert all(of_rank == found[0] for of_rank in found)
    exact = _close_to_exact(found[0])
    assert n_ranks > 1 or found[0] == exact


def test_a_model_saved_by_two_ranks_is_continued_by_one(two_ranks):
    model = SGMRL.load(two_ranks[2], env=point())
    model.learn(1, reset_num_timesteps=False)
    assert digest(model) == train(SGMRL, point)


WORDS = {
    "arguments": "`inner_lr` must be the same on all ranks, but is 0.1 on rank 0 and 1.1 on rank 1",
    "seeds": "`seed` must be the same on all ranks, but is 0 on rank 0 and 1 on rank 1",
    "few tasks": "`meta_batch_size` must be at least the number of processes that torchrun started, 2, got 1",
    "VecEnv": "`env` must be the same on all ranks, but is ['DummyVecEnv'] on rank 0",
    "VecEnv on a rank": "The kind of `env` must be the same on all ranks, but is 'one environment' on rank 0 and 'a VecEnv'",
    "environment": "Rank 1 on ",
    "in a command": "which plays the tasks 0 to 0, failed: ValueError: `meta_batch_size` must be at least",
    "baseline": "`--method` must be algorithms of this package under torchrun, got the baseline 'ppo'",
    "parallel": "`--parallel` must be 1 under torchrun, whose processes train each run together, got 2",
    "time limit": "The time limit of `env` must be the same on all ranks, but is 5 on rank 0 and 6 on rank 1",
    "VecNormalize": "`normalizer_update` must be 'phase' under torchrun",
    "drift": "has other parameters than rank 0",
    "callback": "KeyError: 'of the callback'",
    "late timeout": "`timeout` must be chosen before the ranks connect, which was with 600.0, got 5",
    "late blocks": "`sum_by_blocks` must be chosen before the ranks connect, which was with False, got True",
    "blocks": "`sum_by_blocks` must be the same on all ranks, but is False on rank 0 and True on rank 1",
    "after a fault": "failed: ValueError: the second",
    "search, few tasks": "the number of processes that torchrun started, 2, got 1 in a trial",
    "search, jobs": "`--n-jobs` must be 1 under torchrun, whose processes train each trial together, got 2",
    "search, options": "`--eval-tasks` must be the same on all ranks, but is 2 on rank 0 and 3 on rank 1",
    "search, environment": "failed: ValueError: no file of the environment",
    "compare, options": "`eval_tasks` of the protocol must be the same on all ranks, but is 2 on rank 0 and 3 on rank 1",
}


@pytest.mark.parametrize("name", WORDS)
def test_a_fault_stops_all_ranks_with_one_message(two_ranks, name):
    _, ((_, first, _), (_, second, _)), _ = two_ranks
    assert WORDS[name] in first[name] and "RankError" not in first[name]
    if name == "environment":
        assert "which plays the tasks 2 to 2, failed: ValueError: the motor is hot" in first[name]
        assert second[name] == first[name]


def test_an_error_is_shown_once_with_the_traceback_of_its_rank(two_ranks):
    first, second = two_ranks[0]
    assert first.returncode == second.returncode == 1
    assert "Rank 1 on " in first.stderr and "in step" in first.stderr and "the motor is hot" in first.stderr
    assert second.stderr == ""


def test_callbacks_stop_all_ranks_and_rank_0_calls_the_others(two_ranks):
    _, ((_, first, _), (_, second, _)), _ = two_ranks
    assert first["stop"] == second["stop"] == f"1 {SAMPLES}"
    assert (first["plain callback"], second["plain callback"]) == ("True", "False")
    assert first["no seed"] == second["no seed"]


def test_evaluations_share_their_tasks(two_ranks):
    _, ((_, first, _), (_, second, _)), _ = two_ranks
    assert first["evaluation"] == second["evaluation"] == rank_faults.evaluated()


def test_a_comparison_shares_the_tasks_of_each_run(two_ranks):
    _, ((_, first, _), (_, second, _)), _ = two_ranks
    assert first["compare"] == rank_faults.compared()
    assert "big-0/failure.json" in first["compare"] and "maml-0/best_adaptation_200.csv" in first["compare"]
    assert second["compare"] == "[0, 0] [] []"  # rank 0 has the files


def test_nothing_is_connected_without_torchrun():
    import torch.distributed

    assert start() is ALONE and not torch.distributed.is_initialized()
    with pytest.raises(ValueError, match="`timeout` must be a positive number of seconds, got 0"):
        start(timeout=0)


def test_a_task_has_the_same_place_in_its_group_on_every_rank():
    """Rounding depends on the place."""
    policy = tiny(SGMRL, point(), policy_kwargs={"features_extractor_class": LinearExtractor}).functional
    sets = [{name: value + i for name, value in policy.parameters().items()} for i in range(9)]
    whole, part = (ParallelPolicies(policy, sets[of.start :], 9, 2, of) for of in (range(9), range(5, 9)))
    for name, value in whole.stacked.items():
        np.testing.assert_array_equal(part.stacked[name][5:9], value[5:9])
    assert (part._first_row, len(part._all_rows)) == (0, 2 * 16)


@pytest.mark.parametrize("observation", ["vector", pytest.param("dict", marks=pytest.mark.slow)])
def test_statistics_of_phases_do_not_depend_on_the_number_of_workers(observation):
    settings = {"policy": "MultiInputPolicy" if observation == "dict" else "MlpPolicy", "normalizer_update": "phase"}
    keys = {"norm_obs_keys": ["vector"]} if observation == "dict" else {}
    make = [lambda n=n: VecNormalize(point_vec(n, observation=observation, end=0.2), **keys) for n in (1, 4)]
    assert train(SGMRL, make[0], **settings) == train(SGMRL, make[1], **settings)


def test_moments_of_a_phase_are_those_of_its_values():
    values = np.random.default_rng(0).normal(5, 2, (4, 6, 3))
    moments = EpisodeMoments(range(2, 6))
    for step in range(6):
        moments.add(None, np.array([2, 3, 4, 5]), values[:, step])
    count, mean, squares = merged(*(of_task[None] for of_task in moments.of_tasks(2)))
    assert count == 24
    np.testing.assert_allclose(mean, values.mean((0, 1)))
    np.testing.assert_allclose(squares / count, values.var((0, 1)))


@pytest.fixture(scope="module")
def in_one_process():
    """What one process does for five iterations of every setting."""
    return results(LONG)


@pytest.mark.slow
@pytest.mark.timeout(4000)
@pytest.mark.parametrize("n_ranks", [2, 3, 4])
def test_every_setting_on_any_number_of_ranks(in_one_process, n_ranks):
    ends = run_ranks(n_ranks, str(HERE / "rank_runs.py"), "long", timeout=3900)
    for end in ends:
        assert end.returncode == 0, end.stderr
    found = [json.loads(end.stdout.splitlines()[-1]) for end in ends]
    assert found == n_ranks * [in_one_process]

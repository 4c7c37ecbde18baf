"""A search for hyperparameters whose trials all ranks train together."""

import rank_searches
from zoo_tools import zoo_process  # noqa: F401


def test_a_search_shares_the_tasks_of_each_trial(two_ranks):
    _, ((_, first, _), (_, second, _)), _ = two_ranks
    assert first["search"] == rank_searches.searched()
    # an overflow and the pruner
    assert first["search"].count("'PRUNED'") == 2 and first["search"].count("'COMPLETE'") == 1
    assert second["search"] == "0 [] [] []"  # rank 0 has the study and the files


def test_a_fault_of_one_rank_prunes_the_trial_on_all(two_ranks):
    _, ((_, first, _), (_, second, _)), _ = two_ranks
    assert first["search with a fault"].count("'PRUNED'") == first["search with a fault"].count("'COMPLETE'") == 1
    assert second["search with a fault"] == "0 [] [] []"

"""The table of examples/families.py, from stored results."""

import runpy

import numpy as np
import pytest
from paths import EXAMPLES

import sb3_sgmrl  # noqa: F401  # registers the families
from sb3_sgmrl import AdaptationReport
from sb3_sgmrl.cli.compare.results import Results, Terms, write_results
from sb3_sgmrl.envs.mujoco_registry import FAMILIES

FAMILY = "BernoulliBandit-v0"
EXAMPLE = runpy.run_path(str(EXAMPLES / "families.py"))


def store(folder, timesteps=1_000_000, seeds=(0, 1, 2), **methods):
    """Write results with these returns after 0 to 3 steps; seeds differ by 0.1, two tasks by 2; a row may be one per seed."""
    rows = {method: np.broadcast_to(np.array(row), (3, 4)) for method, row in methods.items()}
    reports = {
        method: {seed: AdaptationReport([0, 1], np.add.outer([-1.0, 1.0], of[seed] + 0.1 * seed)) for seed in seeds}
        for method, of in rows.items()
    }
    (folder / FAMILY).mkdir(exist_ok=True)
    terms = Terms(FAMILY, 10, "hash", "rewards", 20, 2)
    write_results(folder / FAMILY / f"results_{timesteps}.csv", terms, timesteps, Results(reports, {}, ""))


def cells(folder):
    """The row of the family."""
    lines = EXAMPLE["table"](folder, [FAMILY, "Navigation2D-v0"]).splitlines()
    assert sum(line.startswith("|") for line in lines) == 3  # a family without results has no row
    return [cell.strip() for cell in lines[2].strip("|").split("|")]


ADAPTING = {"sgmrl": [1.0, 5.0, 6.0, 7.0], "maml": [1, 4, 4, 4], "ppo": [2, 3, 1, 1], "oracle": [8, 9, 8, 9]}


def test_a_row_has_the_means_and_their_intervals(tmp_path):
    store(tmp_path, **ADAPTING)
    row = cells(tmp_path)
    assert row[:2] == [FAMILY, "1"]
    # the interval of 0, 0.1 and 0.2 by Student's t with two degrees of freedom
    assert row[2:] == [*(f"{mean} ± 0.2" for mean in (1.1, 5.1, 6.1, 7.1, 4.1, 3.1, 8.6)), "2.0 ± 0.0", "adapts"]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"ppo": [2, 3, 1, 5.1]}, "no better than PPO"),
        ({"ppo": [5.1, 3, 1, 1]}, "no better than PPO"),
        # 5 - 2 on average, but with an interval of the difference that holds 0
        ({"ppo": [[0, 0, 0, 0], [0, 1, 0, 0], [0, 5, 0, 0]]}, "no better than PPO"),
        ({"sgmrl": [[1, 5, 9, 9], [5, 5, 9, 9], [4, 5, 9, 9]], "ppo": [0] * 4}, "does not adapt"),
        ({"sgmrl": [5.0, 5.0, 9.0, 9.0]}, "does not adapt"),
        ({"sgmrl": [6.0, 5.0, 9.0, 9.0]}, "does not adapt"),
    ],
)
def test_adapting_is_more_than_before_and_more_than_the_best_of_ppo(tmp_path, changed, verdict):
    store(tmp_path, **{**ADAPTING, **changed})
    assert cells(tmp_path)[-1] == verdict


def test_one_seed_is_too_few_and_a_method_without_runs_is_a_dash(tmp_path):
    store(tmp_path, seeds=(0,), sgmrl=ADAPTING["sgmrl"], maml=ADAPTING["maml"])
    assert cells(tmp_path)[5:] == ["7.0", "4.0", "–", "–", "–", "too few runs"]


def test_the_results_with_the_most_steps_are_shown(tmp_path):
    store(tmp_path, **ADAPTING)
    store(tmp_path, timesteps=900_000, **{**ADAPTING, "sgmrl": [0.0] * 4})
    (tmp_path / FAMILY / "best_results_2000000.csv").write_text("")
    assert cells(tmp_path)[1:3] == ["1", "1.1 ± 0.2"]


def test_every_family_but_the_papers_has_a_budget():
    own = {"Navigation2D-v0", "BernoulliBandit-v0", "TabularMDP-v0"} | {name for name in FAMILIES if "Paper" not in name}
    assert EXAMPLE["BUDGETS"].keys() == own

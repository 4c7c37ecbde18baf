"""Two ranks that the tests of this folder share."""

import json

import pytest
from rank_tools import HERE, run_ranks


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory):
    """Two ranks that do everything in one process group: how they ended, what they found, and a model that they saved."""
    path = tmp_path_factory.mktemp("ranks") / "model.zip"
    ends = run_ranks(2, str(HERE / "rank_runs.py"), "short", str(path))
    for end in ends:
        assert end.stdout, end.stderr
    return ends, [json.loads(end.stdout.splitlines()[-1]) for end in ends], path

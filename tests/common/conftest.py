"""Evaluations with given returns."""

import numpy as np
import pytest

from sb3_sgmrl import AdaptationReport
from sb3_sgmrl.common import callbacks


@pytest.fixture
def scripted(monkeypatch):
    """Evaluations whose returns before and after adaptation are given."""

    def script(before, after):
        returns = iter(np.array([before, after], dtype=float).T)

        def evaluate(model, vec_env, tasks, **kwargs):
            return AdaptationReport(tasks, np.tile(next(returns), (len(tasks), 1)))

        monkeypatch.setattr(callbacks, "evaluate_adaptation", evaluate)

    return script

"""An equal search for the settings of every method, before the comparison."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sb3_sgmrl.cli.compare.kinds import KINDS, Distribution
from sb3_sgmrl.cli.compare.methods import Method
from sb3_sgmrl.cli.compare.protocol import Protocol
from sb3_sgmrl.cli.compare.runs import Run
from sb3_sgmrl.data.streams import EVAL_SEED

# the seed of all trials, which no run should have
_SEED = 2**32 - 1
# the part of the training steps that a trial has
_PART = 4


def trials_of(protocol: Protocol, n_trials: int, folder: pathlib.Path) -> dict[str, list[Run]]:
    """
    Make the trials of every method. A trial is a run on other tasks than the test tasks, with a quarter of the steps.

    :param protocol: The protocol of the comparison
    :param n_trials: The number of trials of each method; the first one has the settings at the start
    :param folder: The folder of the comparison
    :return: The trials by method; none for methods without settings to search
    """
    steps = (max(1, protocol.timesteps[0] // _PART),)
    of_trials = replace(
        protocol, timesteps=steps, n_tasks=protocol.eval_tasks, test_seed=EVAL_SEED, tasks_sha256="", eval_every=0, best=False
    )
    trials: dict[str, list[Run]] = {}
    for method in protocol.methods:
        space = KINDS[method.algo].search_space()
        drawn = [method, *(_drawn(method, space, trial) for trial in range(1, n_trials))] if space else []
        trials[method.name] = [
            Run(replace(of_trials, methods=(one,)), one, _SEED, folder / "tuning" / f"{method.name}-{i}-run")
            for i, one in enumerate(drawn)
        ]
    return trials


def _drawn(method: Method, space: Mapping[str, Distribution], trial: int) -> Method:
    """Draw the settings of a trial; equal trials of two methods with the same space have the same settings."""
    rng = np.random.default_rng([_SEED, trial])
    drawn = {name: distribution(rng) for name, distribution in space.items()}
    settings = {name.removeprefix("one_minus_"): 1 - value if "one_minus_" in name else value for name, value in drawn.items()}
    return replace(method, settings={**method.settings, **settings})


def tuned(protocol: Protocol, trials: Mapping[str, Sequence[Run]], say: Callable[[str], None]) -> Protocol:
    """
    Give every method the settings of its best trial.

    :param protocol: The protocol of the comparison
    :param trials: The finished trials by method
    :param say: The function that prints a line
    :return: The protocol with the best settings
    """
    methods = []
    for method in protocol.methods:
        scores = [_score(run, protocol.eval_steps) for run in trials[method.name]]
        if not scores or max(scores) == -np.inf:
            methods.append(method)
            continue
        best = int(np.argmax(scores))
        settings: dict[str, Any] = trials[method.name][best].method.settings
        changed = {name: value for name, value in settings.items() if value != method.settings[name]}
        text = ", ".join(f"{name}={value:.4g}" for name, value in changed.items()) or "the settings at the start"
        say(f"{method.name}: the best of {len(scores)} trials returns {scores[best]:.2f}, with {text}")
        methods.append(replace(method, settings=settings))
    return replace(protocol, methods=tuple(methods))


def _score(run: Run, k: int) -> float:
    report = run.report(run.protocol.timesteps[0])
    return -np.inf if report is None else float(report.mean_returns[k])

"""``python -m sb3_sgmrl.train`` with short episodes, stopped at a random moment by a signal, a kill or an error."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from sb3_sgmrl.cli import train
from sb3_sgmrl.cli.zoo import report
from sb3_sgmrl.common import saving
from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm

HORIZON = 10


def send(how: str) -> None:
    """Stop this process, or its group as a terminal does."""
    name, _, group = how.partition(" ")
    number = getattr(signal, name)
    if group:
        os.killpg(os.getpgrp(), number)
    else:
        os.kill(os.getpid(), number)


def arm(where: str, count: int, fraction: float, how: str) -> None:
    """Stop in a meta-iteration, while the model is written, or by an error of training."""
    n_calls, first = 0, 0.0

    def at_count(function: Callable[..., Any], stop: Callable[[], None]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal n_calls, first
            n_calls += 1
            first = time.monotonic() if n_calls == 1 else first
            if n_calls == count:
                stop()
            return function(*args, **kwargs)

        return counted

    def after_a_part_of_an_iteration() -> None:
        timer = threading.Timer(fraction * (time.monotonic() - first) / (count - 1), send, [how])
        timer.daemon = True
        timer.start()

    def fail() -> None:
        raise ValueError("the motor is hot")

    write = saving.write_model

    def write_a_part(file: Any, model: Any) -> None:
        file.write(b"x" * int(fraction * 10_000))
        file.flush()
        send(how)
        file.seek(0)
        file.truncate()

    def write_and_stop(file: Any, model: Any) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == count:
            write_a_part(file, model)
        write(file, model)

    if where == "iteration":
        MetaOnPolicyAlgorithm.collect_rollouts = at_count(  # type: ignore[method-assign]
            MetaOnPolicyAlgorithm.collect_rollouts, after_a_part_of_an_iteration
        )
    elif where == "error":
        MetaOnPolicyAlgorithm.outer_problem = at_count(MetaOnPolicyAlgorithm.outer_problem, fail)  # type: ignore[method-assign]
    else:
        saving.write_model = write_and_stop


def main(stop: list[Any] | None, arguments: list[str]) -> int:
    """Train, and return the exit code of the command."""
    for name in ("Navigation2D-v0", "HalfCheetahDir-v0"):
        gym.spec(name).max_episode_steps = HORIZON
    report.import_plots = lambda: None  # pictures take longer than the training
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let background jobs ignore it
    if stop is not None:
        arm(*stop)
    return train.main(arguments)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1]), sys.argv[2:]))

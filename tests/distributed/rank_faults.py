"""What goes wrong on a rank, and what ranks do besides training; run in the process group of ``rank_runs``."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import rank_searches
import torch as th
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from toys import HORIZON, SAMPLES, PointEnv, point, point_vec, tiny

from sb3_sgmrl import SGMRL, MetaEvalCallback, TaskDistEnv, evaluate_adaptation
from sb3_sgmrl.cli.compare import command
from sb3_sgmrl.distributed import start

RANK = int(os.environ.get("RANK", 0))


class Hot(PointEnv):
    """An environment that fails on rank 1, once the model is made."""

    is_armed = False

    def step(self, action: Any) -> Any:
        if RANK == 1 and Hot.is_armed:
            raise ValueError("the motor is hot")
        return super().step(action)


class Counting(BaseCallback):
    """Counts its calls, and stops at some of them."""

    def __init__(self, stops: bool = False) -> None:
        super().__init__()
        self.on_every_rank = stops
        self.n_steps = 0

    def _on_step(self) -> bool:
        self.n_steps += 1
        return not (self.on_every_rank and RANK == 1 and self.model._iteration == 1)


class Drift(BaseCallback):
    """Changes the parameters of one rank."""

    on_every_rank = True

    def _on_rollout_start(self) -> None:
        if RANK == 1:
            with th.no_grad():
                self.model.policy.log_std += 0.1

    def _on_step(self) -> bool:
        return True


def _learn(env: Any = None, n: int = 1, callback: Any = None, **settings: Any) -> Any:
    return tiny(SGMRL, point() if env is None else env, **settings).learn(n, callback=callback)


def _stopped() -> str:
    callback = Counting(stops=True)
    model = _learn(n=10 * SAMPLES, callback=callback)
    return f"{model._n_updates} {model.num_timesteps}"


def _plain() -> str:
    callback = Counting()
    _learn(callback=callback)
    return f"{callback.n_steps > 0}"


def _without_seed() -> str:
    model = _learn(seed=None)
    return f"{model._entropy} {float(sum(value.sum() for value in model.policy.state_dict().values()))!r}"


def _failing_callback() -> None:
    class Failing(BaseCallback):
        def _on_step(self) -> bool:
            raise KeyError("of the callback")

    _learn(callback=Failing())


def _in_a_command() -> None:
    with start().together():
        _learn(meta_batch_size=1)


def compare(*arguments: str, timesteps: Sequence[str] = ("90",), verbose: str = "1") -> str:
    """A comparison that is repeated with more steps, and what it writes."""
    settings = ["--set", "n_episodes=2", "meta_batch_size=2", "policy_kwargs={'net_arch': [4]}"]
    sizes = ["--horizon", "5", "--n-tasks", "3", "--n-steps", "2", "--eval-tasks", "2", "--no-plots"]
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        options = [*settings, *sizes, "--verbose", verbose, "--folder", folder, *arguments]
        codes = [command.main([*options, "--timesteps", *timesteps[: n + 1]]) for n in range(len(timesteps))]
        files = {str(file.relative_to(folder)): file for file in Path(folder).rglob("*") if file.is_file()}
        texts = {
            name: file.read_text()
            for name, file in files.items()
            if name.endswith(("on_90.csv", "on_200.csv", ".tex", ".yml"))
        }
    return f"{codes} {sorted(files)} {sorted(texts.items())}"


def compared() -> str:
    """A comparison of two methods, one of which overflows."""
    methods = ["--method", "maml", "big=maml:inner_lr=1e30,learning_rate=1e30", "--eval-every", "40", "--best"]
    with np.errstate(over="ignore"):
        return compare(*methods, "--seeds", "0", timesteps=("90", "200"))


def _failure_after_a_fault() -> None:
    """Rank 1 fails while rank 0 waits, after a fault that both have caught."""
    ranks = start()
    with ranks.together():
        try:
            with ranks.together():
                raise ValueError("the first")
        except RuntimeError:
            pass
        if RANK == 1:
            raise ValueError("the second")
        ranks.exchange(None)


def _other_sums() -> None:
    ranks = start()
    ranks.sums_by_blocks = RANK == 1
    try:
        _learn()
    finally:
        ranks.sums_by_blocks = False


def evaluated() -> str:
    """The evaluations of a training and one by hand, with more tasks than ranks."""
    model = tiny(SGMRL, point(), meta_batch_size=4)
    with tempfile.TemporaryDirectory() as folder:
        callback = MetaEvalCallback(point(), n_tasks=3, n_episodes=2, eval_freq=1, log_path=folder, verbose=0)
        model.learn(2 * SAMPLES, callback=callback)
        files = sorted(os.listdir(folder)) if RANK == 0 else ["evaluations.npz"]
    by_hand = evaluate_adaptation(model, n_tasks=3, n_episodes=2, ranks=start())
    assert callback.last_report is not None
    return f"{files} {callback.last_report.returns.tolist()} {by_hand.returns.tolist()} {model.logger is not None}"


def error_to_be_shown() -> None:
    """Fail in the environment of rank 1."""
    Hot.is_armed = False
    model = tiny(SGMRL, TaskDistEnv(TimeLimit(Hot(), HORIZON)))
    Hot.is_armed = True
    model.learn(1)


FAULTS: dict[str, Callable[[], Any]] = {
    "arguments": lambda: _learn(inner_lr=0.1 + RANK),
    "seeds": lambda: _learn(seed=RANK),
    "few tasks": lambda: _learn(meta_batch_size=1),
    "in a command": _in_a_command,
    "baseline": lambda: compare("--method", "maml", "ppo", verbose="2"),
    "parallel": lambda: compare("--parallel", "2", verbose="2"),
    "VecEnv": lambda: _learn(point_vec(2) if RANK == 0 else VecNormalize(point_vec(2), training=False)),
    "VecEnv on a rank": lambda: _learn(point_vec(2) if RANK == 1 else point()),
    "environment": error_to_be_shown,
    "time limit": lambda: _learn(point(horizon=HORIZON + RANK)),
    "VecNormalize": lambda: _learn(VecNormalize(DummyVecEnv([point]))),
    "drift": lambda: _learn(n=10 * SAMPLES, callback=Drift(), meta_batch_size=2, n_episodes=2),
    "callback": _failing_callback,
    "late timeout": lambda: start(timeout=5),
    "late blocks": lambda: start(sum_by_blocks=True),
    "blocks": _other_sums,
    "after a fault": _failure_after_a_fault,
    "search, few tasks": lambda: rank_searches.refused(params=("meta_batch_size:1",)),
    "search, jobs": lambda: rank_searches.refused("--n-jobs", "2"),
    "search, options": lambda: rank_searches.refused("--eval-tasks", str(2 + RANK)),
    "search, environment": rank_searches.searched_without_an_environment,
    "compare, options": lambda: compare("--method", "maml", "--eval-tasks", str(2 + RANK), verbose="2"),
}
OTHERS: dict[str, Callable[[], str]] = {
    "stop": _stopped,
    "plain callback": _plain,
    "no seed": _without_seed,
    "evaluation": evaluated,
    "compare": compared,
    "search": rank_searches.searched,
    "search with a fault": rank_searches.searched_with_a_fault,
}


def found() -> dict[str, str]:
    """The errors and the other results, by name."""
    errors: dict[str, str] = {}
    for name, fault in FAULTS.items():
        try:
            fault()
            errors[name] = "no error"
        except (RuntimeError, ValueError) as error:
            errors[name] = str(error)
    return {**errors, **{name: other() for name, other in OTHERS.items()}}


def saved(path: str) -> None:
    """Save a model after its first iteration; only its file tells how many ranks there were."""
    model = tiny(SGMRL, point(), meta_batch_size=5, n_episodes=3)
    model.learn(1)
    if RANK == 0:
        model.save(path)

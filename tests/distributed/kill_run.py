"""A training that torchrun restarts: every start but the last is killed at a random moment, and resumes from a checkpoint."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from gymnasium.wrappers import TimeLimit
from rank_runs import digest
from stable_baselines3.common.vec_env import VecEnv
from toys import HORIZON, PointEnv, point, tiny

from sb3_sgmrl import SGMRL, TaskDistEnv
from sb3_sgmrl.cli.zoo.ranks import LastModel
from sb3_sgmrl.distributed import start
from sb3_sgmrl.vec_env.process_vec_env import ProcessVecEnv

KINDS = ("kill", "exit", "hang", "raise", "kill")
WORKER_TIMEOUT = 5.0


class Fragile(PointEnv):
    """An environment whose process ends or hangs at some step, when it is told to."""

    n_steps = 0

    def __init__(self, fault: str, at: int) -> None:
        super().__init__()
        self.fault, self.at = fault, at

    def step(self, action: Any) -> Any:
        Fragile.n_steps += 1
        if Fragile.n_steps >= self.at:
            if self.fault == "exit":
                os._exit(3)
            if self.fault == "hang":
                time.sleep(1000)
            if self.fault == "raise":
                raise ValueError("the motor is hot")
        return super().step(action)


def workers(fault: str, at: int) -> VecEnv:
    """Two workers in a process of their own."""
    fragile = partial(lambda: TaskDistEnv(TimeLimit(Fragile(fault, at), HORIZON)))
    return ProcessVecEnv([fragile, fragile], n_processes=1, timeout=WORKER_TIMEOUT)


def main(folder: str, n_iterations: int, n_faults: int, seed: int) -> None:
    """Train to the end, with a fault in each of the first starts."""
    ranks = start(timeout=60)
    n_starts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    rng = np.random.default_rng([seed, n_starts])
    kind = KINDS[int(rng.integers(len(KINDS)))] if n_starts < n_faults else ""
    victim, delay, step = int(rng.integers(ranks.size)), rng.uniform(0, 8), int(rng.integers(40, 1200))
    in_worker = kind in ("exit", "hang", "raise") and victim == ranks.rank
    if kind in ("exit", "hang", "raise"):  # all ranks need the same kind of workers
        env: Any = workers(kind if in_worker else "", step)
    else:
        env = point()
    path = Path(folder) / "last_model.zip"
    settings = {"meta_batch_size": 4, "n_episodes": 2}
    if path.exists():
        model = SGMRL.load(path, env=env, device="cpu")
    else:
        model = tiny(SGMRL, env, **settings)
    if victim == ranks.rank and kind:
        with open(Path(folder) / "faults.txt", "a") as file:
            file.write(f"{n_starts} {kind} of rank {victim} from iteration {model._iteration}\n")
    if kind == "kill" and victim == ranks.rank:
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    samples = 2 * 4 * 2 * HORIZON
    n_left = n_iterations * samples - model.num_timesteps
    model.learn(max(n_left, 0), LastModel(str(path)), log_interval=None, reset_num_timesteps=False)
    if ranks.rank == 0:
        (Path(folder) / "end.json").write_text(json.dumps([digest(model), model._iteration, n_starts]))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))

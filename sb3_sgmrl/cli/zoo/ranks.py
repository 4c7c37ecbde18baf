"""The commands under torchrun: rank 0 has the files and the output, and a restarted run resumes from its last checkpoint."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_sgmrl.cli.zoo.options import MetaOptions
from sb3_sgmrl.common.arguments import argument_names
from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
from sb3_sgmrl.distributed import start
from sb3_sgmrl.distributed.programs import folder_of_rank
from sb3_sgmrl.distributed.start_check import check_same
from sb3_sgmrl.util.files import replace_when_complete

# seconds between two checkpoints of a run that torchrun may restart
_BETWEEN_CHECKPOINTS = 10.0
_CHECKPOINT = "last_model.zip"
# RL Zoo's options that choose what all ranks do, by attribute; other options belong to rank 0, such as files
_SHARED = {
    **{"algo": "--algo", "env": "--env", "n_timesteps": "-n", "seed": "--seed"},
    **{"env_kwargs": "--env-kwargs", "eval_env_kwargs": "--eval-env-kwargs", "eval_freq": "--eval-freq"},
    **{"eval_episodes": "--eval-episodes", "optimize_hyperparameters": "-optimize", "n_evaluations": "--n-evaluations"},
}
_SHARED_OF_META = {"n_tasks": "--eval-tasks", "n_steps": "--eval-steps", "resume": "--resume"}


@contextmanager
def arguments_of_rank(arguments: Sequence[str], timeout: float, sum_by_blocks: bool) -> Iterator[list[str]]:
    """
    Change the arguments of RL Zoo's ``train`` for this rank, within a ``with`` statement.

    All ranks have the same seed. Ranks above 0 print nothing, and write into a temporary folder.

    :param arguments: The arguments of the command
    :param timeout: The number of seconds that a rank waits for the slowest one
    :param sum_by_blocks: Whether ranks exchange one sum of gradients each
    :return: The arguments of this rank
    :raises RankError: When a rank failed
    """
    ranks = start(timeout, sum_by_blocks)
    if ranks.size == 1:
        yield list(arguments)
        return
    with ranks.together(), folder_of_rank(ranks, "") as folder:
        seed = ranks.of_first(lambda: int(np.random.SeedSequence().generate_state(1)[0]))
        changed = ["--seed", str(seed), *arguments]
        yield changed if ranks.rank == 0 else [*changed, "--log-folder", str(folder)]


def check_options(options: Any, meta: MetaOptions) -> None:
    """
    Check that the command has the same options on all ranks, as far as all ranks use them.

    :param options: The options of RL Zoo
    :param meta: The options of this package
    :raises ValueError: When an option differs
    """
    if start().size > 1:
        pairs = (options, _SHARED), (meta, _SHARED_OF_META)
        given = {f"`{flag}`": getattr(of, name) for of, flags in pairs for name, flag in flags.items()}
        params = {f"`-params {name}`": value for name, value in (options.hyperparams or {}).items()}
        check_same(start(), {**given, **params})


def resume_if_restarted(manager: Any, algorithm: type[MetaOnPolicyAlgorithm]) -> bool:
    """
    Let a manager resume the run that torchrun has restarted.

    :param manager: The manager of RL Zoo, before it has read hyperparameters
    :param algorithm: The algorithm
    :return: Whether the run resumes from a checkpoint
    """
    checkpoint = "" if manager.optimize_hyperparameters else checkpoint_of_restart(manager.log_folder)
    if checkpoint:  # which holds the settings of the algorithm
        given, of_algorithm = manager.custom_hyperparams or {}, argument_names(algorithm)
        manager.custom_hyperparams = {name: value for name, value in given.items() if name not in of_algorithm}
        manager.trained_agent, manager.continue_training = checkpoint, True
    return bool(checkpoint)


def checkpoint_of_restart(log_folder: str) -> str:
    """
    Find the last checkpoint of the run that torchrun has restarted. Ranks above 0 get a copy in their own folder.

    :param log_folder: The folder of the runs
    :return: The file; empty when torchrun has not restarted this run, or before its first checkpoint
    """
    ranks = start()
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) == 0:
        return ""
    content = ranks.of_first(lambda: _last_checkpoint(log_folder))
    if content is None:
        return ""
    file = pathlib.Path(log_folder) / f"restart_{os.environ.get('TORCHELASTIC_RUN_ID')}.zip"
    with replace_when_complete(file) as opened:
        opened.write(content)
    return str(file)


def _record(log_folder: str) -> pathlib.Path:
    return pathlib.Path(log_folder) / f"torchrun_{os.environ.get('TORCHELASTIC_RUN_ID')}.txt"


def _last_checkpoint(log_folder: str) -> bytes | None:
    """Return the last complete checkpoint of any of the starts of this run."""
    record = _record(log_folder)
    folders = record.read_text().splitlines() if record.exists() else []
    files = [pathlib.Path(folder) / _CHECKPOINT for folder in reversed(folders)]
    return next((file.read_bytes() for file in files if file.exists()), None)


def checkpoint_callbacks(log_folder: str, save_path: str) -> list[BaseCallback]:
    """
    Make the callback that saves checkpoints of a run that torchrun may restart.

    :param log_folder: The folder of the runs
    :param save_path: The folder of this run
    :return: The callback; none when torchrun does not restart
    """
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) == 0 or start().rank > 0:
        return []
    record = _record(log_folder)
    first = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) == 0
    before = record.read_text() if record.exists() and not first else ""
    with replace_when_complete(record) as file:
        file.write(f"{before}{os.path.abspath(save_path)}\n".encode())
    return [LastModel(os.path.join(save_path, _CHECKPOINT), _BETWEEN_CHECKPOINTS)]


class LastModel(BaseCallback):
    """
    Save the model at the start of meta-iterations, always to the same file.

    :param path: The file
    :param seconds: The number of seconds between two checkpoints
    """

    def __init__(self, path: str, seconds: float = 0.0) -> None:
        super().__init__()
        self.path, self.seconds = path, seconds
        self._last = -np.inf

    def _on_rollout_start(self) -> None:
        if time.monotonic() - self._last >= self.seconds:
            self.model.save(self.path)
            self._last = time.monotonic()

    def _on_step(self) -> bool:
        return True

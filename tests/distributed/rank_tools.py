"""Processes as torchrun starts them, without the seconds that torchrun itself takes to start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from paths import ROOT

HERE = Path(__file__).parent


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def rank_environment(rank: int, n_ranks: int, port: int) -> dict[str, str]:
    """The variables that torchrun sets."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "TORCHELASTIC_RUN_ID": f"test_{port}",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(n_ranks),
        "LOCAL_WORLD_SIZE": str(n_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def run_ranks(n_ranks: int, *command: str, timeout: float = 240) -> list[subprocess.CompletedProcess]:
    """Run a Python program on some ranks, and return how each ended."""
    port = free_port()
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            env=rank_environment(rank, n_ranks, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(n_ranks)
    ]
    try:
        ends = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *end) for process, end in zip(started, ends, strict=True)
    ]

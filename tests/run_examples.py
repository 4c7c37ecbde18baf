"""Runs the examples as they stand."""

import os
import subprocess
import sys

from paths import EXAMPLES


def run_example(folder, name, *arguments, warns=False):
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", env=environment)
    assert result.returncode == 0, result.stderr
    assert warns or "Warning" not in result.stderr
    return result.stdout


def error_of(folder, name, *arguments):
    """The one line that it ends with."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr

"""Runs the examples as they stand."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from unittest import mock

import pytest
from paths import EXAMPLES


def run_example(folder, name, *arguments, warns=False):
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", env=environment)
    assert result.returncode == 0, result.stderr
    assert warns or "Warning" not in result.stderr
    return result.stdout


def error_of(folder, name, *arguments):
    """The one line that it ends with; in this process, because it takes seconds to import what an example needs."""
    before, output = os.getcwd(), io.StringIO()
    path = [str(EXAMPLES), *sys.path]
    os.chdir(folder)
    try:
        with mock.patch.object(sys, "argv", [name, *arguments]), mock.patch.object(sys, "path", path):
            with contextlib.redirect_stderr(output), pytest.raises(SystemExit) as stop:
                runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    finally:
        os.chdir(before)
    error = output.getvalue()
    if isinstance(stop.value.code, str):  # Python prints it, and ends with 1
        raise AssertionError(stop.value.code)
    assert stop.value.code == 2
    assert error.count("\n") == 1, error
    return error

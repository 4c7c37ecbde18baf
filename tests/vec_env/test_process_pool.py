"""Jobs of a pool end when they should."""

import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups of POSIX")

SCRIPT = """
import sys
import time
from sb3_sgmrl.util.processes import process_pool

if __name__ == "__mp_main__" and len(sys.argv) > 3:
    print("importing", flush=True)
    time.sleep(float(sys.argv[3]))

def job(i):
    print("job", i, flush=True)
    if i == int(sys.argv[1]):
        raise ValueError("a job that fails")
    time.sleep(float(sys.argv[2]))

if __name__ == "__main__":
    with process_pool(2) as pool:
        for future in [pool.submit(job, i) for i in range(30)]:
            future.result()
    print("all done")
"""
HOURS = "10000"


@pytest.fixture
def start(tmp_path):
    """Starts the script in a process group of its own, which a terminal's Ctrl-C goes to."""
    programs = []

    def _start(failing, *seconds):
        (tmp_path / "jobs.py").write_text(SCRIPT)
        command = [sys.executable, "-u", str(tmp_path / "jobs.py"), failing, *seconds]
        pipe = subprocess.PIPE
        programs.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True))
        return programs[-1]

    yield _start
    for program in programs:
        try:
            os.killpg(program.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def output(program):
    """All that was printed; that there is no more is known only when every process with this output has ended."""
    return program.communicate(timeout=500)


def test_all_jobs_are_done(start):
    printed, _ = output(start("-1", "0"))
    assert printed.count("job") == 30
    assert printed.endswith("all done\n")


@pytest.mark.slow
def test_an_error_is_shown_before_the_jobs_that_have_not_begun(start):
    printed, errors = output(start("0", "1"))
    assert "ValueError: a job that fails" in errors
    assert printed.count("job") < 10


@pytest.mark.parametrize(("send", "name"), [("killpg", "SIGINT"), ("kill", "SIGKILL")])
def test_no_process_stays_behind(start, send, name):
    program = start("-1", HOURS)
    assert {program.stdout.readline(), program.stdout.readline()} == {"job 0\n", "job 1\n"}
    getattr(os, send)(program.pid, getattr(signal, name))
    printed, _ = output(program)
    assert printed == ""
    assert program.returncode != 0


def test_ctrl_c_while_a_process_imports_prints_no_traceback_of_it(start):
    program = start("-1", HOURS, "1")
    assert program.stdout.readline() == "importing\n"
    os.killpg(program.pid, signal.SIGINT)
    _, errors = output(program)
    assert errors.count("Traceback") == 1, errors

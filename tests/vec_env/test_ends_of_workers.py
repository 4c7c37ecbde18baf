"""Workers that die or hang, and what is left when the program is ended."""

import multiprocessing as mp
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv
from threadpoolctl import threadpool_info
from toys import HORIZON, PointEnv, assert_same, point, state, tiny

from sb3_sgmrl import MAML, TaskDistEnv, evaluate_adaptation
from sb3_sgmrl.util.threads import single_threaded
from sb3_sgmrl.vec_env.answers import answers_in_time
from sb3_sgmrl.vec_env.process_vec_env import ProcessVecEnv
from sb3_sgmrl.vec_env.task_workers import likely_horizon


class Faulty(PointEnv):
    """Dies or hangs where the second number of its task says so."""

    def set_task(self, task):
        super().set_task(task)
        self.fail(0.125)

    def reset(self, **kwargs):
        self.fail(0.25)
        return super().reset(**kwargs)

    def fail(self, where):
        if self.goal[1] == where:
            if self.goal[0] == 0:
                os._exit(7)
            time.sleep(1000)


def faulty():
    return TaskDistEnv(TimeLimit(Faulty(), HORIZON))


@pytest.mark.parametrize("where", [0.125, pytest.param(0.25, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("what", "match"), [(0.0, "died with exit code 7"), (0.5, "did not answer within 8 seconds")])
def test_the_task_that_is_begun_is_named(where, what, match):
    """The one before had ended well."""
    env = ProcessVecEnv([faulty] * 2, n_processes=1, timeout=8)
    env.env_method("set_schedule", [([0.75, 0.75], 0), ([what, where], 1)], indices=1)
    env.env_method("set_schedule", [([0.75, 0.75], 0)] * 2, indices=0)
    env.reset()
    with pytest.raises(RuntimeError, match=rf"{match} in worker 1, task \[{what:.0f}\.5? +{where}\]\."):
        for _ in range(HORIZON):
            env.step(np.zeros((2, 2), np.float32))


def subproc(n=2):
    return make_vec_env(faulty, n, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "fork"})


def test_a_worker_of_sb3_that_hangs_ends_in_time():
    env = subproc()
    with pytest.raises(
        RuntimeError, match="Worker 1 of `env` did not answer within 1 seconds, so all workers of `env` were ended"
    ):
        with answers_in_time(env, timeout=1):
            env.env_method("set_schedule", [([0.75, 0.75], 0)], indices=0)
            env.env_method("set_schedule", [([0.5, 0.25], 0)], indices=1)
            env.reset()
    assert not any(process.is_alive() for process in env.processes)
    env.close()


class Drawing(PointEnv):
    def sample_tasks(self, n, rng):
        time.sleep(1000)


@pytest.mark.parametrize("ask", [likely_horizon, lambda env: evaluate_adaptation(tiny(MAML, point()), env, n_tasks=1)])
def test_questions_to_workers_of_sb3_end_in_time(ask, monkeypatch):
    """Before a phase begins: to draw tasks, and to look for the end of an episode."""
    monkeypatch.setattr(answers_in_time.__wrapped__, "__defaults__", (0.5,))
    env = make_vec_env(lambda: TaskDistEnv(Drawing()), 1, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "fork"})
    with pytest.raises(RuntimeError, match=r"Worker 0 of `env` did not answer within 0.5 seconds"):
        ask(env)
    env.close()


def test_a_worker_of_sb3_that_dies_is_named():
    env = subproc()
    with pytest.raises(EOFError, match="The process of worker 0 of `env` died"), answers_in_time(env):
        env.env_method("set_schedule", [([0.0, 0.25], 0)], indices=0)
        env.reset()
    for process in env.processes:
        process.kill()
    for remote in env.remotes:
        remote.close()


SCRIPT = """
import sys, time
from functools import partial
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.vec_env import SubprocVecEnv
from sb3_sgmrl import MAML, TaskDistEnv, evaluate_adaptation
from sb3_sgmrl.vec_env.process_vec_env import ProcessVecEnv
from toys import PointEnv, tiny

class Hangs(PointEnv):
    def step(self, action):
        print("hangs", flush=True)
        if sys.argv[2] == "python":
            time.sleep(1000)
        import ctypes  # a library in C that does not give the interpreter back
        ctypes.PyDLL(None).sleep(1000)

def make():
    return TaskDistEnv(TimeLimit(Hangs(), 5))

if __name__ == "__main__":
    cls = ProcessVecEnv if sys.argv[1] == "own" else partial(SubprocVecEnv, start_method="fork")
    tiny(MAML, cls([make] * 2)).learn(1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="without signals of the kernel, a thread must run to end a process")
@pytest.mark.parametrize(
    ("kind", "how", "by"),
    [
        ("own", "c", signal.SIGKILL),
        pytest.param("own", "python", signal.SIGTERM, marks=pytest.mark.slow),
        ("sb3", "c", signal.SIGTERM),
        pytest.param("sb3", "python", signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_no_process_is_left_while_an_environment_hangs(kind, how, by, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join([folder, *sys.path])
    program = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), kind, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    try:
        assert program.stdout.readline().startswith("hangs")  # both workers may write at once
        program.send_signal(by)
        # that there is no more output is known only when every process with it has ended
        program.communicate(timeout=60)
    finally:
        try:
            os.killpg(program.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


# Daemonic processes, and threads


def _in_daemon(queue):
    try:
        tiny(MAML, point(), engine="subprocess", n_envs=2)
    except ValueError as error:
        queue.put(str(error))


def test_a_daemonic_process_may_not_start_others():
    context = mp.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_in_daemon, args=(queue,), daemon=True)
    process.start()
    assert "`engine='subprocess'` cannot start processes in a daemonic process, such as a" in queue.get(timeout=60)
    process.join()


class Starts(PointEnv):
    """Has a process of its own."""

    def __init__(self):
        super().__init__()
        process = mp.get_context("fork").Process(target=time.sleep, args=(0,))
        process.start()
        process.join()


def test_environments_in_processes_may_start_their_own():
    env = ProcessVecEnv([lambda: TaskDistEnv(TimeLimit(Starts(), HORIZON))], 1)
    env.close()


def limits():
    return th.get_num_threads(), [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"]


def test_limits_are_restored_after_trainings_side_by_side():
    before = th.get_num_threads()
    th.set_num_threads(2)
    try:
        expected = limits()
        one, other = single_threaded(), single_threaded()
        one.__enter__()  # they overlap, and the first to begin is the first to end
        with ThreadPoolExecutor(1) as pool:
            pool.submit(other.__enter__).result()
            one.__exit__(None, None, None)
            pool.submit(other.__exit__, None, None, None).result()
            assert pool.submit(th.get_num_threads).result() == 2
        assert limits() == expected
        with single_threaded():
            with single_threaded():
                pass
            assert th.get_num_threads() == 1
        assert limits() == expected
    finally:
        th.set_num_threads(before)


def test_models_made_in_threads_are_those_made_alone():
    settings = [{"seed": seed, "policy_kwargs": {"net_arch": [64, 64]}} for seed in range(8)]
    alone = [state(tiny(MAML, point(), **kwargs)) for kwargs in settings]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda kwargs: state(tiny(MAML, point(), **kwargs)), settings))
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)

"""Run many workers per process, with one message per process and step instead of one per worker."""

from __future__ import annotations

import ctypes
import multiprocessing as mp
import pickle
import signal
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_sgmrl.tasks.copies import is_heavy
from sb3_sgmrl.util.interrupts import undisturbed
from sb3_sgmrl.util.processes import end_with_parent
from sb3_sgmrl.util.threads import n_processors
from sb3_sgmrl.util.validation import check_positive
from sb3_sgmrl.vec_env.probe import find_task_env
from sb3_sgmrl.vec_env.resting import let_rest

# Seconds for the slowest step of an environment, and for the start of a process and its environments.
TIMEOUT = 60.0
START_TIMEOUT = 300.0
_TASK_TEXT = 200


class ProcessVecEnv(VecEnv):
    """
    A VecEnv like ``DummyVecEnv(env_fns)`` with the environments spread over processes.

    Stable-Baselines3's ``SubprocVecEnv`` needs one process and one message per environment. This costs more than most
    environments do.

    Unlike with ``SubprocVecEnv``, scripts need no ``if __name__ == "__main__"``. An error of an environment is raised here
    unchanged. Ctrl-C reaches this process only.

    :param env_fns: The functions that make the environments
    :param n_processes: The number of processes; the default is one per processor
    :param timeout: The maximum number of seconds to wait for an answer
    :raises ValueError: When a number is not positive, or this process must not start others
    :raises RuntimeError: When a process dies or does not answer in time; the other processes are then ended
    """

    def __init__(
        self, env_fns: Sequence[Callable[[], gym.Env]], n_processes: int | None = None, timeout: float = TIMEOUT
    ) -> None:
        n_processes = min(n_processors(), len(env_fns)) if n_processes is None else n_processes
        check_positive(n_processes=n_processes)
        if not timeout > 0:
            raise ValueError(f"`timeout` must be a positive number of seconds, got {timeout!r}.")
        if mp.current_process().daemon:
            raise ValueError(
                "`engine='subprocess'` cannot start processes in a daemonic process, such as a multiprocessing.Pool worker: "
                "use `engine='in_process'`, or a concurrent.futures.ProcessPoolExecutor."
            )
        self.timeout = timeout
        self.chunks = [chunk for chunk in np.array_split(np.arange(len(env_fns)), n_processes) if len(chunk)]
        context = mp.get_context("spawn")
        self._remotes: list[Connection] = []
        self._processes: list[Any] = []
        self._marks: list[_Mark] = []
        self._owed = [1] * len(self.chunks)  # number of answers that each process still owes
        # Ends the processes even without `close`.
        self._end = weakref.finalize(self, _end, self._processes, self._remotes)
        for chunk in self.chunks:
            ours, theirs = context.Pipe()
            mark = context.RawValue(_Mark)
            pickled = cloudpickle.dumps([env_fns[i] for i in chunk])
            process = context.Process(target=_serve, args=(theirs, pickled, mark), daemon=True)
            with _main_left_out():
                process.start()
            theirs.close()
            self._remotes.append(ours)
            self._processes.append(process)
            self._marks.append(mark)
        facts = [self._receive(i, START_TIMEOUT) for i in range(len(self.chunks))]
        observation_space, action_space, self.metadata = facts[0]
        super().__init__(len(env_fns), observation_space, action_space)

    # -- playing ---------------------------------------------------------------------------------------------------

    def reset(self) -> VecEnvObs:
        """
        Begin a new episode in every worker.

        :return: The observations, shape (num_envs, *observation_space.shape)
        """
        for i, chunk in enumerate(self.chunks):
            self._send(i, "reset", [self._seeds[w] for w in chunk], [self._options[w] for w in chunk])
        self._reset_seeds()
        self._reset_options()
        observations, infos = zip(*self._answers(), strict=True)
        self.reset_infos = [info for part in infos for info in part]
        return _join(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """
        Send the actions of one step.

        :param actions: The actions, shape (num_envs, *action_space.shape)
        """
        for i, chunk in enumerate(self.chunks):
            self._send(i, "step", actions[chunk[0] : chunk[-1] + 1])

    def step_wait(self) -> VecEnvStepReturn:
        """
        Receive the results of one step.

        :return: The observations, rewards, dones and infos
        """
        observations, rewards, dones, infos, reset_infos = zip(*self._answers(), strict=True)
        for chunk, some in zip(self.chunks, reset_infos, strict=True):
            for place, info in some.items():
                self.reset_infos[chunk[place]] = info
        return _join(observations), np.concatenate(rewards), np.concatenate(dones), [i for part in infos for i in part]

    def close(self) -> None:
        """Close the environments and end the processes."""
        for i, process in enumerate(self._processes):
            with suppress(Exception):
                if process.is_alive():
                    self._send(i, "close")
        for process in self._processes:
            process.join(5)
        self._end()

    # -- access to workers -----------------------------------------------------------------------------------------

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """
        Call a method of workers.

        :param method_name: The name of the method
        :param method_args: The arguments of the method
        :param indices: The indices of the workers; ``None`` for all
        :param method_kwargs: The keyword arguments of the method
        :return: One answer per worker
        """
        return self._ask("env_method", indices, method_name, *method_args, **method_kwargs)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        Read an attribute of workers.

        :param attr_name: The name of the attribute
        :param indices: The indices of the workers; ``None`` for all
        :return: The value of each worker
        """
        return self._ask("get_attr", indices, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        Set an attribute of workers.

        :param attr_name: The name of the attribute
        :param value: The new value
        :param indices: The indices of the workers; ``None`` for all
        """
        self._ask("set_attr", indices, attr_name, value)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """
        Check whether workers have a wrapper.

        :param wrapper_class: The class of the wrapper
        :param indices: The indices of the workers; ``None`` for all
        :return: Whether each worker has this wrapper
        """
        return self._ask("env_is_wrapped", indices, wrapper_class)

    def get_images(self) -> Sequence[np.ndarray | None]:
        """
        Render all workers.

        :return: The image of each worker
        """
        return self._ask("env_method", None, "render")

    # -- messages --------------------------------------------------------------------------------------------------

    def _ask(self, name: str, indices: VecEnvIndices, *args: Any, **kwargs: Any) -> list[Any]:
        wanted = list(self._get_indices(indices))
        answers: dict[int, Any] = {}
        asked = []
        for i, chunk in enumerate(self.chunks):
            places = [w - chunk[0] for w in wanted if chunk[0] <= w <= chunk[-1]]
            if places:
                self._send(i, name, *args, indices=places, **kwargs)
                asked.append((i, [chunk[0] + place for place in places]))
        for (_, workers), values in zip(asked, self._answers([i for i, _ in asked]), strict=True):
            answers.update(zip(workers, values or [None] * len(workers), strict=True))
        return [answers[w] for w in wanted]

    def _send(self, i: int, name: str, *args: Any, **kwargs: Any) -> None:
        while self._owed[i]:  # discard the answers that an interrupt left
            self._receive(i, self.timeout)
        # cloudpickle is needed for objects that the user's script defines, but not for arrays of actions.
        dump = pickle.dumps if name == "step" else cloudpickle.dumps
        message = dump((name, args, kwargs))
        try:
            with undisturbed():  # an uncounted message would leave an answer that the next question would read
                self._remotes[i].send_bytes(message)
                self._owed[i] += 1
        except OSError:
            self._fail(i)

    def _answers(self, processes: Sequence[int] | None = None) -> list[Any]:
        """Receive all answers before raising an error, so that no answer stays in a pipe."""
        processes = range(len(self.chunks)) if processes is None else processes
        answers = [self._receive(i, self.timeout) for i in processes]
        for answer in answers:
            if isinstance(answer, _Raised):
                raise answer.error from RuntimeError(answer.traceback)
        return answers

    def _receive(self, i: int, timeout: float) -> Any:
        try:
            if self._remotes[i].poll(timeout):
                with undisturbed():
                    answer = self._remotes[i].recv_bytes()
                    self._owed[i] -= 1
                return pickle.loads(answer)
        except (OSError, EOFError):
            self._fail(i)
        self._fail(i, f"did not answer within {timeout:g} seconds")

    def _fail(self, i: int, what: str | None = None) -> None:
        process, mark, chunk = self._processes[i], self._marks[i], self.chunks[i]
        if what is None:
            process.join(5)
            what = f"died with exit code {process.exitcode}"
        task = f", task {mark.task.decode(errors='replace')}" if mark.task else ""
        self._end()
        raise RuntimeError(f"The process of workers {chunk[0]} to {chunk[-1]} {what} in worker {chunk[0] + mark.place}{task}.")


def _end(processes: list[Any], remotes: list[Connection]) -> None:
    for process, remote in zip(processes, remotes, strict=True):
        process.kill()
        process.join()
        remote.close()


class _Mark(ctypes.Structure):
    """The current activity of a process, in memory that outlives the process."""

    _fields_ = (("place", ctypes.c_int), ("task", ctypes.c_char * _TASK_TEXT))
    place: int
    task: bytes


class _Marked(gym.Wrapper):
    """Notes which environment of the process plays which task, in case it never returns."""

    def __init__(self, env: gym.Env, mark: _Mark, place: int) -> None:
        super().__init__(env)
        self._mark, self._place, self._text = mark, place, b""
        task_env = find_task_env(env)
        if task_env is not None:
            task_env.on_task = self._note

    def _note(self, task: Any) -> None:
        """Store a task that is about to be set."""
        self._text = (f"of type {type(task).__name__}" if is_heavy(task) else str(task)).encode()[: _TASK_TEXT - 1]
        self._mark.place, self._mark.task = self._place, self._text

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self._mark.place, self._mark.task = self._place, b""
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._mark.place, self._mark.task = self._place, self._text
        return self.env.step(action)


def _marked(env_fn: Callable[[], gym.Env], mark: _Mark, place: int) -> gym.Env:
    env = _Marked(env_fn(), mark, place)
    let_rest(env)
    return env


class _Raised:
    """An error that is sent to the other process."""

    def __init__(self, error: Exception) -> None:
        self.traceback = traceback.format_exc()
        try:
            self.error: Exception = cloudpickle.loads(cloudpickle.dumps(error))
        except Exception:
            self.error = RuntimeError(f"{type(error).__name__}: {error}")


@contextmanager
def _main_left_out() -> Iterator[None]:
    """Start processes without the user's script; the parts they need are pickled by value."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:  # restore only this name, so that modules imported meanwhile stay
        sys.modules["__main__"] = main


def _serve(remote: Connection, pickled: bytes, mark: _Mark) -> None:
    """Answer in a process until it is told to close, or until its parent process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    # Environments may start their own processes.
    mp.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    th.set_num_threads(1)
    answer: Any
    try:
        env_fns = cloudpickle.loads(pickled)
        envs = DummyVecEnv([partial(_marked, fn, mark, i) for i, fn in enumerate(env_fns)])
        answer = (envs.observation_space, envs.action_space, envs.metadata)
    except Exception as error:
        envs, answer = None, _Raised(error)
    with suppress(EOFError, OSError):
        while True:
            remote.send_bytes(_dump(answer))
            name, args, kwargs = cloudpickle.loads(remote.recv_bytes())
            try:
                if name == "close":
                    break
                answer = _ACTIONS[name](envs, *args) if name in _ACTIONS else getattr(envs, name)(*args, **kwargs)
            except Exception as error:
                answer = _Raised(error)
    if envs is not None:
        envs.close()


def _dump(answer: Any) -> bytes:
    try:
        return pickle.dumps(answer, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception:  # cloudpickle is several times slower, but supports objects of the user's script
        return cloudpickle.dumps(answer)


def _reset(envs: DummyVecEnv, seeds: list[int | None], options: list[dict[str, Any]]) -> tuple[Any, ...]:
    envs._seeds, envs._options = seeds, options
    return envs.reset(), envs.reset_infos


def _step(envs: DummyVecEnv, actions: np.ndarray) -> tuple[Any, ...]:
    observations, rewards, dones, infos = envs.step(actions)
    return observations, rewards, dones, infos, {int(i): envs.reset_infos[i] for i in np.flatnonzero(dones)}


_ACTIONS: dict[str, Callable[..., Any]] = {"reset": _reset, "step": _step}


def _join(parts: Sequence[Any]) -> VecEnvObs:
    first = parts[0]
    if isinstance(first, dict):
        return {key: np.concatenate([part[key] for part in parts]) for key in first}
    return np.concatenate(parts)

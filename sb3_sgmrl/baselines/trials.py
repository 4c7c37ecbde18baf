"""Trials of several episodes on one task, for policies with a memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_sgmrl.baselines.task_observation import LongerObservations, as_vectors
from sb3_sgmrl.util.validation import check_positive
from sb3_sgmrl.vec_env.task_workers import ask

# the task of a trial, and the seed of each of its episodes
Trial = tuple[Any, Sequence[int]]
# the key of an info at the end of an episode within a trial, which is no end of the trial
ENDED = "episode_ended"
_OF_AN_END = ("terminal_observation", "TimeLimit.truncated")


class TrialVecEnv(VecEnvWrapper):
    """
    Play trials of ``n_episodes`` episodes on one task, as RL² needs them (Duan et al. 2016).

    An observation is followed by the previous action, the previous reward and whether the previous step ended an episode.
    At the start of a trial these numbers are zero. Discrete observations and actions are one-hot. ``done`` marks the end of a
    trial alone, where a policy with a memory resets it. ``info["episode"]`` holds the return of each episode.

    :param venv: The workers, which take tasks
    :param n_episodes: The number of episodes of a trial
    :param seed: The seed of tasks and episodes
    :raises ValueError: When ``n_episodes`` is not positive, or observations are neither vectors nor categories
    """

    def __init__(self, venv: VecEnv, n_episodes: int, seed: int = 0) -> None:
        check_positive(n_episodes=n_episodes)
        self.n_episodes = n_episodes
        self._memory_size = spaces.flatdim(venv.action_space) + 2
        self._longer = LongerObservations(venv.observation_space, self._memory_size)
        super().__init__(venv, self._longer.space)
        self._rng = np.random.default_rng(seed)
        self._given: list[list[Trial]] | None = None
        self._current: list[Trial | None] = [None] * venv.num_envs
        self._next: list[Trial | None] = [None] * venv.num_envs
        self._episode = np.zeros(venv.num_envs, dtype=int)
        self._actions: np.ndarray = np.zeros(0)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """
        Seed the tasks and episodes of the following trials.

        :param seed: The seed
        :return: The seeds of the workers; their episodes have seeds of their own
        """
        self._rng = np.random.default_rng(seed)
        return [seed] * self.num_envs

    def set_trials(self, trials: Sequence[Sequence[Trial]] | None) -> None:
        """
        Define the trials from the next reset on. Afterwards a worker is idle.

        :param trials: The trials of each worker, each a task and ``n_episodes`` seeds; None draws trials again
        """
        self._given = None if trials is None else [list(of_worker) for of_worker in trials]

    def _draw(self, worker: int) -> Trial | None:
        if self._given is not None:
            return self._given[worker].pop(0) if self._given[worker] else None
        task = ask(self.venv, "sample_tasks", 1, int(self._rng.integers(2**63)), indices=0)[0][0]
        return task, self._rng.integers(2**31, size=self.n_episodes).tolist()

    def _schedule(self, worker: int, first: int) -> None:
        """Tell a worker its next episodes: those of this trial from the given one on, and the first of the next trial."""
        pairs: list[tuple[Any, int]] = []
        for trial, start in ((self._current[worker], first), (self._next[worker], 0)):
            if trial is not None:
                pairs += [(trial[0], int(seed)) for seed in trial[1][start:]]
        ask(self.venv, "set_schedule", pairs, indices=worker)

    def reset(self) -> np.ndarray:  # type: ignore[override]
        """
        Begin a new trial in every worker.

        :return: The observations, shape (num_envs, obs_size + action_size + 2)
        """
        self._episode[:] = 0
        for worker in range(self.num_envs):
            self._current[worker], self._next[worker] = self._draw(worker), self._draw(worker)
            self._schedule(worker, 0)
        return self._longer.batch(self.venv.reset(), np.zeros((self.num_envs, self._memory_size)))

    def step_async(self, actions: np.ndarray) -> None:
        """
        Store the actions of the next step.

        :param actions: The actions, shape (num_envs, \\*action_shape)
        """
        self._actions = actions
        self.venv.step_async(actions)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:  # type: ignore[override]
        """
        Play the step.

        :return: The observations, rewards, whether a trial ended, and infos
        """
        observations, rewards, ends, infos = self.venv.step_wait()
        actions = as_vectors(self.action_space, self._actions)
        memory = np.concatenate([actions, np.asarray(rewards)[:, None], ends[:, None]], axis=1)
        dones = ends & (self._episode == self.n_episodes - 1)
        for worker in np.flatnonzero(ends).tolist():
            info = {key: value for key, value in infos[worker].items() if key not in _OF_AN_END} | {ENDED: True}
            if dones[worker]:
                info |= {"terminal_observation": self._longer.one(infos[worker]["terminal_observation"], memory[worker])}
            infos[worker] = info
        self._episode[ends] += 1
        memory[dones] = 0.0
        for worker in np.flatnonzero(dones).tolist():
            self._episode[worker] = 0
            self._current[worker], self._next[worker] = self._next[worker], self._draw(worker)
            self._schedule(worker, 1)
        return self._longer.batch(observations, memory), rewards, dones, infos

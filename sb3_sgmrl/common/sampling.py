"""Playing the episodes of a phase on any SB3 VecEnv whose workers take tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_sgmrl.data.batch import Observations, PhaseBatch, index_observations
from sb3_sgmrl.data.buffers import TaskRolloutBuffer
from sb3_sgmrl.distributed import ALONE, Ranks
from sb3_sgmrl.gradient.memory import check_memory
from sb3_sgmrl.policies.actions import env_actions
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.policies.inference import ParallelPolicies
from sb3_sgmrl.vec_env.normalization import EpisodeMoments, LearnsFromPlayers, NormalizerUpdate, learn_phase
from sb3_sgmrl.vec_env.task_workers import LONGEST_EPISODE, ask, check_started, early_resets_allowed, find_horizon

# Without a known time limit: the initial number of steps in the storage.
_FIRST_SIZE = 256

# called after every step with the locals that SB3's callbacks read and the number of samples; false stops the phase
OnStep = Callable[[dict[str, Any], int], bool]


def collect_phase(
    env: VecEnv,
    policy: FunctionalPolicy,
    parameter_sets: list[Parameters],
    tasks: Sequence[Any],
    n_episodes: int,
    entropy: Sequence[int],
    on_step: OnStep | None = None,
    ranks: Ranks = ALONE,
    normalizer_update: NormalizerUpdate = "step",
) -> PhaseBatch | None:
    """
    Play ``n_episodes`` complete episodes of each task.

    The entropy, the index of the task and the index of the trajectory seed an episode and the noise of its actions. Results
    therefore do not depend on the number and kind of workers. A VecNormalize learns from the steps of these episodes only.

    :param env: The workers that take tasks
    :param policy: The policy as a function
    :param parameter_sets: The parameter sets, one per task of this rank or a single one for all
    :param tasks: The tasks of all ranks
    :param n_episodes: The number of episodes of each
    :param entropy: The entropy that names the phase, such as (seed, iteration, phase)
    :param on_step: The function to call after each step; false stops all ranks
    :param ranks: The ranks that share the tasks
    :param normalizer_update: Whether a VecNormalize learns after every step or from the whole phase
    :return: The episodes of all tasks, or None when ``on_step`` asked to stop. Observations and actions of other ranks' tasks
        are zero
    :raises ValueError: When an observation, a reward or an action is not finite; a VecNormalize has not learnt from it
    """
    own = ranks.own(len(tasks))
    seats = _Seats(tasks, n_episodes, env.num_envs, own)
    n_total, n_workers, current = len(tasks) * n_episodes, env.num_envs, seats.current
    horizon = find_horizon(env)
    # rounding depends on how arrays lie in memory, so there are columns for the episodes of other ranks; they take no memory
    buffer = TaskRolloutBuffer(horizon or _FIRST_SIZE, env.observation_space, env.action_space, n_total)
    policies = ParallelPolicies(policy, parameter_sets, len(tasks), n_episodes, own)
    seeds = np.random.SeedSequence([*entropy, 0]).generate_state(n_total)
    noise: dict[int, np.ndarray] = {}
    lengths, returns = np.zeros(n_total, dtype=int), np.zeros(n_total)
    normalizer = unwrap_vec_normalize(env)
    moments = EpisodeMoments(range(seats.first, seats.end)) if normalizer_update == "phase" else None
    player = env if normalizer is None else LearnsFromPlayers(env, normalizer, seats.look, moments)
    # returns are computed before normalisation
    original_rewards = buffer.rewards if normalizer is None else np.zeros_like(buffer.rewards)

    n_scheduled = []
    for worker in range(n_workers):
        schedule = [(tasks[e // n_episodes], int(seeds[e])) for e in range(seats.first + worker, seats.end, n_workers)]
        ask(env, "set_schedule", schedule, indices=worker)
        n_scheduled.append(len(schedule))
    step = np.zeros(n_workers, dtype=int)
    with early_resets_allowed(env):
        new_obs: Any = player.reset()
    check_started(env, [min(1, n) for n in n_scheduled])
    while len(workers := seats.workers()):
        episodes, steps = current[workers], step[workers]
        observations = index_observations(new_obs, workers)
        seats.check_finite("observation", workers, episodes, observations)
        if (latest := int(steps.max())) not in noise:
            if n_workers >= seats.end - seats.first:  # no worker returns to an earlier step
                noise.clear()
            noise[latest] = policy.draw_noise(n_total, np.random.default_rng([*entropy, 1, latest]))
        chosen_noise = noise[steps[0]][episodes] if (steps == steps[0]).all() else _gather(noise, steps, episodes)
        chosen = policies.actions(
            episodes, observations, chosen_noise, partial(seats.check_finite, "action", workers, episodes)
        )
        # idle workers receive a valid action, which is not recorded
        actions = np.repeat(chosen[:1], n_workers, axis=0)
        actions[workers] = chosen
        new_obs, rewards, dones, infos = player.step(env_actions(env.action_space, actions))
        seats.check_step(rewards, dones, infos)
        _hide_idle(np.nonzero(current >= seats.end)[0], dones, infos)
        if latest >= buffer.buffer_size:
            _make_room(buffer, horizon)
            original_rewards = buffer.rewards if normalizer is None else _longer(original_rewards, buffer.buffer_size)
        buffer.record(steps, episodes, observations, chosen, rewards[workers])
        if normalizer is not None:
            original_rewards[steps, episodes] = normalizer.get_original_reward()[workers]
        ended = workers[dones[workers]]
        lengths[current[ended]] = step[ended] + 1
        for worker in ended:
            info = infos[worker].get("episode")
            returns[current[worker]] = info["r"] if info else original_rewards[: step[worker] + 1, current[worker]].sum()
        step[workers] += 1
        current[ended] += n_workers
        step[ended] = 0
        callback_locals = {"new_obs": new_obs, "rewards": rewards, "dones": dones, "infos": infos, "actions": actions}
        if on_step is not None and not on_step(callback_locals, len(workers)):
            ranks.exchange(None)
            return None
    check_started(env, n_scheduled)
    if not _exchange_rewards(ranks, buffer, slice(seats.first, seats.end), lengths, returns):
        return None
    if normalizer is not None and moments is not None:
        learn_phase(normalizer, ranks.gathered(moments.of_tasks(n_episodes)))
    return buffer.phase(len(tasks), lengths, returns)


def _exchange_rewards(ranks: Ranks, buffer: TaskRolloutBuffer, own: slice, lengths: np.ndarray, returns: np.ndarray) -> bool:
    """Fill in the rewards and lengths of other ranks' episodes. Return whether no rank asked to stop."""
    if ranks.size == 1:
        return True
    n_steps = int(lengths.max())
    parts = ranks.exchange((own, lengths[own], returns[own], buffer.rewards[:n_steps, own]))
    if any(part is None for part in parts):
        return False
    for columns, of_lengths, of_returns, rewards in parts:
        lengths[columns], returns[columns] = of_lengths, of_returns
        if len(rewards) > buffer.buffer_size:
            buffer.grow(len(rewards))
        buffer.rewards[: len(rewards), columns] = rewards
    return True


def _make_room(buffer: TaskRolloutBuffer, horizon: int | None) -> None:
    """Extend the storage for a longer episode when no time limit is known."""
    if horizon is not None:
        raise ValueError(f"`env` must end every episode at its time limit of {horizon} steps, but an episode is longer.")
    if buffer.buffer_size >= LONGEST_EPISODE:
        raise ValueError(
            f"`env` has no known time limit, and an episode is longer than {LONGEST_EPISODE} steps: pass "
            "TaskDistEnv(..., horizon=n_steps), or wrap it in gymnasium.wrappers.TimeLimit(env, n_steps)."
        )
    n_steps = min(2 * buffer.buffer_size, LONGEST_EPISODE)
    check_memory(buffer.n_envs, n_steps, buffer.observation_space, buffer.action_space)
    buffer.grow(n_steps)


def _longer(rewards: np.ndarray, n_steps: int) -> np.ndarray:
    return np.concatenate([rewards, np.zeros((n_steps - len(rewards), rewards.shape[1]), rewards.dtype)])


def _gather(noise: dict[int, np.ndarray], steps: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    return np.stack([noise[t][e] for t, e in zip(steps, episodes, strict=True)])


def _hide_idle(idle: np.ndarray, dones: np.ndarray, infos: Sequence[dict[str, Any]]) -> None:
    """Hide the ends of idle workers, in which a time limit above TaskDistEnv keeps counting."""
    for worker in idle[dones[idle]]:
        dones[worker] = False
        infos[worker].clear()


class _Seats:
    """
    Worker w plays the episodes ``first`` + w, ``first`` + w + n_workers, … before ``end``, those of the rank's own tasks.

    ``current`` holds the current episode of each.
    """

    def __init__(self, tasks: Sequence[Any], n_episodes: int, n_workers: int, own: range) -> None:
        self.tasks, self.n_episodes = tasks, n_episodes
        self.first, self.end = own.start * n_episodes, own.stop * n_episodes
        self.current = self.first + np.arange(n_workers)

    def workers(self) -> np.ndarray:
        """List the workers that play, shape (n,)."""
        return np.nonzero(self.current < self.end)[0]

    def look(
        self,
        observations: Observations,
        rewards: np.ndarray | None = None,
        dones: np.ndarray | None = None,
        infos: Sequence[dict[str, Any]] = (),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Check the data that a VecNormalize will learn from, and list the workers that still play and their episodes."""
        episodes = self.current
        if rewards is not None and dones is not None:
            self.check_step(rewards, dones, infos)
            episodes = episodes + dones * len(episodes)
        playing = np.nonzero(episodes < self.end)[0]
        self.check_finite("observation", playing, episodes[playing], index_observations(observations, playing))
        return playing, episodes[playing]

    def check_step(self, rewards: np.ndarray, dones: np.ndarray, infos: Sequence[dict[str, Any]]) -> None:
        """Check the rewards of a step and the last observations of episodes."""
        workers = self.workers()
        self.check_finite("reward", workers, self.current[workers], rewards[workers])
        for worker in workers[dones[workers]][:, None]:
            last = infos[worker[0]].get("terminal_observation")
            for part in last.values() if isinstance(last, dict) else (last,):
                self.check_finite("last observation", worker, self.current[worker], np.asarray(part)[None])

    def check_finite(self, what: str, workers: np.ndarray, episodes: np.ndarray, *values: Observations) -> None:
        """Raise an error that names worker and task of the first row that is not finite."""
        for value in values:
            for array in value.values() if isinstance(value, dict) else (value,):
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    bad = int(np.nonzero(~np.isfinite(array).reshape(len(array), -1).all(1))[0][0])
                    task = self.tasks[episodes[bad] // self.n_episodes]
                    raise ValueError(f"The {what} of worker {workers[bad]}, task {task}, is NaN or infinite.")

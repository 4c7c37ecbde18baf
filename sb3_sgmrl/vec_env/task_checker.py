"""Check task distributions for problems that prevent adaptation, before training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from stable_baselines3.common.env_util import is_wrapped

from sb3_sgmrl.tasks.sources import make_env
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv
from sb3_sgmrl.util.validation import check_positive, check_seed
from sb3_sgmrl.vec_env.clones import make_task_vec_env

Verdict = Literal["ok", "note", "problem"]

# Number of steps of an episode without a known horizon.
_PROBED_STEPS = 200
# Thresholds: fraction of clipped actions, and fraction of the variance of returns that comes from the task.
_MOSTLY, _HARDLY = 0.5, 0.01


@dataclass(frozen=True)
class Finding:
    """
    One line of a :class:`TaskReport`.

    :param check: The name of the check
    :param verdict: Either ``ok``, ``problem``, or ``note`` for a property that may be intended
    :param found: The result of the check
    :param advice: The suggested change; empty if none is needed
    """

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


@dataclass(frozen=True)
class TaskReport:
    """
    The findings of :func:`check_tasks`, printed as a table.

    :param env: The name of the checked environment
    :param findings: The findings, one per check
    """

    env: str
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> list[Finding]:
        """The findings that would prevent a policy from adapting."""
        return [finding for finding in self.findings if finding.verdict == "problem"]

    def __str__(self) -> str:
        width = max(len(finding.check) for finding in self.findings)
        lines = [f"Tasks of {self.env}"]
        for finding in self.findings:
            lines.append(f"{finding.verdict:8} {finding.check:{width}}  {finding.found}")
            if finding.advice:
                lines.append(f"{'':8} {'':{width}}  → {finding.advice}")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Episode:
    """An episode: observations (n_steps + 1, n), rewards (n_steps,), unclipped actions (n_steps, n), and whether it ended."""

    observations: np.ndarray
    rewards: np.ndarray
    actions: np.ndarray
    ended: bool

    def same_as(self, other: _Episode) -> bool:
        # A VecEnv stores rewards in single precision.
        pairs = ((self.rewards, other.rewards), (self.observations, other.observations))
        return all(np.array_equal(one.astype(np.float32), two.astype(np.float32)) for one, two in pairs)


def check_tasks(env: Any, n_tasks: int = 6, n_episodes: int = 8, seed: int = 0) -> TaskReport:
    """
    Check a task distribution for problems that prevent adaptation.

    Such problems are visible, equal or lost tasks, uninformative rewards, clipped actions and an unknown horizon. Each
    task is played with the same seeds and the same random actions. All differences therefore come from the task.

    :param env: The :class:`~sb3_sgmrl.TaskDistEnv`, an environment with its own tasks, or the id of a registered family
    :param n_tasks: The number of tasks to play
    :param n_episodes: The number of episodes per task; as in training
    :param seed: The seed of tasks, episodes and actions
    :return: The findings
    :raises ValueError: When a count is below 2, ``seed`` is invalid, or the environment has no tasks
    """
    check_positive(n_tasks=n_tasks, n_episodes=n_episodes)
    for name, count in (("n_tasks", n_tasks), ("n_episodes", n_episodes)):
        if count < 2:
            raise ValueError(f"`{name}` must be at least 2, because tasks and episodes are compared, got {count}.")
    check_seed(seed)
    env = make_env(env, {}) if isinstance(env, str) else env
    env = env if is_wrapped(env, TaskDistEnv) else TaskDistEnv(env)
    task_env = _task_env(env)
    tasks = _different(task_env.sample_tasks(20 * n_tasks, seed))[:n_tasks]
    if len(tasks) < 2:
        single = Finding("tasks differ", "problem", "the distribution has a single task", "add tasks")
        return TaskReport(str(env.unwrapped), (_horizon(task_env, [[_play(env, tasks[0], [seed, 0])]]), single))
    task_env.trust_set_task()  # report a task that compounds as a finding, not as an error
    played = [[_play(env, task, [seed, e]) for e in range(n_episodes)] for task in tasks]
    seeded = _seeded(played[0][0], _play(env, tasks[0], [seed, 0]))
    findings = [
        _horizon(task_env, played),
        _differ(played),
        _kept(env, tasks, played, seed) if seeded.verdict == "ok" else seeded,
        _visible(played),
        _informative(played),
        _clipped(env.action_space, played),
        _held_out(task_env, seed),
    ]
    _release(task_env)
    return TaskReport(_name(env), tuple(findings))


def _name(env: gym.Env) -> str:
    return env.spec.id if env.spec is not None else str(env.unwrapped)


def _task_env(env: gym.Env) -> TaskDistEnv:
    while not isinstance(env, TaskDistEnv):
        assert isinstance(env, gym.Wrapper)
        env = env.env
    return env


def _release(env: TaskDistEnv) -> None:
    env.set_schedule(None)
    env.set_task(None)


def _different(tasks: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for task in tasks:
        if not any(data_equivalence(task, other, exact=True) for other in found):
            found.append(task)
    return found


def _vector(space: spaces.Space, observation: Any) -> np.ndarray:
    return np.asarray(spaces.flatten(space, observation), dtype=np.float64)


def _actions(space: spaces.Space, names: Sequence[int]) -> Iterator[tuple[Any, np.ndarray]]:
    """Yield random actions with their values before clipping, from an untrained Gaussian policy or from a uniform one."""
    rng = np.random.default_rng([*names, 1])
    space.seed(int(rng.integers(2**31)))
    while True:
        if isinstance(space, spaces.Box):
            drawn = rng.standard_normal(space.shape)
            yield np.clip(drawn, space.low, space.high).astype(space.dtype), drawn.ravel()
        else:
            yield space.sample(), np.zeros(0)


def _play(env: gym.Env, task: Any, names: Sequence[int], n_resets: int = 1) -> _Episode:
    """Play an episode seeded by ``names``, after setting the task once and resetting the environment ``n_resets`` times."""
    _task_env(env).set_task(task)
    for k in reversed(range(n_resets)):
        observation, _ = env.reset(seed=int(np.random.SeedSequence([*names, k]).generate_state(1)[0]))
    observations, rewards, actions = [_vector(env.observation_space, observation)], [], []
    horizon = _task_env(env).horizon or _PROBED_STEPS
    for (action, drawn), _ in zip(_actions(env.action_space, names), range(horizon), strict=False):
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(_vector(env.observation_space, observation))
        rewards.append(float(reward))
        actions.append(drawn)
        if terminated or truncated:
            break
    return _Episode(np.array(observations), np.array(rewards), np.array(actions), bool(terminated or truncated))


def _horizon(env: TaskDistEnv, played: Sequence[Sequence[_Episode]]) -> Finding:
    if env.horizon is not None:
        return Finding("horizon", "ok", f"{env.horizon} steps")
    advice = "pass TaskDistEnv(env, horizon=n_steps), or register the environment with max_episode_steps=n_steps"
    episodes = [episode for of_task in played for episode in of_task]
    if all(episode.ended for episode in episodes):
        longest = max(len(episode.rewards) for episode in episodes)
        found = f"unknown; the episodes ended by themselves, the longest after {longest} steps"
        return Finding("horizon", "note", found, f"{advice}; comparisons need it")
    return Finding("horizon", "problem", f"unknown, and an episode did not end within {_PROBED_STEPS} steps", advice)


def _differ(played: Sequence[Sequence[_Episode]]) -> Finding:
    pairs = [(a, b) for i, one in enumerate(played) for other in played[:i] for a, b in zip(one, other, strict=True)]
    dynamics = sum(not np.array_equal(a.observations, b.observations) for a, b in pairs)
    rewards = sum(not np.array_equal(a.rewards, b.rewards) for a, b in pairs)
    if dynamics == rewards == 0:
        return Finding("tasks differ", "problem", "not at all: same observations and rewards", "check what `set_task` changes")
    parts = [name for name, count in (("observations", dynamics), ("rewards", rewards)) if count]
    return Finding("tasks differ", "ok", f"in {' and '.join(parts)}")


def _seeded(one: _Episode, again: _Episode) -> Finding:
    if one.same_as(again):
        return Finding("seeds", "ok", "an episode is determined by its seed")
    return Finding(
        "seeds",
        "problem",
        "the same task, seed and actions give another episode, so the check of kept tasks is impossible",
        "draw all random numbers from `self.np_random`; `set_task` must set the same task however often it is called",
    )


def _kept(env: gym.Env, tasks: Sequence[Any], played: Sequence[Sequence[_Episode]], seed: int) -> Finding:
    """Check whether an episode of a task stays the same after further resets, in a copy, and in a worker."""
    name = "task is kept"
    advice = "let `set_task` store the task and `reset` leave it alone; pickle the task with the environment"
    ways: dict[str, Callable[[Any], _Episode]] = {
        "after a second reset": lambda task: _play(env, task, [seed, 0], n_resets=3),
        "in a pickled copy": lambda task: _in_copy(env, task, [seed, 0]),
        "in a worker": lambda task: _in_worker(env, task, [seed, 0]),
    }
    for way, play in ways.items():
        for task, episodes in zip(tasks[:2], played, strict=False):
            try:
                again = play(task)
            except Exception as error:  # any error that a copied environment raises
                return Finding(name, "problem", f"it cannot be played {way}: {_one_line(error)}", advice)
            if not again.same_as(episodes[0]):
                return Finding(name, "problem", f"no: an episode is another one {way}", advice)
    return Finding(name, "ok", "by resets, in copies and in workers")


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _in_copy(env: gym.Env, task: Any, names: Sequence[int]) -> _Episode:
    _task_env(env).set_task(task)
    with closing(cloudpickle.loads(cloudpickle.dumps(env))) as copy:
        return _play(copy, _task_env(copy).get_pinned_task(), names)


def _in_worker(env: gym.Env, task: Any, names: Sequence[int]) -> _Episode:
    """Play the episode as an engine of clones does, with the task and the seed from a schedule."""
    with closing(make_task_vec_env(env, 1)) as worker:
        worker.env_method("set_schedule", [(task, _seed(names))])
        space, first = env.observation_space, worker.reset()
        observations, rewards, actions = [_vector(space, _only(first))], [], []
        horizon = _task_env(env).horizon or _PROBED_STEPS
        for (action, drawn), _ in zip(_actions(env.action_space, names), range(horizon), strict=False):
            observation, reward, dones, infos = worker.step(np.asarray(action)[None])
            last = infos[0]["terminal_observation"] if dones[0] else _only(observation)
            observations.append(_vector(space, last))
            rewards.append(float(reward[0]))
            actions.append(drawn)
            if dones[0]:
                break
    return _Episode(np.array(observations), np.array(rewards), np.array(actions), bool(dones[0]))


def _only(observations: Any) -> Any:
    """Return the observation of a single worker."""
    return {key: value[0] for key, value in observations.items()} if isinstance(observations, dict) else observations[0]


def _seed(names: Sequence[int]) -> int:
    return int(np.random.SeedSequence([*names, 0]).generate_state(1)[0])


def _visible(played: Sequence[Sequence[_Episode]]) -> Finding:
    """Check whether the first observation reveals the task, by the nearest mean between two halves of the episodes."""
    first = np.array([[episode.observations[0] for episode in episodes] for episodes in played])
    scale = first.std((0, 1)) + 1e-12
    half = first.shape[1] // 2
    centres = first[:, :half].mean(1) / scale
    rest = first[:, half:] / scale
    distance = ((rest[:, :, None] - centres) ** 2).sum(-1)
    # Equal distances carry no information: such an observation counts as a guess.
    nearest = distance <= distance.min(-1, keepdims=True) + 1e-12
    own = nearest[np.arange(len(played)), :, np.arange(len(played))] / nearest.sum(-1)
    accuracy, chance = float(own.mean()), 1 / len(played)
    margin = 3 * np.sqrt(chance * (1 - chance) / own.size)
    found = f"the first observation tells one of {len(played)} tasks in {accuracy:.0%} of episodes (chance {chance:.0%})"
    if accuracy <= chance + margin:
        return Finding("task is hidden", "ok", found)
    return Finding(
        "task is hidden", "problem", found, "a policy can read the task and need not adapt: take it out of the observation"
    )


def _informative(played: Sequence[Sequence[_Episode]]) -> Finding:
    returns = np.array([[episode.rewards.sum() for episode in episodes] for episodes in played])
    total = returns.var()
    if total <= 1e-18 * max(1.0, float((returns**2).mean())):
        return Finding(
            "reward informs", "problem", "all episodes return the same", "a denser reward, or more and longer episodes"
        )
    # Variance over tasks with the same seeds and actions.
    share = float(returns.var(0).mean() / total)
    found = f"{share:.0%} of the variance of returns comes from the task"
    if share < _HARDLY:
        return Finding("reward informs", "problem", found, "a denser reward, or more episodes per inner step (`n_episodes`)")
    return Finding("reward informs", "ok", found)


def _clipped(space: spaces.Space, played: Sequence[Sequence[_Episode]]) -> Finding:
    name = "actions fit"
    if not isinstance(space, spaces.Box):
        return Finding(name, "ok", f"{type(space).__name__} actions are not clipped")
    drawn = np.concatenate([episode.actions for episodes in played for episode in episodes])
    outside = float(((drawn < space.low.ravel()) | (drawn > space.high.ravel())).mean())
    found = f"{outside:.0%} of an untrained policy's actions are clipped"
    if outside <= _MOSTLY:
        return Finding(name, "ok", found)
    bound = float(np.median((space.high - space.low) / 2))
    return Finding(
        name,
        "problem",
        found,
        f"policy_kwargs={{'log_std_init': {np.log(bound):.1f}}}, or gymnasium.wrappers.RescaleAction(env, -2, 2)",
    )


def _held_out(env: TaskDistEnv, seed: int) -> Finding:
    name = "test tasks"
    train = _different(env.sample_tasks(60, [seed, 2]))
    if not env.has_test_tasks:
        if len(train) < 60:
            found = f"none: an evaluation plays the {len(train)} training tasks"
            return Finding(name, "note", found, "keep some for testing: TaskDistEnv(..., split=0.2) or test_tasks=")
        return Finding(name, "ok", "new tasks from the distribution of training")
    test = env.sample_tasks(60, [seed, 3], "test")
    shared = sum(any(data_equivalence(task, other, exact=True) for other in train) for task in _different(test))
    if shared:
        return Finding(name, "problem", f"{shared} of them are training tasks", "keep `tasks` and `test_tasks` apart")
    return Finding(name, "ok", "none of them is a training task")

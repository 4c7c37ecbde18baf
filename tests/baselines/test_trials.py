"""The wrappers of the baselines: trials of several episodes, and the task in the observation."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from toys import HORIZON, point, point_vec

from sb3_sgmrl import TaskDistEnv
from sb3_sgmrl.baselines import TaskInObservation, TrialVecEnv
from sb3_sgmrl.baselines.task_observation import LongerObservations
from sb3_sgmrl.vec_env.engines import as_task_vec_env
from sb3_sgmrl.vec_env.task_workers import ask

N_EPISODES = 3
GOALS = {"left": np.array([-1.0, 0.0]), "right": np.array([1.0, 0.0])}
# without an early end
NAVIGATION = TaskDistEnv("Navigation2D-v0", early_end=False)
ENGINES = {"clones": lambda: point_vec(2), "batched": lambda: as_task_vec_env(NAVIGATION, 2)}


@pytest.fixture(params=ENGINES)
def workers(request: pytest.FixtureRequest) -> VecEnv:
    return ENGINES[request.param]()


def random_actions(env: VecEnv) -> np.ndarray:
    return np.stack([env.action_space.sample() for _ in range(env.num_envs)])


def test_a_trial_has_several_episodes_of_one_task(workers: VecEnv) -> None:
    env = TrialVecEnv(workers, N_EPISODES)
    env.seed(4)
    env.reset()
    horizon = ask(workers, "horizon")[0]
    tasks: list[list[np.ndarray]] = []
    for step in range(1, 3 * N_EPISODES * horizon + 1):
        before = [np.array(task) for task in ask(workers, "get_task")]
        _, _, dones, infos = env.step(random_actions(env))
        assert dones.all() == dones.any() == (step % (N_EPISODES * horizon) == 0)
        if step % horizon == 0:
            assert all("episode" in info for info in infos)
            assert all(("terminal_observation" in info) == dones[0] for info in infos)
            assert not any(info.get("TimeLimit.truncated") for info in infos)
            tasks.append(before)
    seen = np.array(tasks)
    for trial in np.split(seen, 3):
        np.testing.assert_array_equal(trial, np.repeat(trial[:1], N_EPISODES, 0))
    assert (seen[0] != seen[N_EPISODES]).all() and (seen[N_EPISODES] != seen[2 * N_EPISODES]).all()
    assert (seen[:, 0] != seen[:, 1]).all()


def test_an_observation_holds_what_came_before(workers: VecEnv) -> None:
    env = TrialVecEnv(workers, N_EPISODES)
    size, n_actions = workers.observation_space.shape[0], workers.action_space.shape[0]
    first = env.reset()
    assert first.shape == (2, size + n_actions + 2) and not first[:, size:].any()
    horizon = ask(workers, "horizon")[0]
    for step in range(1, N_EPISODES * horizon + 1):
        actions = random_actions(env)
        observations, rewards, dones, infos = env.step(actions)
        memory = np.concatenate([actions, rewards[:, None], np.full((2, 1), step % horizon == 0)], axis=1)
        if dones[0]:
            assert not observations[:, size:].any()
            last = np.stack([info["terminal_observation"] for info in infos])
            np.testing.assert_array_equal(last[:, size:], memory.astype(np.float32))
        else:
            np.testing.assert_array_equal(observations[:, size:], memory.astype(np.float32))


def test_discrete_actions_are_one_hot() -> None:
    env = TrialVecEnv(point_vec(2, action="discrete"), N_EPISODES)
    env.reset()
    observations = env.step(np.array([3, 1]))[0]
    np.testing.assert_array_equal(observations[:, 3:7], [[0, 0, 0, 1], [0, 1, 0, 0]])


# a space, observations of two workers, and their vectors
VECTORS = [
    (spaces.Discrete(3), [2, 0], [[0, 0, 1], [1, 0, 0]]),
    (spaces.Discrete(3, start=-1), [-1, 1], [[1, 0, 0], [0, 0, 1]]),
    (spaces.MultiDiscrete([2, 3]), [[1, 0], [0, 2]], [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
    (spaces.MultiBinary(2), [[1, 0], [0, 1]], [[1, 0], [0, 1]]),
    (spaces.MultiBinary([1, 2]), [[[1, 0]], [[0, 1]]], [[1, 0], [0, 1]]),
    (spaces.Box(-9.0, 9.0, (), np.float32), [0.5, 2.0], [[0.5], [2.0]]),
    (spaces.Box(0, 9, (2,), np.uint8), [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
]


@pytest.mark.parametrize("space, observations, vectors", VECTORS, ids=[str(case[0]) for case in VECTORS])
def test_categories_are_one_hot(space: spaces.Space, observations: list, vectors: list) -> None:
    longer = LongerObservations(space, 2)
    numbers = np.array([[7.0, -1.5], [0.0, 1e6]])
    joined = longer.batch(np.array(observations, space.dtype), numbers)
    np.testing.assert_array_equal(joined, np.concatenate([vectors, numbers], axis=1).astype(np.float32))
    for observation, more, row in zip(observations, numbers, joined, strict=True):
        np.testing.assert_array_equal(longer.one(observation, more), row)
        assert longer.space.contains(row)


@pytest.mark.parametrize("wrapper", [TaskInObservation, lambda env: TrialVecEnv(env, 1)])
def test_the_last_observation_is_as_long_as_the_others(wrapper) -> None:
    env = wrapper(point_vec(2, observation="discrete"))
    env.reset()
    for _ in range(HORIZON):
        _, _, dones, infos = env.step(random_actions(env))
    assert dones.all()
    for info in infos:
        last = info["terminal_observation"]
        assert env.observation_space.contains(last) and last[:5].sum() == last[:5].max() == 1


def test_trials_follow_from_their_seed() -> None:
    def play(seed: int) -> np.ndarray:
        env = TrialVecEnv(point_vec(2), 2)
        env.seed(seed)
        played = [env.reset()]
        return np.array([*played, *(env.step(np.zeros((2, 2), np.float32))[0] for _ in range(4 * HORIZON))])

    np.testing.assert_array_equal(play(1), play(1))
    assert (play(1) != play(2)).any()


def test_the_task_is_in_the_observation(workers: VecEnv) -> None:
    env = TaskInObservation(workers)
    observations = env.reset()
    horizon = ask(workers, "horizon")[0]
    for _ in range(2 * horizon + 1):
        np.testing.assert_allclose(observations[:, -2:], np.array(ask(workers, "get_task")), rtol=1e-6)
        before = observations[:, -2:]
        observations, _, dones, infos = env.step(random_actions(env))
        for worker in np.flatnonzero(dones):
            np.testing.assert_array_equal(infos[worker]["terminal_observation"][-2:], before[worker])
            assert env.observation_space.contains(infos[worker]["terminal_observation"])


@pytest.mark.parametrize("wrapper", [TaskInObservation, lambda env: TrialVecEnv(env, 2)])
def test_observations_that_are_no_vectors_are_refused(wrapper) -> None:
    with pytest.raises(
        ValueError, match="must have vectors or categories as observations for this baseline, which appends numbers, got Box"
    ):
        wrapper(point_vec(1, observation="image"))


def test_tasks_that_are_no_numbers_are_refused() -> None:
    env = TaskDistEnv(point().env, tasks=["left", "right"], set_task=lambda env, task: setattr(env, "goal", GOALS[task]))
    with pytest.raises(
        ValueError, match="must have tasks that are numbers or arrays of numbers for an oracle, got the task '"
    ):
        TaskInObservation(as_task_vec_env(env, 1))


def test_tasks_that_are_numbers_are_shown() -> None:
    env = TaskDistEnv(
        point().env, task_space=spaces.Discrete(4, start=3), set_task=lambda env, task: setattr(env, "goal", task)
    )
    assert TaskInObservation(as_task_vec_env(env, 2)).reset()[:, -1].min() >= 3

"""TaskVecEnv: a batched environment looks like so many monitored TaskDistEnv."""

import pickle
import time

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

import sb3_sgmrl.envs  # noqa: F401  # registers the families
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv
from sb3_sgmrl.vec_env.task_vec_env import TaskVecEnv

FAMILIES = [
    ("Navigation2D-v0", {"max_episode_steps": 12}),
    ("Navigation2DPaper-v0", {"max_episode_steps": 12, "squared": True}),
    ("BernoulliBandit-v0", {}),
    ("TabularMDP-v0", {"max_episode_steps": 7}),
]


def make(env_id="Navigation2D-v0", num_envs=3, **kwargs):
    return TaskVecEnv(gym.make_vec(env_id, num_envs=num_envs, **kwargs), TaskDistEnv(env_id, **kwargs))


def make_reference(env_id="Navigation2D-v0", num_envs=3, **kwargs):
    return DummyVecEnv([lambda: Monitor(TaskDistEnv(env_id, **kwargs)) for _ in range(num_envs)])


def assert_same_step(ours, theirs):
    for left, right in zip(ours[:3], theirs[:3], strict=True):
        assert np.array_equal(left, right) and left.dtype == right.dtype
    for done, left, right in zip(ours[2], ours[3], theirs[3], strict=True):
        assert left.get("idle", False) == right.get("idle", False)
        assert ("episode" in left) == ("episode" in right) == done
        if done:
            assert np.array_equal(left["terminal_observation"], right["terminal_observation"])
            assert left["TimeLimit.truncated"] == right["TimeLimit.truncated"]
            assert np.array_equal(left["task"], right["task"])
            assert (left["episode"]["r"], left["episode"]["l"]) == (right["episode"]["r"], right["episode"]["l"])
            assert 0 <= left["episode"]["t"] < 60


def assert_same_play(ours, theirs, n_steps, rng):
    """Step both with the same actions; in navigation the first column goes to its goal."""
    observations = ours.reset()
    assert np.array_equal(observations, theirs.reset())
    n_done = 0
    for _ in range(n_steps):
        for left, right in zip(ours.reset_infos, theirs.reset_infos, strict=True):
            assert left.get("idle", False) == right.get("idle", False)
            assert np.array_equal(left["task"], right["task"])
        actions = np.stack([ours.action_space.sample() for _ in range(ours.num_envs)])
        if isinstance(ours.action_space, gym.spaces.Box):
            goal = ours.env_method("get_task", indices=0)[0]
            actions[0] = np.clip((goal - observations[0]) * 10, -1, 1) * ours.action_space.high
        step = ours.step(actions)
        assert_same_step(step, theirs.step(actions))
        observations = step[0]
        n_done += step[2].sum()
    return n_done


@pytest.mark.parametrize("env_id, kwargs", FAMILIES)
def test_schedules_are_played_as_by_task_dist_env(env_id, kwargs):
    ours, theirs = make(env_id, **kwargs), make_reference(env_id, **kwargs)
    rng = np.random.default_rng(0)
    ours.action_space.seed(0)
    for _ in range(2):
        for column, n_episodes in enumerate([3, 2, 0]):
            tasks = ours.env_method("sample_tasks", n_episodes, [5, column], indices=column)[0] if n_episodes else []
            schedule = [(task, int(rng.integers(2**32))) for task in tasks]
            for envs in (ours, theirs):
                envs.env_method("set_schedule", schedule, indices=column)
        if ours.vector_env._playing is None:
            # What an idle worker shows before its first episode is of no consequence, but must be an observation.
            assert ours.reset()[2] in ours.observation_space
            for envs in (ours, theirs):
                envs.env_method("set_schedule", None)
                envs.seed(0)
                envs.reset()
            continue
        assert assert_same_play(ours, theirs, 40, rng) == 5
    for envs in (ours, theirs):
        envs.env_method("set_schedule", None)
        envs.seed(1)
    assert assert_same_play(ours, theirs, 40, rng) > 5


@pytest.mark.parametrize("env_id, kwargs", FAMILIES)
def test_tasks_are_drawn_and_pinned_as_by_task_dist_env(env_id, kwargs):
    ours, theirs = make(env_id, **kwargs), make_reference(env_id, **kwargs)
    rng = np.random.default_rng(1)
    for envs in (ours, theirs):
        envs.seed(3)
    assert_same_play(ours, theirs, 30, rng)
    drawn = np.array([info["task"] for info in ours.reset_infos])
    assert len(np.unique(drawn.reshape(3, -1), axis=0)) == 3
    pinned = ours.env_method("sample_tasks", 1, 7, indices=0)[0][0]
    for envs in (ours, theirs):
        envs.env_method("set_task", pinned, indices=[0, 2])
    for left, right in zip(ours.env_method("get_task"), theirs.env_method("get_task"), strict=True):
        assert np.array_equal(left, right)
    assert_same_play(ours, theirs, 30, rng)
    assert [np.array_equal(info["task"], pinned) for info in ours.reset_infos] == [True, False, True]
    for envs in (ours, theirs):
        envs.env_method("set_task", None)
    assert_same_play(ours, theirs, 30, rng)
    assert not np.array_equal(ours.reset_infos[0]["task"], pinned)


def test_a_task_pinned_under_a_schedule_waits_for_its_release():
    ours, theirs = make(max_episode_steps=3), make_reference(max_episode_steps=3)
    for envs in (ours, theirs):
        envs.env_method("set_schedule", [([0.1, 0.2], 0)] * 2)
        envs.reset()
        envs.env_method("set_task", [0.3, 0.3], indices=1)
        assert envs.env_method("get_task", indices=1)[0].tolist() == [0.1, 0.2]
        envs.env_method("set_schedule", None)
        envs.seed(0)
        envs.reset()
        assert envs.env_method("get_task", indices=1)[0].tolist() == [0.3, 0.3]


def test_wrong_tasks_and_schedules_are_rejected():
    envs = make()
    for call in (
        lambda: envs.env_method("set_task", [0.1, 0.9]),
        lambda: envs.env_method("set_schedule", [([0.1, 0.9], 0)]),
        lambda: envs.env_method("set_schedule", [([0.1], 0)], indices=1),
    ):
        with pytest.raises(ValueError, match=r"[Tt]ask"):
            call()
    with pytest.raises(ValueError, match="seed"):
        envs.env_method("set_schedule", [([0.1, 0.1], -1)])


def test_the_template_must_be_of_the_same_family():
    vector_env = gym.make_vec("Navigation2D-v0", num_envs=2)
    with pytest.raises(ValueError, match="action_space"):
        TaskVecEnv(vector_env, TaskDistEnv("Navigation2DPaper-v0"))
    with pytest.raises(ValueError, match="observation_space"):
        TaskVecEnv(vector_env, TaskDistEnv("BernoulliBandit-v0"))
    with pytest.raises(ValueError, match="set_task"):
        TaskVecEnv(vector_env, TaskDistEnv("Navigation2D-v0", set_task=lambda env, task: env.set_task(task)))
    with pytest.raises(ValueError, match="horizon"):
        TaskVecEnv(vector_env, TaskDistEnv("Navigation2D-v0", max_episode_steps=50))


def test_questions_are_answered_as_by_workers():
    envs = make(num_envs=4)
    assert envs.env_is_wrapped(TaskDistEnv) == envs.env_is_wrapped(Monitor) == [True] * 4
    assert envs.env_is_wrapped(gym.wrappers.RescaleAction, indices=[0, 1]) == [False] * 2
    assert envs.get_attr("horizon") == [100] * 4
    assert envs.get_attr("spec", 0)[0].max_episode_steps == 100
    assert not envs.has_attr("no_such_attribute")
    envs.set_attr("note", 5)
    assert envs.get_attr("note", indices=[1, 2]) == [5, 5]
    with pytest.raises(ValueError, match="indices"):
        envs.set_attr("note", 6, indices=0)
    with pytest.raises(ValueError, match="method_name"):
        envs.env_method("reset", indices=0)
    assert len(envs.env_method("sample_tasks", 5, 0, indices=[0, 1])) == 2
    envs.close()
    assert envs.vector_env.closed


def test_reaching_the_goal_at_the_time_limit_is_no_truncation():
    ours, theirs = make(num_envs=2, max_episode_steps=2), make_reference(num_envs=2, max_episode_steps=2)
    for envs in (ours, theirs):
        envs.env_method("set_task", [0.2, 0.2], indices=0)
        envs.env_method("set_task", [0.4, 0.4], indices=1)
        envs.reset()
        envs.step(np.ones((2, 2)))
        *_, dones, infos = envs.step(np.ones((2, 2)))
        assert dones.all() and [info["TimeLimit.truncated"] for info in infos] == [False, True]


def test_infos_are_not_shared():
    envs = make()
    envs.reset()
    infos = envs.step(np.zeros((3, 2)))[3]
    infos[0]["mine"] = 1
    assert infos[1] == {} and envs.step(np.zeros((3, 2)))[3] == [{}, {}, {}]


def test_the_first_column_is_rendered():
    envs = make(render_mode="rgb_array")
    envs.env_method("set_task", [0.5, 0.5], indices=0)
    envs.env_method("set_task", [-0.5, -0.5], indices=[1, 2])
    envs.reset()
    image = envs.render()
    green = np.argwhere(image[..., 1] > image[..., 0])
    assert image.dtype == np.uint8 and (green[:, 0] < 10).all() and (green[:, 1] > 190).all()


def test_pickled_in_the_middle_of_a_schedule_it_goes_on():
    envs = make("TabularMDP-v0")
    envs.env_method("set_schedule", list(zip(envs.template.sample_tasks(4, 0), range(4), strict=True)), indices=0)
    envs.seed(0)
    envs.reset()
    actions = np.ones((25, 3), dtype=np.int64)
    for batch in actions[:5]:
        envs.step(batch)
    copy = pickle.loads(pickle.dumps(envs))
    for batch in actions[5:]:
        assert_same_step(envs.step(batch), copy.step(batch))


def test_stock_wrappers_work_and_see_the_same_as_over_dummy_vec_env():
    results = []
    for maker in (make, make_reference):
        with pytest.warns(UserWarning, match="already wrapped with a `Monitor`"):
            envs = VecMonitor(maker(max_episode_steps=6))
        envs = VecFrameStack(VecNormalize(envs), 2)
        envs.env_method("set_schedule", [([0.2, 0.3], 0), ([-0.2, 0.1], 1)])
        steps = [envs.reset()]
        for t in range(15):
            observations, rewards, dones, infos = envs.step(np.full((3, 2), (-1.0) ** t, dtype=np.float32))
            steps += [observations, rewards, dones]
            if dones.any():
                steps += [infos[0]["terminal_observation"], infos[0]["episode"]["r"], infos[0]["episode"]["l"]]
        results.append(steps)
    assert len(results[0]) == 1 + 15 * 3 + 2 * 3
    for ours, theirs in zip(*results, strict=True):
        assert np.array_equal(ours, theirs)


def test_a_step_costs_microseconds_not_milliseconds():
    """The bound is many times what it takes, but far below one Python call per column."""
    envs = make(num_envs=400)
    envs.reset()
    actions = np.zeros((400, 2), dtype=np.float32)
    fastest = np.inf
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(99):
            envs.step(actions)
        fastest = min(fastest, (time.perf_counter() - start) / 99)
        envs.reset()
    assert fastest < 1e-3

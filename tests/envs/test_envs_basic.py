"""Navigation, bandits and tabular MDPs: both forms agree to the bit, checkers pass, bad input is named."""

import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as check_sb3_env

from sb3_sgmrl.envs import register_envs
from sb3_sgmrl.envs.bandit import BernoulliBanditVectorEnv
from sb3_sgmrl.envs.navigation import Navigation2DEnv, Navigation2DVectorEnv
from sb3_sgmrl.envs.tabular_mdp import TabularMDPEnv, TabularMDPVectorEnv

FAMILIES = [
    ("Navigation2D-v0", {}),
    ("Navigation2D-v0", {"squared": True}),
    ("Navigation2D-v0", {"early_end": False}),
    ("Navigation2D-v0", {"action_bound": 0.1}),
    ("Navigation2DPaper-v0", {}),
    ("BernoulliBandit-v0", {}),
    ("BernoulliBandit-v0", {"n_arms": 2, "max_episode_steps": 37}),
    ("TabularMDP-v0", {}),
    ("TabularMDP-v0", {"n_states": 3, "n_actions": 2, "mean_reward": "uniform", "max_episode_steps": 20}),
    ("TabularMDP-v0", {"reward_std": 0.0}),
]

IDS = sorted({env_id for env_id, _ in FAMILIES})


def make_actions(envs, observations, rng):
    """Random actions; in navigation, even columns go to their goal, so that episodes end early."""
    actions = rng.standard_normal(envs.action_space.shape).astype(np.float32)
    if isinstance(envs.single_action_space, gym.spaces.Discrete):
        return rng.integers(envs.single_action_space.n, size=envs.num_envs)
    bound = envs.single_action_space.high
    to_goal = (envs.tasks - observations) / 0.1 * bound
    actions[::2] = to_goal[::2].astype(np.float32)
    actions[1::2] *= bound
    return actions


@pytest.mark.parametrize("env_id, kwargs", FAMILIES)
def test_both_forms_agree_to_the_bit_over_a_schedule(env_id, kwargs):
    n_columns, n_steps = 5, 230
    rng = np.random.default_rng(1)
    envs = gym.make_vec(env_id, num_envs=n_columns, **kwargs)
    env = gym.make(env_id, **kwargs)
    schedules = [
        list(zip(envs.sample_tasks(column + 1, rng), rng.integers(2**31, size=column + 1).tolist(), strict=True))
        for column in range(n_columns)
    ]
    schedules[-1] *= 20  # this one is not played to its end
    for column, schedule in enumerate(schedules):
        envs.set_schedule(column, schedule)
    observations, _ = envs.reset(seed=0)
    log = []
    for _ in range(n_steps):
        actions = make_actions(envs, observations, rng)
        before = observations
        observations, *rest = envs.step(actions)
        log.append((before, actions, observations, *rest))

    n_terminated = 0
    for column, schedule in enumerate(schedules):
        step = 0
        for task, seed in schedule:
            if step == n_steps:
                break
            env.unwrapped.set_task(task)
            observation, _ = env.reset(seed=seed)
            assert np.array_equal(observation, log[step][0][column])
            done = False
            while not done and step < n_steps:
                _, actions, after, rewards, terminations, truncations, infos = log[step]
                observation, reward, terminated, truncated, _ = env.step(actions[column])
                done = terminated or truncated
                n_terminated += terminated
                assert (reward, terminated, truncated) == (rewards[column], terminations[column], truncations[column])
                if done:
                    assert infos["_final_obs"][column]
                    after = infos["final_obs"]
                assert np.array_equal(observation, after[column])
                assert np.asarray(observation).dtype == np.asarray(after[column]).dtype
                step += 1
        idle_from = step
        for _, _, after, rewards, terminations, truncations, infos in log[idle_from:]:
            assert np.array_equal(after[column], observation)
            assert (rewards[column], terminations[column], truncations[column]) == (0.0, False, False)
            assert infos["idle"][column]
        assert (idle_from < n_steps) == envs.idle[column]
    assert not envs.idle[-1] and envs.idle[0]
    assert (n_terminated > 0) == ("Navigation" in env_id and kwargs.get("early_end", True))


@pytest.mark.parametrize("env_id, kwargs", FAMILIES)
def test_both_forms_agree_without_a_schedule(env_id, kwargs):
    """Later episodes go on with the generator seeded first; tasks stay as they are set."""
    n_columns = 3
    rng = np.random.default_rng(2)
    envs, env = gym.make_vec(env_id, num_envs=n_columns, **kwargs), gym.make(env_id, **kwargs)
    tasks = envs.sample_tasks(n_columns, rng)
    envs.set_tasks(tasks)
    observations, _ = envs.reset(seed=5)
    log = []
    for _ in range(110):
        actions = make_actions(envs, observations, rng)
        observations, *rest = envs.step(actions)
        log.append((actions, observations, *rest))
    for column in range(n_columns):
        env.unwrapped.set_task(tasks[column])
        env.reset(seed=5 + column)
        for actions, after, rewards, terminations, truncations, _ in log:
            observation, reward, terminated, truncated, _ = env.step(actions[column])
            assert (reward, terminated, truncated) == (rewards[column], terminations[column], truncations[column])
            if terminated or truncated:
                observation, _ = env.reset()
            assert np.array_equal(observation, after[column])
        assert np.array_equal(env.unwrapped.get_task(), tasks[column])


@pytest.mark.parametrize("env_id", IDS)
def test_single_forms_pass_the_checkers(env_id):
    with warnings.catch_warnings():
        # Both recommend a box of +-1, which the paper's program does not have.
        warnings.filterwarnings("ignore", ".*symmetric and normalized.*")
        check_gymnasium_env(gym.make(env_id, render_mode="rgb_array").unwrapped)
        check_sb3_env(gym.make(env_id, render_mode="rgb_array"))


def test_registration_can_be_repeated_and_has_every_family():
    before = dict(gym.registry)
    register_envs()
    assert gym.registry == before
    assert {*IDS, "HalfCheetahDir-v0"} <= set(before)
    assert gym.spec("Navigation2DPaper-v0").kwargs == {"action_bound": 10.0}


@pytest.mark.parametrize("env_id", IDS)
def test_make_vec_makes_the_batched_form(env_id):
    envs = gym.make_vec(env_id, num_envs=3, max_episode_steps=4, render_mode="rgb_array")
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert envs.max_episode_steps == 4
    observations, infos = envs.reset(seed=[1, None, 3])
    assert observations in envs.observation_space and infos == {}
    for t in range(1, 9):
        observations, rewards, _, truncations, infos = envs.step(envs.action_space.sample())
        assert observations in envs.observation_space
        assert rewards.dtype == np.float64
        assert (truncations == (t % 4 == 0)).all() and ("final_obs" in infos) == (t % 4 == 0)
    frames = envs.render()
    assert len(frames) == 3 and frames[0].dtype == np.uint8 and frames[0].ndim == 3
    assert len({frame.shape for frame in frames}) == 1


@pytest.mark.parametrize("env_id", IDS)
def test_pickled_in_the_middle_of_an_episode_both_forms_go_on(env_id):
    envs, env = gym.make_vec(env_id, num_envs=4), gym.make(env_id)
    rng = np.random.default_rng(3)
    for column in range(1, 4):
        envs.set_schedule(column, [(task, 7) for task in envs.sample_tasks(column, rng)])
    envs.reset(seed=0)
    env.unwrapped.set_task(envs.sample_tasks(1, rng)[0])
    env.reset(seed=0)
    actions = [envs.action_space.sample() for _ in range(30)]
    for batch in actions[:3]:
        envs.step(batch)
        env.step(batch[0])
    envs_copy, env_copy = pickle.loads(pickle.dumps((envs, env)))
    for batch in actions[3:]:
        step, step_copy = envs.step(batch), envs_copy.step(batch)
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(step[:4], step_copy[:4], strict=True))
    assert np.array_equal(env.step(actions[3][0])[0], env_copy.step(actions[3][0])[0])
    assert np.array_equal(env.unwrapped.get_task(), env_copy.unwrapped.get_task())


BAD_TASKS = [
    ("Navigation2D-v0", [0.1], "shape"),
    ("Navigation2D-v0", "left", "shape"),
    ("Navigation2D-v0", None, "shape"),
    ("Navigation2D-v0", [0.1, 0.6], "must lie in Box"),
    ("Navigation2D-v0", [0.1, np.nan], "must lie in Box"),
    ("BernoulliBandit-v0", [0.1, 0.2], "shape"),
    ("BernoulliBandit-v0", [0.1, 0.2, 0.3, 0.4, 1.5], "must lie in Box"),
    ("TabularMDP-v0", np.zeros((10, 5, 11)), "sum to 1"),
    ("TabularMDP-v0", np.full((10, 5, 11), np.inf), "must lie in Box"),
    ("TabularMDP-v0", np.concatenate([np.full((10, 5, 10), 0.1), np.full((10, 5, 1), np.inf)], axis=2), "finite"),
]


@pytest.mark.parametrize("env_id, task, message", BAD_TASKS)
def test_wrong_tasks_are_rejected_by_both_forms(env_id, task, message):
    env, envs = gym.make(env_id).unwrapped, gym.make_vec(env_id, num_envs=2)
    good = env.get_task()
    with pytest.raises(ValueError, match=message):
        env.set_task(task)
    with pytest.raises(ValueError, match=message):
        envs.set_task(0, task)
    with pytest.raises(ValueError, match="task"):
        envs.set_tasks([good, task])
    with pytest.raises(ValueError, match="task"):
        envs.set_schedule(1, [(good, 0), (task, 1)])
    assert np.array_equal(env.get_task(), good) and np.array_equal(envs.tasks[1], good)


def test_tasks_may_be_lists_and_are_copied():
    env = Navigation2DEnv()
    env.set_task([0.1, -0.2])
    task = env.get_task()
    task[:] = 0
    assert env.get_task().tolist() == [0.1, -0.2]
    env.reset(seed=1)
    assert env.get_task().tolist() == [0.1, -0.2]


@pytest.mark.parametrize("env_id", IDS)
def test_sampled_tasks_are_valid_and_follow_the_generator(env_id):
    env = gym.make(env_id).unwrapped
    tasks = env.sample_tasks(50, np.random.default_rng(4))
    again = env.sample_tasks(50, np.random.default_rng(4))
    assert all(np.array_equal(task, other) for task, other in zip(tasks, again, strict=True))
    assert len(np.unique(np.array(tasks).reshape(50, -1), axis=0)) == 50
    for task in tasks:
        assert task in env.task_space and task.dtype == np.float64
        env.set_task(task)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Navigation2DEnv(action_bound=0.0), "action_bound"),
        (lambda: Navigation2DEnv(render_mode="human"), "render_mode"),
        (lambda: Navigation2DVectorEnv(2, render_mode="human"), "render_mode"),
        (lambda: Navigation2DVectorEnv(0), "num_envs"),
        (lambda: Navigation2DVectorEnv(2, max_episode_steps=0), "max_episode_steps"),
        (lambda: BernoulliBanditVectorEnv(2, n_arms=0), "n_arms"),
        (lambda: TabularMDPEnv(n_states=0), "n_states"),
        (lambda: TabularMDPEnv(mean_reward="gamma"), "mean_reward"),
        (lambda: TabularMDPEnv(reward_std=-1.0), "reward_std"),
        (lambda: Navigation2DVectorEnv(2).set_schedule(0, [([0.1, 0.1], -1)]), "seed"),
        (lambda: Navigation2DVectorEnv(2).set_schedule(0, [([0.1, 0.1], 0.5)]), "seed"),
        (lambda: Navigation2DVectorEnv(2).reset(seed=[1]), "seed"),
        (lambda: Navigation2DVectorEnv(2).set_tasks([[0.1, 0.1]]), "tasks"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_schedule_waits_for_the_next_reset_and_can_be_released():
    envs = Navigation2DVectorEnv(2, max_episode_steps=3)
    envs.set_tasks([[0.5, 0.5]] * 2)
    envs.reset(seed=0)
    right = np.ones((2, 2), dtype=np.float32)
    envs.set_schedule(0, [([0.4, 0.4], 0), ([0.3, 0.3], 1)])
    played = []
    for _ in range(3 * 3):
        played.append(envs.tasks[0, 0])
        envs.step(right)
    assert played == [0.5] * 3 + [0.4] * 3 + [0.3] * 3
    assert envs.idle.tolist() == [True, False]
    envs.set_schedule(0, None)
    assert envs.idle[0]
    observations, _ = envs.reset()
    assert not envs.idle.any() and not observations.any()
    assert envs.tasks[0].tolist() == [0.3, 0.3]


def test_with_all_columns_idle_a_step_changes_nothing():
    envs = TabularMDPVectorEnv(3)
    first, _ = envs.reset(seed=0)
    for column in range(3):
        envs.set_schedule(column, [])
    assert np.array_equal(envs.reset()[0], first) and envs.idle.all()
    observations, rewards, terminations, truncations, infos = envs.step(np.zeros(3, dtype=np.int64))
    assert np.array_equal(observations, first)
    assert not (rewards.any() or terminations.any() or truncations.any())
    assert infos["idle"].all() and "final_obs" not in infos


def test_step_before_reset_is_an_error():
    with pytest.raises(gym.error.ResetNeeded):
        Navigation2DVectorEnv(2).step(np.zeros((2, 2)))


def test_returned_arrays_do_not_change_later():
    envs = Navigation2DVectorEnv(2)
    first, _ = envs.reset(seed=0)
    second, *_ = envs.step(np.ones((2, 2)))
    assert not first.any()
    envs.step(np.ones((2, 2)))
    assert np.allclose(second, 0.1)

"""Playing the episodes of a phase: the same to the bit, whoever plays them."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from sampling_tools import ENTROPY, TASKS, assert_same_phase, collect, functional, sets_of
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor
from toys import HORIZON, OBSERVATIONS, PointEnv, point, point_vec, tiny

from sb3_sgmrl import SGMRL, TaskDistEnv
from sb3_sgmrl.common.sampling import collect_phase
from sb3_sgmrl.policies.actions import draw_noise
from sb3_sgmrl.vec_env.borrowing import tasks_released_afterwards
from sb3_sgmrl.vec_env.engines import as_task_vec_env
from sb3_sgmrl.vec_env.task_vec_env import TaskVecEnv
from sb3_sgmrl.vec_env.task_workers import find_horizon, known_horizon


@pytest.mark.parametrize("end", [0.0, 0.3])
def test_an_episode_is_that_of_its_task_and_seed(end):
    """Played once more by hand, one episode after another."""
    policy = functional()
    phase = collect(point_vec(3, end=end), policy)
    env, seeds = Monitor(point(end=end)), np.random.SeedSequence([*ENTROPY, 0]).generate_state(12)
    noise = [draw_noise(env.action_space, 12, np.random.default_rng([*ENTROPY, 1, t])) for t in range(HORIZON)]
    lengths = set()
    for i, (task, parameters) in enumerate(zip(TASKS, sets_of(policy), strict=True)):
        adapted = policy.policy_with(parameters)
        for j in range(4):
            env.get_wrapper_attr("set_schedule")([(task, int(seeds[4 * i + j]))])
            observation, done, t = env.reset()[0], False, 0
            while not done:
                np.testing.assert_allclose(phase.observations[i, j, t], observation, rtol=1e-4, atol=1e-5)
                with th.no_grad():
                    normal = adapted.get_distribution(th.as_tensor(observation[None])).distribution
                action = (normal.mean + normal.stddev * noise[t][4 * i + j]).numpy()[0]
                np.testing.assert_allclose(phase.actions[i, j, t], action, rtol=1e-4, atol=1e-5)
                observation, reward, terminated, truncated, info = env.step(np.clip(action, -1, 1))
                np.testing.assert_allclose(phase.rewards[i, j, t], reward, rtol=1e-4)
                done, t = terminated or truncated, t + 1
            assert phase.mask[i, j].tolist() == [k < t for k in range(phase.mask.shape[2])]
            assert phase.episode_returns[i, j] == pytest.approx(info["episode"]["r"], rel=1e-4)
            lengths.add(t)
    assert lengths == {HORIZON} if end == 0 else len(lengths) > 2
    # unclipped actions are what is learnt from
    assert np.abs(phase.actions).max() > 1
    # nothing but zeros where nothing was played
    assert (
        not phase.rewards[~phase.mask].any()
        and not phase.actions[~phase.mask].any()
        and not phase.observations[~phase.mask].any()
    )


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ["box", "multi_discrete"])
def test_workers_make_no_difference(observation, action):
    from toys import tiny

    from sb3_sgmrl import MAML

    kwargs = {"observation": observation, "action": action, "end": 0.3}
    name = {"image": "CnnPolicy", "dict": "MultiInputPolicy"}.get(observation, "MlpPolicy")
    small = {"features_extractor_kwargs": {"features_dim": 4} if observation == "image" else {"cnn_output_dim": 4}}
    model = tiny(MAML, point_vec(1, **kwargs), name, policy_kwargs=small if name != "MlpPolicy" else {})
    phases = [collect(model._wrap_env(point_vec(n, **kwargs)), model.functional) for n in (1, 3, 7, 20)]
    assert phases[0].mask.shape[:2] == (3, 4) and not phases[0].mask.all()
    for other in phases[1:]:
        assert_same_phase(phases[0], other)


def test_worker_processes_make_no_difference():
    env = point_vec(2, subprocess=True, end=0.3)
    try:
        assert isinstance(env, SubprocVecEnv)
        assert_same_phase(collect(point_vec(3, end=0.3)), collect(env))
    finally:
        env.close()


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [("Navigation2D-v0", {"max_episode_steps": 12}), ("BernoulliBandit-v0", {}), ("TabularMDP-v0", {"n_states": 3})],
)
def test_the_batched_engine_makes_no_difference(env_id, kwargs):
    make = partial(TaskDistEnv, env_id, **kwargs)
    tasks = make().sample_tasks(3, 0)
    single, batched = make_vec_env(make, 3), as_task_vec_env(make(), n_envs=5)
    assert isinstance(batched, TaskVecEnv)
    policy = functional(single.observation_space, single.action_space)
    if env_id == "Navigation2D-v0":  # some episodes end early: the policy goes to a corner, which is one of the goals
        tasks[0] = np.array([0.5, 0.5])
        th.nn.init.constant_(policy.policy.action_net.bias, 1.0)
    one, other = (collect(env, policy, tasks, n_episodes=20) for env in (single, batched))
    assert_same_phase(one, other)
    assert one.mask.all() == (env_id != "Navigation2D-v0")


def test_a_set_shared_by_all_tasks_is_one_for_each():
    policy, env = functional(), point_vec(3)
    parameters = sets_of(policy, 1)
    with tasks_released_afterwards(env):
        shared = collect_phase(env, policy, parameters, TASKS, 2, ENTROPY)
        each = collect_phase(env, policy, parameters * 3, TASKS, 2, ENTROPY)
    assert_same_phase(shared, each)


def test_entropy_names_the_phase():
    policy, env = functional(), point_vec(3)
    phases = [collect_phase(env, policy, sets_of(policy), TASKS, 2, entropy) for entropy in ([0, 0], [0, 1], [1, 0], [0, 0])]
    assert_same_phase(phases[0], phases[3])
    for other in phases[1:3]:
        assert (phases[0].observations != other.observations)[:, :, 0, :2].all()
        assert (phases[0].actions != other.actions).all()


def test_steps_are_reported_as_callbacks_read_them():
    seen, counted = [], []

    def on_step(step_locals, n_samples):
        seen.append(step_locals)
        counted.append(n_samples)
        return True

    phase = collect(point_vec(5, end=0.3), on_step=on_step)
    assert sum(counted) == phase.mask.sum()
    assert sum(int(step["dones"].sum()) for step in seen) == 12
    for step in seen:
        assert step.keys() >= {"new_obs", "rewards", "dones", "infos", "actions"}
        assert (
            len(step["new_obs"])
            == len(step["rewards"])
            == len(step["dones"])
            == len(step["infos"])
            == len(step["actions"])
            == 5
        )
        for done, info in zip(step["dones"], step["infos"], strict=True):
            assert done == ("episode" in info) == ("terminal_observation" in info)
            assert done or not info.get("TimeLimit.truncated")


def test_a_false_return_stops_at_once():
    calls = []

    def on_step(step_locals, n_samples):
        calls.append(n_samples)
        return len(calls) < 3

    env = point_vec(4)
    assert collect(env, on_step=on_step) is None
    assert calls == [4, 4, 4]


@pytest.mark.parametrize("monitor", [False, True])
def test_a_time_limit_above_the_tasks_ends_no_idle_episode(monitor):
    """It goes on to count in workers that have nothing to play."""

    def make():
        return TimeLimit(TaskDistEnv(TimeLimit(PointEnv(end=0.2), HORIZON)), 3)

    env = VecMonitor(DummyVecEnv([make] * 7)) if monitor else make_vec_env(make, 7)
    steps = []

    def on_step(step_locals, n_samples):
        steps.append((step_locals["dones"].sum(), sum("episode" in info for info in step_locals["infos"])))
        return True

    phase = collect(env, tasks=TASKS[:2], n_episodes=5, on_step=on_step)
    assert np.sum(steps, axis=0).tolist() == [10, 10]
    assert phase.mask.shape[2] <= 3


def test_returns_without_a_monitor():
    phase = collect(DummyVecEnv([partial(point, end=0.2)] * 3))
    np.testing.assert_allclose(phase.episode_returns, phase.rewards.sum(-1), rtol=1e-5)


def test_an_episode_that_outlasts_the_time_limit_is_an_error():
    class Longer(gym.Wrapper):
        """A time limit that is not kept."""

        _max_episode_steps = 2

    env = make_vec_env(lambda: TaskDistEnv(Longer(PointEnv())), 2)
    assert find_horizon(env) == 2
    with pytest.raises(ValueError, match="time limit of 2 steps"):
        collect(env)


def test_the_horizon_is_found_wherever_the_limit_is():
    def limited(inside=None, outside=None):
        env = point(horizon=inside)
        return find_horizon(make_vec_env(lambda: env if outside is None else TimeLimit(env, outside), 1))

    assert (limited(inside=4), limited(outside=3), limited(4, 3), limited(3, 4)) == (4, 3, 3, 3)
    assert find_horizon(as_task_vec_env("Navigation2D-v0")) == 100
    assert find_horizon(as_task_vec_env(TaskDistEnv("Navigation2D-v0", max_episode_steps=7))) == 7


def test_environments_of_a_list_may_have_different_horizons():
    env = make_vec_env(lambda: TaskDistEnv([TimeLimit(PointEnv(), 2), TimeLimit(PointEnv(), 4)]), 3)
    assert find_horizon(env) == 4
    phase = collect(env, tasks=[0, 1])
    assert phase.mask.sum(-1).tolist() == [[2] * 4, [4] * 4]
    endless = make_vec_env(lambda: TaskDistEnv([TimeLimit(PointEnv(), 2), PointEnv()]), 3)
    assert find_horizon(endless) is None


def test_the_space_of_actions_is_respected_by_all():
    """The environment itself asserts that each action it gets is one of its space."""
    narrow = spaces.Box(-0.01, 0.01, (2,), np.float32)

    class Narrow(PointEnv):
        def __init__(self):
            super().__init__()
            self.action_space = narrow

    phase = collect(make_vec_env(lambda: TaskDistEnv(TimeLimit(Narrow(), 3)), 2))
    assert np.abs(phase.actions).max() > 0.01


def test_the_horizon_is_that_of_the_longest_episodes():
    env = DummyVecEnv([lambda: Monitor(point(3)), lambda: Monitor(point(6))])
    assert find_horizon(env) == 6
    tiny(SGMRL, env).learn(1)
    env = DummyVecEnv([lambda: Monitor(point(3)), lambda: Monitor(point(None))])
    assert find_horizon(env) is None
    with pytest.raises(ValueError, match="`env` has no known time limit"):
        known_horizon(env)

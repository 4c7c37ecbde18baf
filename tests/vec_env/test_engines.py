"""What plays the episodes: the batched form, clones in this process or in others, batched environments of others."""

import os
import subprocess
import sys
import textwrap
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from toys import HORIZON, PointEnv, assert_same, point, point_vec, state, tiny

from sb3_sgmrl import SGMRL, TaskDistEnv, evaluate_adaptation, from_vector_env
from sb3_sgmrl.vec_env.engines import as_task_vec_env
from sb3_sgmrl.vec_env.process_vec_env import ProcessVecEnv
from sb3_sgmrl.vec_env.task_vec_env import TaskVecEnv

TASKS = spaces.Box(-1.0, 1.0, (2,), np.float64)


class Faulty(PointEnv):
    """Does what its task says at the third step: -1 raises, 0 dies, +1 hangs."""

    def reset(self, **kwargs):
        self.n_played = 0
        return super().reset(**kwargs)

    def step(self, action):
        self.n_played += 1
        if self.n_played == 3 and self.goal[1] == 0.25:
            if self.goal[0] < 0:
                raise ZeroDivisionError("what the environment says")
            if self.goal[0] == 0:
                os._exit(7)
            time.sleep(1000)
        return super().step(action)


def monitored(cls=PointEnv, **kwargs):
    return lambda: Monitor(TaskDistEnv(TimeLimit(cls(**kwargs), HORIZON)))


def set_goal(vector_env, column, task):
    vector_env.envs[column].unwrapped.set_task(task)


def foreign(n, mode=AutoresetMode.SAME_STEP, **kwargs):
    vector_env = SyncVectorEnv([lambda: TimeLimit(PointEnv(**kwargs), HORIZON)] * n, autoreset_mode=mode)
    return from_vector_env(vector_env, set_goal, task_space=TASKS, max_episode_steps=HORIZON)


def after_two_iterations(env, **kwargs):
    model = tiny(SGMRL, env, n_inner_steps=2, **kwargs)
    model.learn(1)
    model.learn(1, reset_num_timesteps=False)
    result = state(model)
    model.env.close()
    return result


def test_results_are_the_same_through_every_engine():
    reference = after_two_iterations(point_vec(3, end=0.2))
    for n_workers in (2, 5):
        assert_same(reference, after_two_iterations(point(end=0.2), n_envs=n_workers))
    assert_same(reference, after_two_iterations(point(end=0.2), engine="subprocess", n_envs=5))
    # idle columns, one for each episode, several episodes in each
    for n_columns in (20, 12, 5):
        own = make_vec_env(lambda: TaskDistEnv(TimeLimit(PointEnv(end=0.2), HORIZON), task_space=TASKS), 3)
        assert_same(after_two_iterations(own), after_two_iterations(foreign(n_columns, end=0.2)))


@pytest.mark.parametrize(
    "env_id",
    ["HopperVel-v0", *(pytest.param(name, marks=pytest.mark.slow) for name in ("Navigation2D-v0", "BernoulliBandit-v0"))],
)
def test_registered_families_through_every_engine(env_id):
    def make():
        return TaskDistEnv(env_id, max_episode_steps=6)

    reference = after_two_iterations(make(), engine="batched")
    assert_same(reference, after_two_iterations(make(), engine="in_process"))
    assert_same(reference, after_two_iterations(make(), engine="subprocess", n_envs=3))


def test_the_choice_can_be_overridden_and_is_logged(capsys):
    assert isinstance(tiny(SGMRL, "Navigation2D-v0").env, TaskVecEnv)
    assert isinstance(tiny(SGMRL, "Navigation2D-v0", engine="in_process").env, DummyVecEnv)
    assert isinstance(tiny(SGMRL, point()).env, DummyVecEnv)
    capsys.readouterr()
    tiny(SGMRL, "Navigation2D-v0", verbose=1)
    assert "Running 12 environments side by side in a TaskVecEnv.\n" in capsys.readouterr().out


def test_engines_that_are_not_there():
    with pytest.raises(ValueError, match=r"`engine='batched'` needs a registered environment with tasks and a batched form"):
        tiny(SGMRL, point(), engine="batched")
    with pytest.raises(ValueError, match="`engine` must be one of auto, batched, in_process, subprocess"):
        tiny(SGMRL, point(), engine="gpu")
    with pytest.raises(ValueError, match="`engine` applies to a single environment"):
        tiny(SGMRL, point_vec(2), engine="in_process")


@pytest.mark.parametrize("make", [point, lambda: TaskDistEnv("Navigation2D-v0")])
def test_no_episode_is_lost_to_a_monitor_that_nobody_plays_in(make, tmp_path):
    env = Monitor(make(), str(tmp_path / "monitor"))
    with pytest.raises(ValueError, match="`env` has a Monitor that writes a file"):
        as_task_vec_env(env)
    env.close()
    assert as_task_vec_env(Monitor(make())).num_envs > 1


def test_the_shorter_of_two_time_limits_counts():
    env = TaskDistEnv(TimeLimit(gym.make("Navigation2D-v0", max_episode_steps=5), 9))
    model = tiny(SGMRL, env).learn(1)
    assert isinstance(model.env, TaskVecEnv) and model.num_timesteps == 2 * 12 * 5


# Processes


@pytest.fixture(scope="module")
def pair():
    """The same workers in two processes and in this one."""
    env_fns = [monitored(end=0.2)] * 5
    processes, here = ProcessVecEnv(env_fns, n_processes=2), DummyVecEnv(env_fns)
    yield processes, here
    processes.close()


def test_workers_in_processes_are_those_of_a_dummy_vec_env(pair):
    for env in pair:
        env.seed(3)
    np.testing.assert_array_equal(*(env.reset() for env in pair))
    rng = np.random.default_rng(0)
    for _ in range(3 * HORIZON):
        actions = rng.uniform(-1, 1, (5, 2)).astype(np.float32)
        one, other = (env.step(actions) for env in pair)
        for x, y in zip(one[:3], other[:3], strict=True):
            np.testing.assert_array_equal(x, y)
        for x, y in zip(one[3], other[3], strict=True):
            assert x.keys() == y.keys() and x.get("episode", {}).get("r") == y.get("episode", {}).get("r")
        for x, y in zip(*(env.reset_infos for env in pair), strict=True):
            np.testing.assert_array_equal(x["task"], y["task"])


def test_workers_in_processes_can_be_asked(pair):
    processes, here = pair
    for indices in (None, 4, [3, 0]):
        assert processes.get_attr("end", indices) == here.get_attr("end", indices)
    processes.env_method("set_task", [0.5, 0.5], indices=[1, 4])
    pinned = processes.env_method("get_pinned_task")
    assert [task is not None for task in pinned] == [False, True, False, False, True]
    processes.env_method("set_task", None)
    processes.set_attr("end", 0.3, indices=[4, 2])
    assert processes.get_attr("end") == [0.2, 0.2, 0.3, 0.2, 0.3]
    processes.set_attr("end", 0.2)
    assert processes.env_is_wrapped(TaskDistEnv) == [True] * 5 and processes.env_is_wrapped(TimeLimit, [2]) == [True]
    assert processes.has_attr("end") and not processes.has_attr("no_such_thing")
    with pytest.raises(AttributeError, match="no_such_thing"):
        processes.get_attr("no_such_thing")


def test_answers_nobody_waited_for_are_dropped(pair):
    processes, _ = pair
    processes.env_method("set_task", [0.5, 0.5])
    processes.reset()
    processes.step_async(np.zeros((5, 2), np.float32))  # and then an interrupt
    assert processes.get_attr("end") == [0.2] * 5
    processes.env_method("set_task", None)


def faulty(what):
    return ProcessVecEnv([monitored(Faulty)] * 4, n_processes=2, timeout=5), [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [what, 0.25]]


def play(env, tasks):
    for worker, task in enumerate(tasks):
        env.env_method("set_task", task, indices=worker)
    env.reset()
    for _ in range(4):
        env.step(np.zeros((4, 2), np.float32))


def test_an_error_of_an_environment_is_raised_as_it_is():
    env, tasks = faulty(-1.0)
    with pytest.raises(ZeroDivisionError, match="what the environment says"):
        play(env, tasks)
    env.reset()  # nothing is left in a pipe
    env.close()


@pytest.mark.parametrize(("what", "match"), [(0.0, "died with exit code 7"), (1.0, "did not answer within 5 seconds")])
def test_a_process_that_dies_or_hangs_is_named_and_none_is_left(what, match):
    env, tasks = faulty(what)
    processes = env._processes
    with pytest.raises(
        RuntimeError, match=rf"The process of workers 2 to 3 {match} in worker 3, task \[{what:.0f}\. +0\.25\]\."
    ):
        play(env, tasks)
    assert not any(process.is_alive() for process in processes)
    env.close()


def test_processes_end_with_the_vec_env_and_scripts_need_no_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent("""
        import gymnasium as gym
        from gymnasium import spaces
        from sb3_sgmrl import SGMRL, TaskDistEnv

        def set_task(env, task):
            env.g = float(task[0])

        env = TaskDistEnv(gym.make("Pendulum-v1", max_episode_steps=5), task_space=spaces.Box(5, 15, (1,)), set_task=set_task)
        model = SGMRL("MlpPolicy", env, engine="subprocess", n_envs=4, meta_batch_size=2, n_episodes=2).learn(1)
        import sys
        assert "multiprocessing.popen_spawn_posix" in sys.modules  # what starting a process imported is still there
        processes = model.env._processes
        assert len(processes) >= 1
        del model
        import gc; gc.collect()
        assert not any(process.is_alive() for process in processes)
        print("done")
        """))
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert result.stdout == "done\n", result.stderr


def test_numbers_of_processes():
    with pytest.raises(ValueError, match="`n_processes` must be a positive integer"):
        ProcessVecEnv([monitored()], n_processes=0)
    with pytest.raises(ValueError, match="`timeout` must be a positive number"):
        ProcessVecEnv([monitored()], timeout=0)


# Vector environments of others


def test_columns_of_others_tell_what_workers_tell():
    env = foreign(4)
    own = make_vec_env(lambda: TaskDistEnv(TimeLimit(PointEnv(), HORIZON), task_space=TASKS), 4)
    for vec_env in (env, own):
        vec_env.seed(5)
    np.testing.assert_array_equal(env.reset(), own.reset())
    for _ in range(HORIZON):
        one, other = (vec_env.step(np.full((4, 2), 0.1, np.float32)) for vec_env in (env, own))
    assert one[2].all() and other[2].all()
    for x, y in zip(one[3], other[3], strict=True):
        np.testing.assert_array_equal(x["terminal_observation"], y["terminal_observation"])
        np.testing.assert_array_equal(x["task"], y["task"])
        assert x["TimeLimit.truncated"] is y["TimeLimit.truncated"] is True
        assert x["episode"]["r"] == y["episode"]["r"] and x["episode"]["l"] == HORIZON
    report = evaluate_adaptation(tiny(SGMRL, env), n_tasks=3, n_episodes=4)
    assert report.returns.shape == (3, 2)
    env.env_method("set_task", [0.1, 0.2], indices=2)
    assert env.env_method("get_task", indices=2)[0].tolist() == [0.1, 0.2]


def test_their_own_time_limits_count():
    vector_env = SyncVectorEnv([lambda: TimeLimit(PointEnv(), 2)] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    env = from_vector_env(vector_env, set_goal, task_space=TASKS, max_episode_steps=HORIZON)
    env.reset()
    for expected in (False, True, False, True):
        _, _, dones, infos = env.step(np.zeros((3, 2), np.float32))
        assert dones.tolist() == [expected] * 3
        assert all(info["TimeLimit.truncated"] for info in infos if expected)


def test_tasks_of_others_may_be_anything():
    def set_task(vector_env, column, task):
        vector_env.envs[column].unwrapped.set_task(np.array({"left": [-1.0, 0.0], "right": [1.0, 0.0]}[task]))

    vector_env = SyncVectorEnv([lambda: TimeLimit(PointEnv(), HORIZON)] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    env = from_vector_env(vector_env, set_task, tasks=["left", "right"], max_episode_steps=HORIZON)
    model = tiny(SGMRL, env).learn(1)
    assert {model.adapt(task=task) is not None for task in ("left", "right")} == {True}
    with pytest.raises(ValueError, match="up"):
        model.adapt(task="up")


def test_one_column_is_rendered():
    vector_env = gym.make_vec(
        "CartPole-v1", 3, "sync", render_mode="rgb_array", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
    )
    env = from_vector_env(vector_env, lambda vector_env, column, task: None, tasks=[0, 1])
    assert env.template.horizon == 500
    env.reset()
    images = env.get_images()
    assert len(images) == 1 and images[0].ndim == 3
    env.close()


def test_what_others_must_bring():
    def refuses(match, vector_env, *args, **kwargs):
        with pytest.raises(ValueError, match=match):
            from_vector_env(vector_env, *args, **kwargs)

    def make(**kwargs):
        return SyncVectorEnv([lambda: PointEnv(**kwargs)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)

    refuses("SAME_STEP", SyncVectorEnv([PointEnv]), set_goal, task_space=TASKS, max_episode_steps=3)
    refuses("arrays as observations", make(observation="dict"), set_goal, task_space=TASKS, max_episode_steps=3)
    refuses("pass `set_task`", make(), task_space=TASKS, max_episode_steps=3)
    refuses("pass `max_episode_steps`", make(), set_goal, task_space=TASKS)
    refuses("has no tasks", make(), set_goal, max_episode_steps=3)

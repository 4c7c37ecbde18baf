"""What goes wrong in workers while a phase is played: what is bad is named, and no worker is harmed."""

import os
import signal
from itertools import product

import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from sampling_tools import ENTROPY, TASKS, assert_same_phase, collect, functional, sets_of
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize
from toys import ACTIONS, HORIZON, PointEnv, point, point_vec

from sb3_sgmrl import TaskDistEnv
from sb3_sgmrl.common.sampling import collect_phase
from sb3_sgmrl.vec_env.borrowing import tasks_released_afterwards
from sb3_sgmrl.vec_env.process_vec_env import ProcessVecEnv
from sb3_sgmrl.vec_env.task_workers import check_tasks

# ----------------------------------------------------------------------------------------------------------- bad values


class Broken(PointEnv):
    """Gives a value that is not finite in the second episode of the task named."""

    bad_task = TASKS[1]

    def __init__(self, where, value=np.nan, **kwargs):
        super().__init__(**kwargs)
        self.where, self.value, self.steps, self.episode = where, value, 0, 0

    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        self.steps = 0
        return (self.spoil(observation) if self.where == "first observation" else observation), info

    def step(self, action):
        observation, reward, *rest = super().step(action)
        self.steps += 1
        if self.steps == {"observation": 2, "last observation": HORIZON}.get(self.where):
            observation = self.spoil(observation)
        if self.where == "reward" and self.steps == 3 and np.array_equal(self.goal, self.bad_task):
            reward = self.value
        return observation, reward, *rest

    def spoil(self, observation):
        if not np.array_equal(self.goal, self.bad_task):
            return observation
        if isinstance(observation, dict):
            return {**observation, "vector": np.full(3, self.value, np.float32)}
        return np.array([0, self.value, 0], np.float32)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["first observation", "observation", "last observation", "reward"])
@pytest.mark.parametrize(("action", "normalize"), [("box", False), ("discrete", False), ("box", True)])
def test_bad_observations_and_rewards_are_named(where, value, action, normalize):
    # of 12 episodes, worker 1 of 3 plays the second, fifth, …: the second task begins with the fifth
    env = make_vec_env(lambda: TaskDistEnv(TimeLimit(Broken(where, value, action=action), HORIZON)), 3)
    env = VecNormalize(env) if normalize else env
    what = where.removeprefix("first ")
    with pytest.raises(ValueError, match=rf"^The {what} of worker 1, task \[-0.5  0.2\], is NaN or infinite\.$"):
        collect(env)
    if normalize:
        # all that came before was learnt from, and nothing of the step that is at fault
        assert round(env.obs_rms.count) == round(env.ret_rms.count) + 3 >= 3 * HORIZON
        assert np.isfinite([*env.obs_rms.mean, *env.obs_rms.var, env.ret_rms.mean, env.ret_rms.var, *env.returns]).all()
    # the workers are free again
    assert env.env_method("get_pinned_task") == [None] * 3
    env.reset()
    assert not np.array_equal(env.env_method("get_task", indices=0)[0], TASKS[1])


@pytest.mark.parametrize("where", ["observation", "last observation"])
def test_bad_observations_in_a_dictionary_are_named(where):
    from toys import tiny

    from sb3_sgmrl import MAML

    def make():
        return TaskDistEnv(TimeLimit(Broken(where, observation="dict"), HORIZON))

    small = {"features_extractor_kwargs": {"cnn_output_dim": 4}}
    model = tiny(MAML, make_vec_env(make, 2), "MultiInputPolicy", policy_kwargs=small)
    with pytest.raises(ValueError, match=rf"The {where} of worker 0, task \[-0.5  0.2\], is NaN"):
        collect(model.env, model.functional)


@pytest.mark.parametrize("action", ACTIONS)
def test_bad_actions_are_named(action):
    env = point_vec(3, action=action)
    policy = functional(action_space=ACTIONS[action])
    sets = sets_of(policy)
    sets[2]["action_net.bias"][0] = np.inf
    with pytest.raises(ValueError, match=r"The action of worker \d, task \[ 0.1 -0.9\], is NaN or infinite"):
        collect_phase(env, policy, sets, TASKS, 4, ENTROPY)


@pytest.mark.parametrize("subprocess", [False, True])
def test_a_task_that_does_not_fit_harms_no_worker(subprocess):
    env = point_vec(1, subprocess=subprocess)
    try:
        check_tasks(env, TASKS)
        with pytest.raises(ValueError, match=r"Task array\(\[3., 0.\]\).*is not in the task space"):
            check_tasks(env, [TASKS[0], np.array([3.0, 0.0])])
        env.reset()
    finally:
        env.close()


def test_the_news_is_what_happened_in_a_worker_that_died():
    class Dies(PointEnv):
        def step(self, action):
            raise SystemExit

    env = make_vec_env(
        lambda: TaskDistEnv(TimeLimit(Dies(), 5)), 2, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "fork"}
    )

    def interrupt(step_locals, n_samples):
        raise KeyboardInterrupt

    with pytest.raises((EOFError, ConnectionResetError)):
        collect(env)
    for process in env.processes:
        process.join()
    # an interrupt remains an interrupt, for which RL Zoo waits before it saves
    with pytest.raises(KeyboardInterrupt), tasks_released_afterwards(env):
        raise KeyboardInterrupt
    for remote in env.remotes:
        remote.close()


@pytest.mark.parametrize("worker", [0, 1, 2])
@pytest.mark.parametrize("call", [1, 4, 9])
@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_leaves_no_answers_in_the_pipes(worker, call, times):
    """When some workers have answered and others have not: to questions, to ``reset`` or to a step."""

    class Interrupted:
        """The connection to a worker, waiting for which somebody presses Ctrl-C."""

        calls = 0

        def __init__(self, remote):
            self.send, self.recv_answer = remote.send, remote.recv
            self.poll, self.close = remote.poll, remote.close

        def recv(self):
            self.calls += 1
            if call <= self.calls < call + times:
                raise KeyboardInterrupt
            return self.recv_answer()

    env = point_vec(3, subprocess=True)
    remotes = env.remotes
    try:
        env.remotes = [Interrupted(remote) if i == worker else remote for i, remote in enumerate(remotes)]
        with pytest.raises(KeyboardInterrupt):
            collect(env)
        env.remotes = remotes
        if times == 2:  # the second one while answers are dropped
            with tasks_released_afterwards(env):
                pass
        assert not env.waiting and not any(remote.poll(0.05) for remote in remotes)
        assert env.env_method("get_pinned_task") == [None] * 3
        # tasks are drawn again
        env.reset()
        assert not any(np.array_equal(task, TASKS[0]) for task in env.env_method("get_task"))
        assert_same_phase(collect(point_vec(3)), collect(env))
    finally:
        env.close()


@pytest.mark.parametrize(("own", "names"), [(True, ["_send", "_recv"]), (False, ["_recv"])])
def test_a_signal_interrupts_no_message(own, names, monkeypatch):
    """When a part of a message is sent or received: its length, or its content, which is counted afterwards."""
    env = ProcessVecEnv([point] * 3, n_processes=1) if own else point_vec(3, subprocess=True)
    remote = env._remotes[0] if own else env.remotes[2]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        expected = collect(env)
        for name, part in product(names, (1, 2, 7, 8)):
            calls, original = [], getattr(remote, name)

            def interrupted(*args, part=part, calls=calls, call=original):
                answer = call(*args)
                calls.append(args)
                if len(calls) == part:
                    os.kill(os.getpid(), signal.SIGINT)
                return answer

            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(remote, name, interrupted)
                collect(env)
            assert_same_phase(expected, collect(env))
    finally:
        signal.signal(signal.SIGINT, before)
        env.close()

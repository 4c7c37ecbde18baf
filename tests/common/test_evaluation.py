"""Evaluation of adaptation: what is played and reported, with which workers and statistics."""

import csv
from itertools import product

import numpy as np
import pytest
from evaluation_tools import SAMPLES, meta_eval, refuses, refuses_to_learn, small
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize
from toys import HORIZON, PointEnv, assert_same, point, point_vec, state

from sb3_sgmrl import AdaptationReport, TaskDistEnv, evaluate_adaptation
from sb3_sgmrl.common import callbacks
from sb3_sgmrl.common.phases import adapt_tasks, task_phases
from sb3_sgmrl.common.sampling import collect_phase
from sb3_sgmrl.data.streams import EVALUATION
from sb3_sgmrl.plots import navigation_trajectories
from sb3_sgmrl.vec_env import engines
from sb3_sgmrl.vec_env.borrowing import borrowed_workers
from sb3_sgmrl.vec_env.task_vec_env import TaskVecEnv


def navigation():
    return TaskDistEnv("Navigation2D-v0", max_episode_steps=HORIZON)


# -------------------------------------------------------------------------------------------------------------- the report


def test_the_report_is_what_play_and_inner_steps_give():
    model = small().learn(1)
    before = state(model)
    report = evaluate_adaptation(model, n_tasks=3, n_steps=2, n_episodes=4, seed=7)
    assert_same(before, state(model))
    tasks = point().sample_tasks(3, [7, EVALUATION, 0])
    np.testing.assert_array_equal(report.tasks, tasks)
    assert report.returns.shape == (3, 3) and report.mean_returns.shape == (3,)
    parameters = [model.functional.parameters()]
    for k in range(3):
        with borrowed_workers(model.env):
            phase = collect_phase(model.env, model.functional, parameters, tasks, 4, [7, EVALUATION, 1, k])
        assert phase.episode_returns.shape == (3, 4)
        np.testing.assert_allclose(report.returns[:, k], phase.episode_returns.mean(1))
        np.testing.assert_allclose(report.mean_returns[k], phase.episode_returns.mean())
        phases = task_phases(model.functional, model.objective.inner, phase, parameters)
        parameters = adapt_tasks(model.functional, model.objective, phases, tasks)
    assert len(np.unique(report.returns)) == 9


def test_the_report_follows_seed_tasks_and_counts_but_not_workers():
    model = small()
    usual = evaluate_adaptation(model, n_tasks=3)
    assert usual.returns.shape == (3, 2)
    for same in (
        evaluate_adaptation(model, point_vec(5), n_tasks=3),
        evaluate_adaptation(model, point(), n_tasks=3),
        evaluate_adaptation(model, tasks=usual.tasks, n_tasks=7),
        evaluate_adaptation(model, tasks=np.array(usual.tasks)),
        evaluate_adaptation(model, n_tasks=3, n_episodes=model.n_episodes),
    ):
        np.testing.assert_array_equal(usual.returns, same.returns)
        np.testing.assert_array_equal(usual.tasks, same.tasks)
    for kwargs in ({"seed": 1}, {"n_episodes": 3}):
        assert not np.isin(evaluate_adaptation(model, n_tasks=3, **kwargs).returns, usual.returns).any()
    np.testing.assert_array_equal(evaluate_adaptation(model, n_tasks=3, n_steps=2).returns[:, :2], usual.returns)


def test_test_tasks_where_there_are_some_and_training_tasks_otherwise():
    train, test = [[0.1, 0.1], [0.2, 0.2]], [[0.8, 0.8], [0.9, 0.9]]

    def env(**kwargs):
        return TaskDistEnv(TimeLimit(PointEnv(), HORIZON), tasks=train, set_task="goal", **kwargs)

    for kwargs, expected in (({"test_tasks": test}, test), ({}, train)):
        model = small(env(**kwargs))
        callback = meta_eval(env(**kwargs), n_tasks=6)
        model.learn(1, callback=callback)
        for report in (evaluate_adaptation(model, n_tasks=6), callback.last_report):
            assert np.unique(report.tasks, axis=0).tolist() == expected


@pytest.mark.parametrize(("level", "width"), [(0.95, 1.96), (0.5, 0.674)])
def test_confidence_interval(level, width):
    rng = np.random.default_rng(1)
    returns = rng.normal([0.0, 5.0], [1.0, 3.0], (400, 2))
    report = AdaptationReport(list(range(400)), returns)
    interval = report.confidence_interval(level)
    assert interval.shape == (2, 2)
    # what the central limit theorem says about means of 400
    half = width * returns.std(0) / 20
    np.testing.assert_allclose((interval - returns.mean(0)[:, None]) / half[:, None], [[-1, 1]] * 2, atol=0.1)
    np.testing.assert_array_equal(interval, report.confidence_interval(level))
    if level == 0.95:
        np.testing.assert_array_equal(interval, report.confidence_interval())
        assert f"[{interval[1, 0]:.2f}, {interval[1, 1]:.2f}]" in str(report)


@pytest.mark.parametrize("level", [0, 1, -0.1, 1.5, float("nan")])
def test_level_of_the_confidence_interval(level):
    refuses("`level` must lie between 0 and 1", AdaptationReport([0], np.zeros((1, 2))).confidence_interval, level)


def test_to_csv(tmp_path):
    returns = np.array([[1.0, 2.5, -3.0], [0.1, 1 / 3, 1e-9]])
    for tasks, shown in (([np.array([0.5, -1.0]), np.array([0.25, 2.0])], ["0.5 -1.0", "0.25 2.0"]), (["a", 3], ["a", "3"])):
        AdaptationReport(tasks, returns).to_csv(tmp_path / "new" / "report.csv")
        with open(tmp_path / "new" / "report.csv", newline="") as file:
            header, *lines = csv.reader(file)
        assert header == ["task", "return_after_0", "return_after_1", "return_after_2"]
        assert [line[0] for line in lines] == shown
        np.testing.assert_array_equal([[float(x) for x in line[1:]] for line in lines], returns)


# ------------------------------------------------------------------------------------------------------------ environments


@pytest.fixture
def made(monkeypatch):
    """The VecEnvs that evaluation made or took, and those of them that were closed."""
    found, closed = [], []
    make = engines.as_task_vec_env

    def note(env, **kwargs):
        vec_env = make(env, **kwargs)
        inner = vec_env.vector_env if isinstance(vec_env, TaskVecEnv) else vec_env
        close = inner.close
        monkeypatch.setattr(inner, "close", lambda: (closed.append(vec_env), close()))
        found.append(vec_env)
        return vec_env

    monkeypatch.setattr(engines, "as_task_vec_env", note)
    return found, closed


def test_workers_are_as_many_as_are_needed_and_closed_if_made_for_it(made):
    found, closed = made
    model, goals = small(navigation()), [[0.1, 0.1], [0.2, 0.1], [0.3, 0.3]]
    own = navigation()
    own.close = lambda: pytest.fail("The environment of somebody else was closed.")
    for env, call in product([own, "Navigation2D-v0"], [evaluate_adaptation, navigation_trajectories]):
        call(model, env, tasks=goals, n_episodes=4)
        assert found[-1].num_envs == 12 and closed[-1] is found[-1]
    evaluate_adaptation(model, own, n_tasks=5, n_episodes=1)
    assert found[-1].num_envs == 5
    other = small()
    evaluate_adaptation(other, point(), n_tasks=3, n_episodes=2)
    assert found[-1].num_envs == 6 and closed[-1] is found[-1]
    assert len(found) == len(closed) == 6
    # also after an error
    refuses("observation_space", evaluate_adaptation, model, point())
    assert len(found) == len(closed) == 7
    # those that were there stay open
    evaluate_adaptation(other, n_tasks=2)
    evaluate_adaptation(other, point_vec(2), n_tasks=2)
    assert meta_eval(navigation(), n_tasks=3).eval_env.num_envs == 6
    assert meta_eval(navigation(), n_tasks=3, n_episodes=None).eval_env.num_envs < 100
    assert len(closed) == 7


def workers_without_tasks():
    return DummyVecEnv([lambda: TimeLimit(PointEnv(), HORIZON)] * 2)


UNFIT = {
    "observation": (lambda: point(observation="discrete"), "must have the observation_space of the model, .*Box.*Discrete"),
    "action": (lambda: point(action="discrete"), "must have the action_space of the model, .*Box.*Discrete"),
    "no tasks": (workers_without_tasks, "must be a TaskDistEnv, or a VecEnv"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_environments_that_do_not_go_with_the_model(kind):
    make, match = UNFIT[kind]
    model = small()
    refuses(f"`env` {match}", evaluate_adaptation, model, make(), n_tasks=2)
    refuses(f"`env` {match}", navigation_trajectories, model, make(), tasks=[[0.1, 0.1]])
    if kind == "no tasks":
        refuses(f"`eval_env` {match}", meta_eval, make())
    else:
        refuses_to_learn(f"`eval_env` {match}", model, meta_eval(make()))
    model.learn(1, callback=meta_eval())


def test_normalised_training_and_evaluation_that_is_not():
    model = small(VecNormalize(point_vec(2)))
    for env in (point_vec(2), VecNormalize(point_vec(2), norm_obs=False)):
        refuses("`env` must be in a VecNormalize", evaluate_adaptation, model, env)
        refuses("`env` must be in a VecNormalize", navigation_trajectories, model, env, tasks=[[0.1, 0.1]])
        refuses_to_learn("`eval_env` must be in a VecNormalize", model, meta_eval(env))
    evaluate_adaptation(model, n_tasks=2)
    # a model that was loaded alone does not know
    model.env = model._vec_normalize_env = None
    evaluate_adaptation(model, VecNormalize(point_vec(2)), n_tasks=2)
    refuses("`env` is missing", evaluate_adaptation, model)


@pytest.mark.parametrize("settings", [{"normalize_advantage": False}, {"baseline": "critic"}])
def test_the_scale_of_rewards_is_that_of_training_where_it_matters(settings):
    raw = VecNormalize(point_vec(2), norm_reward=False)
    evaluate_adaptation(small(VecNormalize(point_vec(2))), raw, n_tasks=2)
    model = small(VecNormalize(point_vec(2)), **settings)
    refuses("`env` must have the norm_reward", evaluate_adaptation, model, raw, n_tasks=2)
    evaluate_adaptation(model, VecNormalize(point_vec(2)), n_tasks=2)
    plain = small(**settings)
    refuses("`env` must have the norm_reward", evaluate_adaptation, plain, VecNormalize(point_vec(2), norm_obs=False))
    evaluate_adaptation(plain, VecNormalize(point_vec(2), norm_obs=False, norm_reward=False), n_tasks=2)


def test_statistics_are_those_of_training(monkeypatch):
    """Whatever else is wrapped around or below, and before each evaluation."""
    env = VecFrameStack(VecNormalize(point_vec(2)), 2)
    eval_env = VecFrameStack(VecNormalize(VecMonitor(DummyVecEnv([point] * 3))), 2)
    seen = []

    def evaluate(model, vec_env, **kwargs):
        training = model.get_vec_normalize_env()
        for name in ("obs_rms", "ret_rms"):
            ours, theirs = getattr(training, name), getattr(vec_env, name)
            assert ours is not theirs
            np.testing.assert_array_equal([*np.ravel(ours.mean), ours.count], [*np.ravel(theirs.mean), theirs.count])
        seen.append(training.obs_rms.count)
        report = evaluate_adaptation(model, vec_env, **kwargs)
        assert vec_env.obs_rms.count == training.obs_rms.count == seen[-1]
        # the numbers are those that the environment of training would give
        np.testing.assert_allclose(report.returns, evaluate_adaptation(model, **kwargs).returns, rtol=1e-5)
        return report

    monkeypatch.setattr(callbacks, "evaluate_adaptation", evaluate)
    small(env).learn(2 * SAMPLES, callback=meta_eval(eval_env))
    assert len(seen) == 3 and seen[0] < seen[1] < seen[2]


def test_statistics_of_rewards_only():
    env, eval_env = (VecNormalize(point_vec(2), norm_obs=False) for _ in range(2))
    small(env).learn(1, callback=meta_eval(eval_env))
    assert eval_env.ret_rms.count == env.ret_rms.count > 1


# ---------------------------------------------------------------------------------------------------------- bad arguments


def test_tasks_that_are_no_list():
    model = small()
    for tasks in (5, "goal", {"a": 1}, np.array(1.0)):
        refuses("`tasks` must be a list of tasks, got", evaluate_adaptation, model, tasks=tasks)
        refuses("`tasks` must be a list of tasks, got", navigation_trajectories, model, point(), tasks=tasks)
    for tasks in ([], (), np.zeros((0, 2))):
        refuses("`tasks` must hold at least one task", evaluate_adaptation, model, tasks=tasks)
        refuses("`tasks` must hold at least one task", navigation_trajectories, model, point(), tasks=tasks)

"""Evaluation of adaptation: what is played, reported, logged, written and kept, and what is refused."""

import csv
import zipfile
from itertools import product

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize
from toys import HORIZON, PointEnv, SmallCnn, assert_same, point, point_vec, state, tiny

from sb3_sgmrl import SGMRL, AdaptationReport, MetaEvalCallback, TaskDistEnv, evaluate_adaptation
from sb3_sgmrl.common import callbacks
from sb3_sgmrl.common.phases import adapt_tasks, task_phases
from sb3_sgmrl.common.sampling import collect_phase
from sb3_sgmrl.data.streams import EVALUATION
from sb3_sgmrl.plots import navigation_trajectories
from sb3_sgmrl.vec_env import engines
from sb3_sgmrl.vec_env.borrowing import borrowed_workers
from sb3_sgmrl.vec_env.task_vec_env import TaskVecEnv

SAMPLES = 2 * 2 * 2 * HORIZON  # of a meta-iteration


def small(env=None, policy="MlpPolicy", **kwargs):
    return tiny(SGMRL, point_vec(2) if env is None else env, policy, meta_batch_size=2, n_episodes=2, **kwargs)


def meta_eval(env=None, **kwargs):
    settings = {"n_tasks": 2, "n_episodes": 2, "eval_freq": 1, "verbose": 0, **kwargs}
    return MetaEvalCallback(point_vec(2) if env is None else env, **settings)


def navigation():
    return TaskDistEnv("Navigation2D-v0", max_episode_steps=HORIZON)


def rows(folder, name="evaluations.npz"):
    with np.load(folder / name, allow_pickle=True) as file:
        return {key: file[key] for key in file.files}


def refuses(match, function, *args, **kwargs):
    with pytest.raises(ValueError, match=match) as caught:
        function(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text and text.endswith("."), text


def refuses_to_learn(match, model, callback, **kwargs):
    """Before anything is played."""
    before = model.num_timesteps if kwargs else 0
    refuses(match, model.learn, 1, callback=callback, **kwargs)
    assert model.num_timesteps == before


class Count(BaseCallback):
    """Counts its calls and stops training at one of them."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.stop_at = stop_at

    def _on_step(self):
        return self.n_calls != self.stop_at


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
    refuses("no time limit", evaluate_adaptation, model, point(horizon=None))
    assert len(found) == len(closed) == 8
    # those that were there stay open
    evaluate_adaptation(other, n_tasks=2)
    evaluate_adaptation(other, point_vec(2), n_tasks=2)
    assert meta_eval(navigation(), n_tasks=3).eval_env.num_envs == 6
    assert meta_eval(navigation(), n_tasks=3, n_episodes=None).eval_env.num_envs < 100
    assert len(closed) == 8


def workers_without_tasks():
    return DummyVecEnv([lambda: TimeLimit(PointEnv(), HORIZON)] * 2)


UNFIT = {
    "observation": (lambda: point(observation="discrete"), "must have the observation_space of the model, .*Box.*Discrete"),
    "action": (lambda: point(action="discrete"), "must have the action_space of the model, .*Box.*Discrete"),
    "endless": (lambda: point(horizon=None), "has no time limit"),
    "no tasks": (workers_without_tasks, "must be a TaskDistEnv, or a VecEnv"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_environments_that_do_not_go_with_the_model(kind):
    make, match = UNFIT[kind]
    model = small()
    refuses(f"`env` {match}", evaluate_adaptation, model, make(), n_tasks=2)
    refuses(f"`env` {match}", navigation_trajectories, model, make(), tasks=[[0.1, 0.1]])
    if kind in ("endless", "no tasks"):
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


def test_the_callback_with_processes():
    eval_env = point_vec(2, subprocess=True)
    try:
        callback, same = meta_eval(eval_env), meta_eval()
        small().learn(1, callback=[callback, same])
        np.testing.assert_array_equal(callback.last_report.returns, same.last_report.returns)
    finally:
        eval_env.close()


def test_the_callback_with_images():
    model = small(point(observation="image"), "CnnPolicy", policy_kwargs={"features_extractor_class": SmallCnn})
    one, other = (meta_eval(env) for env in (point(observation="image"), point_vec(3, observation="image")))
    model.learn(1, callback=[one, other])
    np.testing.assert_array_equal(one.last_report.returns, other.last_report.returns)


# ---------------------------------------------------------------------------------------------------------- bad arguments


def test_tasks_that_are_no_list():
    model = small()
    for tasks in (5, "goal", {"a": 1}, np.array(1.0)):
        refuses("`tasks` must be a list of tasks, got", evaluate_adaptation, model, tasks=tasks)
        refuses("`tasks` must be a list of tasks, got", navigation_trajectories, model, point(), tasks=tasks)
    for tasks in ([], (), np.zeros((0, 2))):
        refuses("`tasks` must hold at least one task", evaluate_adaptation, model, tasks=tasks)
        refuses("`tasks` must hold at least one task", navigation_trajectories, model, point(), tasks=tasks)


@pytest.mark.parametrize("seed", [None, -1, 1.5, "1", True])
def test_seeds(seed):
    model = small()
    refuses("`seed` must be a non-negative integer, got", evaluate_adaptation, model, seed=seed)
    refuses("`seed` must be a non-negative integer, got", navigation_trajectories, model, point(), [[0.1, 0.1]], seed=seed)
    refuses("`seed` must be a non-negative integer, got", meta_eval, seed=seed)


@pytest.mark.parametrize("name", ["n_tasks", "n_steps", "n_episodes", "eval_freq"])
def test_counts(name):
    for value in (0, -1, 1.5, True):
        refuses(f"`{name}` must be a positive integer", meta_eval, **{name: value})


@pytest.mark.parametrize("name", ["log_path", "best_model_save_path"])
def test_a_folder_that_is_a_file(name, tmp_path):
    (tmp_path / "file").touch()
    refuses(f"`{name}` must be a folder", meta_eval, **{name: str(tmp_path / "file")})


@pytest.mark.parametrize("nested", [False, True])
def test_an_event_would_never_make_it_evaluate(nested):
    model, callback = small(), meta_eval()
    refuses_to_learn(
        "would never evaluate.*`eval_freq`", model, EveryNTimesteps(20, CallbackList([callback]) if nested else callback)
    )


# ---------------------------------------------------------------------------------------------------- the callback at work


def test_when_it_evaluates_and_what_it_writes(tmp_path):
    model = small()
    callback = meta_eval(point(), n_tasks=3, n_steps=2, n_episodes=3, eval_freq=2, log_path=str(tmp_path), seed=4)
    first = evaluate_adaptation(model, n_tasks=3, n_steps=2, n_episodes=3, seed=4)
    model.learn(4 * SAMPLES, callback=callback)
    saved = rows(tmp_path)
    assert saved["timesteps"].tolist() == [0, 2 * SAMPLES, 4 * SAMPLES]
    last = evaluate_adaptation(model, n_tasks=3, n_steps=2, n_episodes=3, seed=4)
    np.testing.assert_array_equal(saved["results"][0], first.returns)
    np.testing.assert_array_equal(saved["results"][2], last.returns)
    np.testing.assert_array_equal(callback.last_report.returns, last.returns)
    np.testing.assert_array_equal(saved["tasks"], last.tasks)
    assert callback.best_mean_reward == saved["results"][:, :, 2].mean(1).max()


def test_the_last_evaluation_is_at_the_end():
    callback, counted = meta_eval(eval_freq=100), Count()
    callback.callback = counted
    model = small()
    model.learn(3 * SAMPLES, callback=callback)
    assert counted.n_calls == 2 and counted.num_timesteps == model.num_timesteps == 3 * SAMPLES
    np.testing.assert_array_equal(callback.last_report.returns, evaluate_adaptation(model, n_tasks=2).returns)


def test_inner_steps_and_episodes_are_those_of_training_if_not_said():
    model, callback = small(n_inner_steps=2), meta_eval(n_episodes=None)
    model.learn(1, callback=callback)
    np.testing.assert_array_equal(callback.last_report.returns, evaluate_adaptation(model, n_tasks=2, n_steps=2).returns)


def test_what_is_logged(tmp_path):
    model, callback = small(), meta_eval(n_steps=2)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(1, callback=callback)
    model.logger.close()
    with open(tmp_path / "progress.csv", newline="") as file:
        last = [line for line in csv.DictReader(file) if line["eval/mean_reward"]][-1]
    found = {key: float(value) for key, value in last.items() if key.startswith("eval/")}
    means = callback.last_report.mean_returns
    expected = {f"eval/mean_reward_after_{k}": means[k] for k in range(3)}
    assert found == pytest.approx({**expected, "eval/mean_reward": means[2], "eval/adaptation_gain": means[2] - means[0]})
    assert float(last["time/total_timesteps"]) == SAMPLES


def test_verbose_prints_the_report(capsys):
    callback = meta_eval(verbose=1)
    small().learn(1, callback=callback)
    assert f"Evaluation after {SAMPLES} samples\n{callback.last_report}" in capsys.readouterr().out
    small().learn(1, callback=meta_eval())
    assert capsys.readouterr().out == ""


@pytest.fixture
def scripted(monkeypatch):
    """Evaluations whose returns before and after adaptation are given."""

    def script(before, after):
        returns = iter(np.array([before, after], dtype=float).T)

        def evaluate(model, vec_env, tasks, **kwargs):
            return AdaptationReport(tasks, np.tile(next(returns), (len(tasks), 1)))

        monkeypatch.setattr(callbacks, "evaluate_adaptation", evaluate)

    return script


def test_the_best_model_has_the_best_return_after_adaptation(scripted, tmp_path):
    scripted([5, 0, 9, 1], [1, 3, 2, 3])
    states, best = [None], Count()

    class Keep(BaseCallback):
        def _on_training_start(self):
            assert self.locals["total_timesteps"] == 3 * SAMPLES
            states.clear()

        def _on_step(self):
            states.append(state(self.model))
            return True

    callback = meta_eval(callback_on_new_best=best, callback_after_eval=Keep(), best_model_save_path=str(tmp_path))
    small().learn(3 * SAMPLES, callback=callback)
    model = SGMRL.load(tmp_path / "best_model")
    assert len(states) == 4 and model.num_timesteps == SAMPLES
    assert_same(state(model), states[1])
    assert best.n_calls == 2 and callback.best_mean_reward == 3
    assert best.parent is callback and callback.callback.parent is callback


@pytest.mark.parametrize("stops", [(2, None), (None, 2), (2, 2)])
def test_a_stop_is_honoured_whoever_asks_for_it(stops, scripted):
    on_new_best, after_eval = (Count(stop_at) for stop_at in stops)
    callback = meta_eval(callback_on_new_best=on_new_best, callback_after_eval=after_eval)
    scripted(range(20), range(20))
    model = small().learn(5 * SAMPLES, callback=callback)
    assert SAMPLES < model.num_timesteps <= SAMPLES + 2
    # not for ever
    callback.callback_on_new_best = None
    callback.callback.stop_at = None
    assert model.learn(2 * SAMPLES, callback=callback, reset_num_timesteps=False).num_timesteps > 2 * SAMPLES


@pytest.mark.parametrize("argument", ["callback_on_new_best", "callback_after_eval"])
def test_the_reward_threshold_of_sb3(argument, scripted):
    for threshold, samples in ((-1.0, 0), (2.5, 3 * SAMPLES), (1000.0, 4 * SAMPLES)):
        scripted([9] * 9, [0, 1, 2, 3, 4, 5, 6, 7, 8])
        callback = meta_eval(**{argument: StopTrainingOnRewardThreshold(threshold)})
        model = small().learn(4 * SAMPLES, callback=callback)
        assert samples <= model.num_timesteps <= samples + 2


def test_no_improvement_of_sb3(scripted):
    scripted(range(9), [0, 5, 4, 4, 4, 4, 4, 4, 4])
    stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=1)
    model = small().learn(9 * SAMPLES, callback=meta_eval(callback_after_eval=stop))
    assert 3 * SAMPLES < model.num_timesteps <= 3 * SAMPLES + 2


def test_logging_every_n_timesteps(tmp_path):
    model = small()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(2 * SAMPLES, callback=[LogEveryNTimesteps(20), meta_eval(eval_freq=5)], log_interval=None)
    model.logger.close()
    with open(tmp_path / "progress.csv", newline="") as file:
        logged = [float(line["time/total_timesteps"]) for line in csv.DictReader(file) if not line["eval/mean_reward"]]
    assert logged == [20, 40, 60, 80]


# ---------------------------------------------------------------------------------------------------- continued evaluations


def learn_on(model, folder, n=1, **kwargs):
    callback = meta_eval(log_path=str(folder), **kwargs)
    model.learn(n, callback=callback, reset_num_timesteps=False)
    return callback


def test_training_that_goes_on_adds_to_the_file(tmp_path):
    one = small().learn(4 * SAMPLES, callback=meta_eval(log_path=str(tmp_path / "one")))
    two = small()
    for _ in range(2):
        learn_on(two, tmp_path / "two", 2 * SAMPLES)
    assert one.num_timesteps == two.num_timesteps
    whole, pieces = (rows(tmp_path / name) for name in ("one", "two"))
    assert pieces["timesteps"].tolist() == [SAMPLES * i for i in range(5)]
    for key in whole:
        np.testing.assert_array_equal(whole[key], pieces[key])


def test_the_best_of_earlier_evaluations_stays_the_best(scripted, tmp_path):
    scripted([0] * 5, [7, 8, 4, 9, 5])
    model, best = small(), Count()
    learn_on(model, tmp_path)
    callback = learn_on(model, tmp_path, callback_on_new_best=best)
    assert callback.best_mean_reward == 8 and best.n_calls == 0
    assert learn_on(model, tmp_path).best_mean_reward == 9


def test_the_same_callback_goes_on(tmp_path):
    model, callback = small(), meta_eval(log_path=str(tmp_path), eval_freq=2)
    for _ in range(3):
        model.learn(1, callback=callback, reset_num_timesteps=False)
    assert rows(tmp_path)["timesteps"].tolist() == [0, SAMPLES, 2 * SAMPLES, 3 * SAMPLES]


def test_a_new_training_starts_anew_and_keeps_the_file_of_the_one_before(tmp_path):
    # the second evaluation is the one at the end
    model, callback = small(), meta_eval(eval_freq=2, log_path=str(tmp_path), best_model_save_path=str(tmp_path))
    model.learn(1, callback=callback)
    first = rows(tmp_path)
    callback.best_mean_reward = 1000.0
    with pytest.warns(UserWarning, match=r"`log_path` holds evaluations.npz of another training, .*evaluations_1.npz\.$"):
        model.learn(1, callback=callback)
    second = rows(tmp_path)
    assert first["timesteps"].tolist() == second["timesteps"].tolist() == [0, SAMPLES]
    np.testing.assert_array_equal(second["results"][0], first["results"][1])
    assert (second["results"][1] != first["results"][1]).any()
    assert callback.best_mean_reward == second["results"][:, :, -1].mean(1).max()
    assert SGMRL.load(tmp_path / "best_model").num_timesteps in (0, SAMPLES)
    with pytest.warns(UserWarning, match="evaluations_2.npz"):
        small().learn(1, callback=meta_eval(log_path=str(tmp_path), n_tasks=1))
    for name, kept in (("evaluations_1.npz", first), ("evaluations_2.npz", second)):
        np.testing.assert_array_equal(rows(tmp_path, name)["results"], kept["results"])
    assert rows(tmp_path)["results"].shape == (2, 1, 2)


def test_a_model_that_is_older_than_the_last_evaluations(tmp_path):
    model = small()
    learn_on(model, tmp_path)
    model.save(tmp_path / "model")
    learn_on(model, tmp_path, 2 * SAMPLES)
    before = rows(tmp_path)
    loaded = SGMRL.load(tmp_path / "model", env=point_vec(2))
    with pytest.warns(UserWarning, match="evaluations_1.npz"):
        learn_on(loaded, tmp_path)
    np.testing.assert_array_equal(rows(tmp_path, "evaluations_1.npz")["results"], before["results"])
    after = rows(tmp_path)
    assert after["timesteps"].tolist() == [0, SAMPLES, 2 * SAMPLES]
    np.testing.assert_array_equal(after["results"], before["results"][:3])


@pytest.mark.parametrize("other", [{"n_tasks": 3}, {"n_steps": 2}, {"seed": 1}])
def test_evaluations_that_cannot_be_continued(other, tmp_path):
    model = small()
    learn_on(model, tmp_path)
    before = (tmp_path / "evaluations.npz").read_bytes()
    callback = meta_eval(log_path=str(tmp_path), **other)
    refuses_to_learn("`log_path` holds .*with other tasks or inner steps", model, callback, reset_num_timesteps=False)
    assert (tmp_path / "evaluations.npz").read_bytes() == before
    learn_on(model, tmp_path)
    assert len(rows(tmp_path)["timesteps"]) == 3


def broken_files(folder):
    """By SB3, of nothing, cut off, and of something else."""
    path = folder / "evaluations.npz"
    small().learn(1, callback=EvalCallback(Monitor(point()), log_path=str(folder), eval_freq=5, n_eval_episodes=2, verbose=0))
    yield
    whole = path.read_bytes()
    for content in (b"", b"PK123", whole[: len(whole) // 2], b"timesteps"):
        path.write_bytes(content)
        yield
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("timesteps.npy", b"no array")
    yield
    np.savez(path, timesteps=3, results=4, tasks=5)
    yield


@pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type")
def test_files_of_others_and_broken_ones(tmp_path):
    model = small().learn(1)
    for _ in broken_files(tmp_path):
        before = (tmp_path / "evaluations.npz").read_bytes()
        callback = meta_eval(log_path=str(tmp_path))
        refuses_to_learn("`log_path` holds .*broken or was not written", model, callback, reset_num_timesteps=False)
        assert (tmp_path / "evaluations.npz").read_bytes() == before
    with pytest.warns(UserWarning, match="another training"):
        model.learn(1, callback=meta_eval(log_path=str(tmp_path)))
    assert (tmp_path / "evaluations_1.npz").read_bytes() == before


UNIT = spaces.Box(0.0, 1.0, (2,), np.float64)
COMPOSITE = {
    "tuple": spaces.Tuple((spaces.Discrete(3), UNIT)),
    "dict": spaces.Dict(kind=spaces.Discrete(3), goal=UNIT),
    "text": spaces.Text(4),
    "discrete": spaces.Discrete(3),
    "box": UNIT,
}


@pytest.mark.parametrize("kind", COMPOSITE)
def test_tasks_of_any_kind_are_written_and_continued(kind, tmp_path):
    def env():
        return TaskDistEnv(TimeLimit(PointEnv(), HORIZON), task_space=COMPOSITE[kind], set_task=lambda env, task: None)

    model = small(make_vec_env(env, 2))
    for _ in range(2):
        model.learn(1, callback=meta_eval(env(), n_tasks=3, log_path=str(tmp_path)), reset_num_timesteps=False)
    report = evaluate_adaptation(model, n_tasks=3)
    saved = rows(tmp_path)
    assert saved["timesteps"].tolist() == [0, SAMPLES, 2 * SAMPLES]
    numbers = kind in ("discrete", "box")
    assert (saved["tasks"].dtype == object) == (not numbers)
    assert saved["tasks"].shape == ((3, 2) if kind == "box" else (3,))
    for task, expected in zip(saved["tasks"], report.tasks, strict=True):
        np.testing.assert_equal(task, expected)
    report.to_csv(tmp_path / "report.csv")
    assert (tmp_path / "report.csv").read_text().count("\n") == 4
    if not numbers:  # readable as far as it holds numbers
        with np.load(tmp_path / "evaluations.npz") as file:
            assert file["results"].shape == (3, 3, 2)

"""Evaluation while training: when, what is logged, which model is the best, and who stops."""

import csv

import numpy as np
import pytest
from evaluation_tools import SAMPLES, Count, meta_eval, refuses, refuses_to_learn, rows, small
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EveryNTimesteps,
    LogEveryNTimesteps,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.logger import configure
from toys import SmallCnn, assert_same, point, point_vec, state

from sb3_sgmrl import SGMRL, evaluate_adaptation
from sb3_sgmrl.plots import navigation_trajectories


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
    assert model.num_timesteps == SAMPLES  # the iteration that was stopped does not count
    # not for ever
    callback.callback_on_new_best = None
    callback.callback.stop_at = None
    assert model.learn(2 * SAMPLES, callback=callback, reset_num_timesteps=False).num_timesteps == 3 * SAMPLES


@pytest.mark.parametrize("argument", ["callback_on_new_best", "callback_after_eval"])
def test_the_reward_threshold_of_sb3(argument, scripted):
    for threshold, samples in ((-1.0, 0), (2.5, 3 * SAMPLES), (1000.0, 4 * SAMPLES)):
        scripted([9] * 9, [0, 1, 2, 3, 4, 5, 6, 7, 8])
        callback = meta_eval(**{argument: StopTrainingOnRewardThreshold(threshold)})
        model = small().learn(4 * SAMPLES, callback=callback)
        assert model.num_timesteps == samples


def test_no_improvement_of_sb3(scripted):
    scripted(range(9), [0, 5, 4, 4, 4, 4, 4, 4, 4])
    stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=1)
    model = small().learn(9 * SAMPLES, callback=meta_eval(callback_after_eval=stop))
    assert model.num_timesteps == 3 * SAMPLES


def test_logging_every_n_timesteps(tmp_path):
    model = small()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(2 * SAMPLES, callback=[LogEveryNTimesteps(20), meta_eval(eval_freq=5)], log_interval=None)
    model.logger.close()
    with open(tmp_path / "progress.csv", newline="") as file:
        logged = [float(line["time/total_timesteps"]) for line in csv.DictReader(file) if not line["eval/mean_reward"]]
    assert logged == [20, 40, 60, 80]

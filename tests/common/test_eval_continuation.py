"""Evaluations of a training that goes on: the file grows, or one sentence says why it cannot."""

import json
import zipfile

import numpy as np
import pytest
from evaluation_tools import SAMPLES, Count, meta_eval, refuses_to_learn, rows, small
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.callbacks import (
    EvalCallback,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from toys import HORIZON, PointEnv, point, point_vec

from sb3_sgmrl import SGMRL, MetaEvalCallback, TaskDistEnv, evaluate_adaptation

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


def test_a_kill_between_the_files_of_an_evaluation_leaves_the_best_model(scripted, tmp_path, monkeypatch):
    scripted([0] * 5, [1, 7, 7, 2, 3])
    model, write = small(), MetaEvalCallback._write

    def killed(callback, path):
        if len(callback._timesteps) == 2:
            raise KeyboardInterrupt
        write(callback, path)

    with monkeypatch.context() as patched:
        patched.setattr(MetaEvalCallback, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            model.learn(3 * SAMPLES, meta_eval(log_path=str(tmp_path), best_model_save_path=str(tmp_path)))
    assert rows(tmp_path)["timesteps"].tolist() == [0]
    assert SGMRL.load(tmp_path / "best_model").num_timesteps == SAMPLES  # the return of 7
    resumed = SGMRL.load(tmp_path / "best_model", env=point_vec(2))
    callback = learn_on(resumed, tmp_path, best_model_save_path=str(tmp_path))
    assert rows(tmp_path)["timesteps"].tolist() == [0, SAMPLES, 2 * SAMPLES] and callback.best_mean_reward == 7
    assert SGMRL.load(tmp_path / "best_model").num_timesteps == SAMPLES


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


@pytest.mark.filterwarnings("ignore:.set_task. may have no effect")
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
    assert (saved["tasks"].dtype.kind == "U") == (not numbers)
    assert saved["tasks"].shape == ((3, 2) if kind == "box" else (3,))
    for task, expected in zip(saved["tasks"], report.tasks, strict=True):
        if numbers:
            np.testing.assert_equal(task, expected)
        else:
            plain = json.dumps(expected, default=lambda part: part.tolist())
            assert task == plain and json.loads(task)
    report.to_csv(tmp_path / "report.csv")
    assert (tmp_path / "report.csv").read_text().count("\n") == 4
    if not numbers:  # readable as far as it holds numbers
        with np.load(tmp_path / "evaluations.npz") as file:
            assert file["results"].shape == (3, 3, 2)

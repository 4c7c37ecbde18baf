"""Files: complete or as they were before, and a loaded model goes on as if it had never stopped."""

import io
import json
import os
import resource
import zipfile

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize
from toys import ALGORITHMS, SAMPLES, LinearExtractor, assert_same, differ, point, point_vec, rotated, snapshot, state, tiny

from sb3_sgmrl import MAML, SGMRL, register
from sb3_sgmrl.common.files import model_file
from sb3_sgmrl.gradient.score_weight import SignalWeights


def optimizer_state(model):
    flat = {}
    for part in (model.policy, model.step_sizes):
        states = {} if part is None else part.optimizer.state_dict()["state"]
        for index, values in states.items():
            flat.update({f"{type(part).__name__}.{index}.{name}": np.asarray(value) for name, value in values.items()})
    return flat


@register
def decay(remaining):
    return 0.01 * remaining + 1e-4


SETTINGS = {
    "default": {},
    "no seed": {"seed": None},
    "schedule": {"learning_rate": decay},
    "critic": {"baseline": "critic"},
    "regression": {"control_variate": "task_regression"},
    "scaled": {"control_variate": "counterfactual", "control_variate_scaling": True},
    "extractor": {"policy_kwargs": {"features_extractor_class": LinearExtractor, "optimizer_class": th.optim.RMSprop}},
    "step sizes": {"inner_lr_learning_rate": 0.3, "n_inner_steps": 2},
    "inner steps": {"n_inner_steps": 2, "outer_advantage": {"normalize": False}},
}


@pytest.mark.parametrize(("algorithm", "settings"), rotated(ALGORITHMS, SETTINGS))
def test_a_loaded_model_goes_on_as_if_it_had_never_stopped(algorithm, settings, tmp_path):
    if settings in ("regression", "scaled") and algorithm is not SGMRL:
        pytest.skip("only SGMRL has control variates")
    model = tiny(algorithm, point_vec(3, end=0.2), **SETTINGS[settings])
    model.learn(SAMPLES)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=point_vec(4, end=0.2))
    assert_same(state(model), state(loaded))
    for _ in range(2):
        model.learn(SAMPLES, reset_num_timesteps=False)
        loaded.learn(SAMPLES, reset_num_timesteps=False)
        assert_same(state(model), state(loaded))
        assert_same(optimizer_state(model), optimizer_state(loaded))
        for name in ("num_timesteps", "_n_updates", "_iteration", "_entropy", "_current_progress_remaining"):
            assert getattr(model, name) == getattr(loaded, name), name
        assert model.inner_lr_by_parameter() == loaded.inner_lr_by_parameter()
        # once more, in the middle
        loaded.save(tmp_path / "again.zip")
        loaded = algorithm.load(str(tmp_path / "again.zip"), env=point_vec(2, end=0.2))
    assert_same(*({"policy": m.adapt(task=[0.5, 0.5]).action_net.weight.detach().numpy()} for m in (model, loaded)))


def test_running_statistics_go_on_too(tmp_path):
    env = VecNormalize(point_vec(3))
    model = tiny(SGMRL, env).learn(1)
    model.save(tmp_path / "model")
    env.save(tmp_path / "statistics")
    loaded = SGMRL.load(tmp_path / "model", env=VecNormalize.load(tmp_path / "statistics", point_vec(3)))
    for other in (model, loaded):
        other.learn(1, reset_num_timesteps=False)
    assert_same(state(model), state(loaded))
    assert_same(vars(model.env.obs_rms), vars(loaded.env.obs_rms))
    assert_same(vars(model.env.ret_rms), vars(loaded.env.ret_rms))


def test_statistics_of_episodes_go_on_too(tmp_path):
    model = tiny(SGMRL, point_vec(3)).learn(1)
    model.save(tmp_path / "model")
    loaded = SGMRL.load(tmp_path / "model", env=point_vec(3))
    for other in (model, loaded):
        other.learn(1, reset_num_timesteps=False)
    assert len(model.ep_info_buffer) == 48
    assert [info["r"] for info in model.ep_info_buffer] == [info["r"] for info in loaded.ep_info_buffer]


def test_saved_in_the_middle_of_an_iteration(tmp_path):
    """The iteration is played again from its beginning, by the same parameters, and counted once."""

    class Save(BaseCallback):
        def _on_step(self):
            if self.n_calls == 17:
                self.model.save(tmp_path / "model")
            return True

    model = tiny(SGMRL, point_vec(3)).learn(1, callback=Save())
    loaded = SGMRL.load(tmp_path / "model", env=point_vec(3))
    assert loaded.num_timesteps == 0
    loaded.learn(1, reset_num_timesteps=False)
    assert loaded.num_timesteps == SAMPLES
    assert_same(state(model), state(loaded))


def test_tensorboard_goes_on_at_the_step(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model = tiny(SGMRL, point_vec(3), tensorboard_log=str(tmp_path / "logs")).learn(2 * SAMPLES)
    model.save(tmp_path / "model")
    model.logger.close()
    loaded = SGMRL.load(tmp_path / "model", env=point_vec(2))
    loaded.learn(1, reset_num_timesteps=False)
    loaded.logger.close()
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["SGMRL_1"]
    accumulator = events.EventAccumulator(str(tmp_path / "logs" / "SGMRL_1")).Reload()
    for key in ("rollout/ep_rew_mean_post", "train/grad_norm"):
        assert [event.step for event in accumulator.Scalars(key)] == [SAMPLES, 2 * SAMPLES, 3 * SAMPLES]


def test_paths_and_files(tmp_path):
    model = tiny(MAML, point_vec(2))
    for path in ("bare", "with.zip", tmp_path / "new" / "folder" / "model", "v1.5"):
        path = path if isinstance(path, os.PathLike) else str(tmp_path / path)
        model.save(path)
        assert_same(state(MAML.load(path)), state(model))
    assert {path.name for path in tmp_path.iterdir()} == {"bare.zip", "with.zip", "new", "v1.5"}
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    assert_same(state(MAML.load(file)), state(model))
    with open(tmp_path / "open", "wb") as file:
        model.save(file)
    with open(tmp_path / "open", "rb") as file:
        assert_same(state(MAML.load(file)), state(model))


def test_what_is_in_the_file(tmp_path):
    model = tiny(SGMRL, point_vec(2), control_variate="counterfactual").learn(1)
    model.save(tmp_path / "model", exclude=["ep_info_buffer"])
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        data = json.loads(archive.read("data.json"))
    assert {"env", "functional", "logger", "policy", "ep_info_buffer"}.isdisjoint(data)
    assert {"inner_lr", "score_coef", "_iteration", "_entropy", "num_timesteps"} <= data.keys()
    assert (tmp_path / "model.zip").stat().st_size < 100_000


def test_arguments_survive(tmp_path):
    given = {
        "meta_batch_size": 2,
        "n_episodes": 3,
        "n_outer_episodes": 2,
        "n_inner_steps": 2,
        "inner_lr": 0.2,
        "gamma": 0.8,
        "gae_lambda": 0.7,
        "baseline": "none",
        "normalize_advantage": False,
        "discount_from": "episode",
        "time_reduction": "sum",
        "outer_advantage": {"gamma": 0.7},
        "score_coef": 0.5,
        "control_variate": "leave_one_task_out",
        "control_variate_scaling": True,
        "max_grad_norm": None,
        "vf_epochs": 3,
        "n_threads": 2,
    }
    model = tiny(SGMRL, point_vec(2), **given)
    model.save(tmp_path / "model")
    loaded = SGMRL.load(tmp_path / "model")
    assert {name: getattr(loaded, name) for name in given} == given
    assert loaded.objective == model.objective


def test_without_an_environment_it_predicts(tmp_path):
    model = tiny(SGMRL, point_vec(2)).learn(1)
    model.save(tmp_path / "model")
    loaded = SGMRL.load(tmp_path / "model")
    observation = np.ones(3, np.float32)
    np.testing.assert_array_equal(*(m.predict(observation, deterministic=True)[0] for m in (model, loaded)))
    for method in (lambda: loaded.learn(1), loaded.adapt):
        with pytest.raises(ValueError, match="`env` is missing"):
            method()
    assert_same(*({"": m.adapt(point(), task=[0.1, 0.1]).log_std.detach().numpy()} for m in (model, loaded)))
    loaded.set_env(point_vec(3))
    assert_same(*(state(m.learn(1, reset_num_timesteps=False)) for m in (model, loaded)))


def test_custom_objects_and_other_changes(tmp_path):
    model = tiny(SGMRL, point_vec(2), learning_rate=lambda _: 0.1).learn(1)
    model.save(tmp_path / "model")
    changed = {"learning_rate": 0.5, "lr_schedule": lambda _: 0.5}
    loaded = SGMRL.load(tmp_path / "model", env=point(), custom_objects=changed, inner_lr=0.7, device="cpu")
    assert (loaded.learning_rate, loaded.inner_lr, loaded.objective.inner_lr) == (0.5, 0.7, 0.7)
    loaded.learn(1)
    assert loaded.policy.optimizer.param_groups[0]["lr"] == 0.5


def test_spaces_must_agree(tmp_path):
    tiny(SGMRL, point_vec(2)).save(tmp_path / "model")
    with pytest.raises(ValueError, match="Action spaces do not match"):
        SGMRL.load(tmp_path / "model", env=point(action="discrete"))


# -------------------------------------------------------------------------------------------------------- wrong files


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.zip"
    tiny(SGMRL, point_vec(2)).save(path)
    return path.read_bytes()


def load(tmp_path, content, algorithm=SGMRL):
    (tmp_path / "file.zip").write_bytes(content)
    return algorithm.load(tmp_path / "file.zip")


def test_a_file_that_is_cut_off(saved, tmp_path):
    for fraction in (0, 0.01, 0.3, 0.5, 0.9, 0.999):
        with pytest.raises(ValueError, match=r"^`path` .*file.zip is cut off or is not a saved model: .*\.$") as caught:
            load(tmp_path, saved[: int(fraction * len(saved))])
        assert "\n" not in str(caught.value)
    load(tmp_path, saved)


def test_a_file_that_is_damaged(saved, tmp_path):
    """Wherever it is: nothing but one sentence that names the file."""
    rng = np.random.default_rng(0)
    unharmed = 0
    for position in rng.integers(0, len(saved), 60):
        damaged = bytearray(saved)
        damaged[position] ^= 0xFF
        try:
            loaded = load(tmp_path, bytes(damaged))
        except ValueError as error:
            assert str(error).startswith("`path` ") and "\n" not in str(error), error
        else:  # a byte of padding, or of a time stamp
            unharmed += 1
            assert_same(state(loaded), state(tiny(SGMRL, point_vec(2))))
    assert unharmed < 30


def test_files_that_are_not_ours(tmp_path):
    PPO("MlpPolicy", point_vec(1), n_steps=2, batch_size=2, device="cpu").save(tmp_path / "file.zip")
    with pytest.raises(ValueError, match=r"`path` .*file.zip .*was not saved by sb3_sgmrl"):
        SGMRL.load(tmp_path / "file.zip")
    for content in (b"", b"hello", b"PK\x03\x04"):
        with pytest.raises(ValueError, match=r"`path` .* is not a saved model"):
            load(tmp_path, content)
    for name, content in (
        ("other", b"{}"),
        ("data", b"not json"),
        ("data", b"\xff\xfe\x00"),
        ("data", b"[1]"),
        ("data", b"3"),
    ):
        with zipfile.ZipFile(tmp_path / "file.zip", "w") as archive:
            archive.writestr(name, content)
        with pytest.raises(ValueError, match=r"^`path` .*file.zip") as caught:
            SGMRL.load(tmp_path / "file.zip")
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="`path`"):
        SGMRL.load(io.BytesIO(b"hello"))


def test_a_file_of_another_algorithm(saved, tmp_path):
    with pytest.raises(ValueError, match=r"`path` holds a model of SGMRL, not of MAML: use SGMRL.load"):
        load(tmp_path, saved, MAML)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`path` .*missing.zip"):
        SGMRL.load(tmp_path / "missing")


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("existing", [True, False])
def test_an_error_while_saving_leaves_the_previous_file(error, existing, tmp_path, monkeypatch):
    model = tiny(SGMRL, point_vec(2))
    if existing:
        model.save(tmp_path / "model")
    before = snapshot(tmp_path)
    model.learn(1)

    def fail(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(model_file, "to_tensors", fail)
        with pytest.raises(type(error)):
            model.save(tmp_path / "model")
    assert snapshot(tmp_path) == before
    model.save(tmp_path / "model")
    assert_same(state(SGMRL.load(tmp_path / "model")), state(model))
    assert snapshot(tmp_path).keys() == {"model.zip"}


@pytest.mark.parametrize("limit", [0, 1000, 5000])
def test_a_full_disk_leaves_the_previous_file(limit, tmp_path):
    """No file may grow beyond a limit: writing fails as on a disk that is full."""
    model = tiny(SGMRL, point_vec(2))
    model.save(tmp_path / "model")
    before = snapshot(tmp_path)
    assert len(before["model.zip"]) > 5000
    model.learn(1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises((OSError, RuntimeError)):
            model.save(tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert snapshot(tmp_path) == before


def test_a_seed_begins_new_streams(tmp_path):
    model = tiny(SGMRL, point_vec(2))
    start = state(model)
    model.save(tmp_path / "model")

    def learned(**kwargs):
        return state(SGMRL.load(tmp_path / "model", env=point_vec(2), **kwargs).learn(1))

    assert_same(learned(), state(model.learn(1)))
    assert differ(learned(), learned(seed=9))
    assert_same(learned(seed=9), learned(seed=np.int64(9)))
    model.set_parameters({"policy": {name: th.as_tensor(value) for name, value in start.items()}}, exact_match=False)
    model.set_random_seed(9)
    model.policy.optimizer.state.clear()
    model._signal_weights = SignalWeights()
    assert_same(learned(seed=9), state(model.learn(1)))


def test_links_and_permissions_stay(tmp_path):
    model = tiny(SGMRL, point_vec(2))
    model.save(tmp_path / "target")
    (tmp_path / "target.zip").chmod(0o600)
    (tmp_path / "link.zip").symlink_to(tmp_path / "target.zip")
    model.learn(1).save(tmp_path / "link")
    assert (tmp_path / "link.zip").is_symlink() and (tmp_path / "target.zip").stat().st_mode & 0o777 == 0o600
    assert_same(state(SGMRL.load(tmp_path / "target")), state(model))


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no model at `path`"):
        SGMRL.load(tmp_path)

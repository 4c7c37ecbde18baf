"""Files that a disk or somebody altered: one sentence, or exactly what was saved."""

import ast
import os
import resource
import threading
import time
import zipfile

import numpy as np
import pytest
from alteration_tools import altered_and_rehashed, altered_members, flipped, loaded, members_of, saved
from stable_baselines3.common.vec_env import VecNormalize
from toys import point_vec, snapshot, tiny

from sb3_sgmrl import SGMRL


@pytest.fixture(scope="module")
def content():
    arguments = {"control_variate": "counterfactual", "control_variate_scaling": True, "inner_lr_learning_rate": 0.3}
    return saved(tiny(SGMRL, VecNormalize(point_vec(2)), **arguments).learn(1))


def load(content):
    """The model, or the sentence that says why there is none."""
    try:
        return loaded(content)
    except ValueError as error:
        assert str(error).startswith("`path` ") and "\n" not in str(error), error
        return str(error)


def many(few, most):
    return pytest.mark.parametrize("n", [few, pytest.param(most, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])


@many(60, 8000)
def test_bits_that_flip(n, content):
    """What is loaded nevertheless has other time stamps or permissions, and equal values."""
    rng, expected, n_loaded = np.random.default_rng(0), saved(load(content)), 0
    for _ in range(n):
        model = load(flipped(content, rng))
        if not isinstance(model, str):
            n_loaded += 1
            assert saved(model) == expected
    assert n_loaded < 0.15 * n


@many(30, 1000)
def test_members_that_are_not_what_the_manifest_says(n, content):
    rng, members, n_loaded = np.random.default_rng(1), members_of(content), 0
    for _ in range(n):
        altered = altered_members(content, rng)
        if not isinstance(load(altered), str):
            n_loaded += 1
            assert members_of(altered) != members  # the manifest is spaced in another way
    assert n_loaded <= 0.02 * n


@many(30, 1000)
def test_contents_that_somebody_altered_with_their_hashes(n, content):
    """What is still a model plays and trains as one; nothing is a foreign error, now or later."""
    rng, n_loaded = np.random.default_rng(2), 0
    for _ in range(n):
        model = load(altered_and_rehashed(content, rng))
        if not isinstance(model, str):
            n_loaded += 1
            saved(model)
            try:
                model.set_env(point_vec(2))
                model.learn(1, reset_num_timesteps=False)
            except ValueError as error:
                assert "\n" not in str(error), error
    assert n_loaded < 0.2 * n


@pytest.mark.parametrize("shared", [True, False])
def test_threads_that_save_to_one_path(shared, tmp_path):
    """The file is always one of those that were saved."""
    models = [tiny(SGMRL, point_vec(1), seed=seed).learn(0) for seed in range(4)]
    models = models[:1] * 4 if shared else models
    expected = {saved(model) for model in models}
    path = tmp_path / "model.zip"

    def save(model):
        for _ in range(5):
            model.save(path)

    threads = [threading.Thread(target=save, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert not path.exists() or path.read_bytes() in expected
    assert path.read_bytes() in expected and snapshot(tmp_path).keys() == {"model.zip"}


def measured_load(path):
    """Seconds and MiB that loading takes in a process of its own, and what it says."""
    receive, send = os.pipe()
    process = os.fork()
    if process == 0:
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        try:
            SGMRL.load(path)
        except BaseException as error:
            more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            said = (time.process_time() - start, more / 1024, f"{type(error).__name__}: {error}")
            os.write(send, repr(said).encode())
        finally:
            os._exit(0)
    os.close(send)
    os.waitpid(process, 0)
    with open(receive, "rb") as file:
        return ast.literal_eval(file.read().decode())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("member", ["data.json", "policy.safetensors", "manifest.json", "data"])
def test_a_small_file_that_would_be_large(member, tmp_path, content):
    path = tmp_path / "bomb.zip"
    members = members_of(content)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in {*members, member, "policy.pth", "policy.optimizer.pth"} if member == "data" else members:
            with archive.open(name, "w") as file:
                if name == member:
                    for _ in range(400):
                        file.write(bytes(2**20))
                else:
                    file.write(members.get(name, b""))
    assert path.stat().st_size < 2**20
    took, memory, error = measured_load(path)
    assert took < 1 and memory < 100
    assert error.startswith("ValueError: `path` ") and "\n" not in error

"""A model of before 0.1 becomes a file of data, and goes on to the bit."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from paths import FILES, needs_numpy_2
from stable_baselines3.common.vec_env import VecNormalize
from toys import assert_same, error_of, point_vec, state

from sb3_sgmrl import SGMRL
from sb3_sgmrl.cli import convert

OLD = str(FILES / "format_0.zip")


@needs_numpy_2
def test_converted_model_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = str(tmp_path / "new.zip")
    assert convert.main([OLD, new]) == 0
    assert "Unpickling" in (out := capsys.readouterr().out) and "runs whatever code" in out and "for SGMRL.load" in out
    with pytest.warns(UserWarning, match="unpickling"):
        trusted = SGMRL.load(OLD, env="Navigation2D-v0", trusted=True)
    converted = SGMRL.load(new, env="Navigation2D-v0")
    for model in (trusted, converted):
        model.learn(1, reset_num_timesteps=False)
    assert_same(state(trusted), state(converted))
    assert trusted.inner_lr_by_parameter() == converted.inner_lr_by_parameter()
    assert trusted._score_memory.scaling.factors() == converted._score_memory.scaling.factors()


@needs_numpy_2
def test_the_new_file_has_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.zip").write_bytes(Path(OLD).read_bytes())
    assert convert.main([str(tmp_path / "old.zip")]) == 0
    assert SGMRL.load(tmp_path / "old_converted.zip").n_episodes == 2
    assert "must be a new file" in error_of(convert, [str(tmp_path / "old.zip")], capsys)


@needs_numpy_2
def test_what_cannot_be_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new, statistics = str(tmp_path / "new.zip"), tmp_path / "vecnormalize.pkl"
    assert "nothing to convert" in error_of(convert, [str(FILES / "format_1.zip"), new], capsys)
    assert "There is no model" in error_of(convert, [str(tmp_path / "none.zip"), new], capsys)
    assert "must end in .zip" in error_of(convert, [OLD, "new.pth"], capsys)
    statistics.write_bytes(b"x")
    assert "cannot be unpickled" in error_of(convert, [OLD, new, "--statistics", str(statistics)], capsys)
    statistics.write_bytes(pickle.dumps(3))
    assert "holds no VecNormalize, but int" in error_of(convert, [OLD, new, "--statistics", str(statistics)], capsys)
    VecNormalize(point_vec(1)).save(str(statistics))
    assert "is not of this model" in error_of(convert, [OLD, new, "--statistics", str(statistics)], capsys)
    assert not Path(new).exists()


@needs_numpy_2
def test_statistics_go_along(tmp_path: Path) -> None:
    env = VecNormalize(SGMRL.load(FILES / "format_1.zip", env="Navigation2D-v0").env.venv)
    env.obs_rms.update(np.ones((5, 2)))
    env.save(str(tmp_path / "vecnormalize.pkl"))
    new = str(tmp_path / "new.zip")
    assert convert.main([OLD, new, "--statistics", str(tmp_path / "vecnormalize.pkl")]) == 0
    loaded = SGMRL.load(new).get_vec_normalize_env()
    assert loaded is not None
    np.testing.assert_array_equal(loaded.obs_rms.mean, env.obs_rms.mean)

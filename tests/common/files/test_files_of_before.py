"""Files of every format version, and those of before 0.1, which are pickles and are run only for those who trust them."""

import base64
import json
import pathlib
import pickle

import numpy as np
import pytest
from alteration_tools import members_of, zipped
from paths import FILES, needs_numpy_2
from toys import point_vec, tiny

from sb3_sgmrl import SGMRL
from sb3_sgmrl.common.saving import read_file, saved_algorithm

OLD = FILES / "format_0.zip"
FORMATS = sorted(FILES.glob("format_[1-9]*.zip"))


def a_function(remaining):
    return remaining


class Planted:
    """Runs code when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return pathlib.Path.touch, (self.marker,)


def planted_model(path, marker):
    """A file of before 0.1 whose settings run code."""
    members = members_of(OLD.read_bytes())
    data = json.loads(members["data"])
    data["_last_obs"] = {":type:": "x", ":serialized:": base64.b64encode(pickle.dumps(Planted(marker))).decode()}
    path.write_bytes(zipped({**members, "data": json.dumps(data).encode()}))


@needs_numpy_2
def test_a_file_of_before_is_a_pickle_and_is_not_run(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "planted.zip"
    planted_model(path, marker)
    words = r"^`path` .*planted.zip is from before 0.1, a pickle that can run code .*sb3_sgmrl.convert .*trusted=True.*train"
    with pytest.raises(ValueError, match=words) as caught:
        SGMRL.load(path)
    assert "\n" not in str(caught.value)
    assert saved_algorithm(path) == "SGMRL"
    tiny(SGMRL, point_vec(2))
    assert not marker.exists()
    with pytest.warns(UserWarning, match=r"^`trusted=True`: unpickling `path` .*planted.zip.*runs whatever code"):
        SGMRL.load(path, trusted=True)
    assert marker.exists()


@needs_numpy_2
def test_a_file_of_before_goes_on_when_it_is_trusted():
    with pytest.warns(UserWarning, match="unpickling"):
        model = SGMRL.load(OLD, env="Navigation2D-v0", trusted=True)
    expected = np.array(
        [
            [-0.5907829403877258, 0.18832866847515106, -0.7736696004867554, -0.6910992860794067],
            [-0.5147090554237366, 0.45058518648147583, 0.4002683460712433, -0.5942569375038147],
        ]
    )
    model.learn(1, reset_num_timesteps=False)
    np.testing.assert_allclose(model.policy.action_net.weight.detach().numpy(), expected, rtol=1e-4)


def test_an_argument_that_was_left_out_has_its_default_and_not_that_of_older_versions(tmp_path):
    model = tiny(SGMRL, point_vec(2), score_coef_prior=7)
    model.save(tmp_path / "all")
    assert SGMRL.load(tmp_path / "all").score_coef_prior == 7
    model.save(tmp_path / "less", exclude=["score_coef_prior", "n_epochs"])
    loaded = SGMRL.load(tmp_path / "less")
    assert (loaded.score_coef_prior, loaded.n_epochs) == (50, 5)


@pytest.mark.parametrize("path", FORMATS, ids=lambda path: path.stem)
def test_files_of_every_format_version_are_read(path):
    model = SGMRL.load(path, env="Navigation2D-v0")
    assert model.get_vec_normalize_env() is not None and model.inner_lr_by_parameter()
    assert read_file(path).versions["sb3_sgmrl"] and model._signal_weights._weights
    # without the argument, versions had no prior
    assert "score_coef_prior" in read_file(path).settings or model.score_coef_prior == 0
    model.learn(1, reset_num_timesteps=False)


@needs_numpy_2
def test_parts_of_a_file_of_before_that_are_gone(tmp_path):
    members = members_of(OLD.read_bytes())
    data = json.loads(members["data"])
    gone = pickle.dumps(a_function).replace(b"test_files_of_before", b"test_files_of_bexxxx")
    data["learning_rate"] = {":type:": "x", ":serialized:": base64.b64encode(gone).decode()}
    (tmp_path / "old.zip").write_bytes(zipped({**members, "data": json.dumps(data).encode()}))
    with (
        pytest.warns(UserWarning, match="unpickling"),
        pytest.raises(ValueError, match=r"`path` .* holds a `learning_rate` that cannot be unpickled .*custom_objects"),
    ):
        SGMRL.load(tmp_path / "old.zip", trusted=True)
    with pytest.warns(UserWarning, match="unpickling"):
        assert SGMRL.load(tmp_path / "old.zip", trusted=True, custom_objects={"learning_rate": 0.1}).learning_rate == 0.1

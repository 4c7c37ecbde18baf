"""A file is replaced when its successor is complete."""

import errno
import os

import pytest
from toys import snapshot

from sb3_sgmrl.util.files import replace_when_complete


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_the_last_steps_may_fail_too(name, tmp_path, monkeypatch):
    """A disk may notice only at the end that it is full."""
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(OSError, match="No space"), replace_when_complete(path) as file:
            file.write(b"after")
    assert snapshot(tmp_path) == {"file": b"before"}
    with replace_when_complete(path) as file:
        file.write(b"after")
        assert path.read_bytes() == b"before"
    assert snapshot(tmp_path) == {"file": b"after"}

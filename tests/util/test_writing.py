"""Several writers of one file, and writers that are killed: always a whole file, and nothing is left behind."""

import os
import signal
import threading
import time

import pytest
from toys import snapshot

from sb3_sgmrl.util import files
from sb3_sgmrl.util.files import replace_when_complete

SIZE = 200_000


def contents(i):
    return bytes([65 + i]) * SIZE


def write_often(path, i, n):
    for _ in range(n):
        with replace_when_complete(path) as file:
            for at in range(0, SIZE, 20_000):
                file.write(contents(i)[at : at + 20_000])


def is_whole(path):
    content = path.read_bytes()
    return len(content) == SIZE and len(set(content)) == 1


def test_threads_that_write_to_one_path(tmp_path):
    path, threads = tmp_path / "file", [
        threading.Thread(target=write_often, args=(tmp_path / "file", i, 20)) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert not path.exists() or is_whole(path)
    for thread in threads:
        thread.join()
    assert is_whole(path) and snapshot(tmp_path).keys() == {"file"}


def forked(path, i, n):
    """A process that writes."""
    process = os.fork()
    if process == 0:
        try:
            write_often(path, i, n)
        finally:
            os._exit(0)
    return process


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@needs_fork
def test_processes_that_write_to_one_path(tmp_path):
    path = tmp_path / "file"
    for process in [forked(path, i, 20) for i in range(4)]:
        while os.waitpid(process, os.WNOHANG) == (0, 0):
            assert not path.exists() or is_whole(path)
    assert is_whole(path) and snapshot(tmp_path).keys() == {"file"}


def killed_while_writing(path, n_kills):
    write_often(path, 0, 1)
    left = 0
    for kill in range(n_kills):
        process = forked(path, kill % 20, 10**6)
        time.sleep(0.002 + 0.0007 * (kill % 13))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        assert is_whole(path)
        left += len(list(path.parent.iterdir())) > 1
    return left


@needs_fork
@pytest.mark.parametrize("n_kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_what_killed_writers_leave_is_removed_by_the_next(n_kills, tmp_path):
    assert killed_while_writing(tmp_path / "file", n_kills) > 0
    write_often(tmp_path / "file", 1, 1)
    assert snapshot(tmp_path) == {"file": contents(1)}


def test_what_living_writers_have_begun_is_not_removed(tmp_path):
    path = tmp_path / "file"
    with replace_when_complete(path) as slow:
        slow.write(b"slow")
        write_often(path, 1, 2)
        assert is_whole(path)
    assert snapshot(tmp_path) == {"file": b"slow"}


def test_other_files_are_not_removed(tmp_path):
    for name in (".file.partial", ".other.1234.partial", ".file.txt", ".file2.1.partial"):
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / ".file.99999.partial").write_bytes(b"of a version of before, killed")
    write_often(tmp_path / "file", 1, 1)
    kept = {"file", ".other.1234.partial", ".file.txt", ".file2.1.partial"}
    assert kept <= snapshot(tmp_path).keys() <= kept | {".file.partial"}


def test_where_there_are_no_locks_only_old_leftovers_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    new, old = tmp_path / ".file.1.partial", tmp_path / ".file.2.partial"
    for path in (new, old):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    write_often(tmp_path / "file", 1, 1)
    assert snapshot(tmp_path).keys() == {"file", new.name}


def test_long_names_and_folders(tmp_path):
    path = tmp_path / ("ä" * 125)
    write_often(path, 1, 1)
    assert is_whole(path)
    with pytest.raises(IsADirectoryError, match="is a folder; a file is needed"):
        write_often(tmp_path, 1, 1)


def test_the_folder_is_synced(tmp_path, monkeypatch):
    synced, sync = [], os.fsync

    def fsync(descriptor):
        synced.append(os.path.isdir(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_often(tmp_path / "file", 1, 1)
    assert synced == [False, True]

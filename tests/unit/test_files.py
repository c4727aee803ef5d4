"""Tests of locks and atomic writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plexp.files import is_locked, lock_file, try_lock, write_whole

HOLDER = """
import sys, time
from pathlib import Path
from plexp.files import try_lock
lock = try_lock(Path(sys.argv[1]))
print("holds" if lock else "fails", flush=True)
time.sleep(60)
"""


@pytest.fixture(params=[True, False], ids=["shared probes", "exclusive probes"])
def has_fcntl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setitem(sys.modules, "fcntl", None)


@pytest.mark.usefixtures("has_fcntl")
def test_a_probe_sees_an_owner_of_the_same_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path) and not path.exists()
    with lock_file(path):
        assert is_locked(path) and try_lock(path) is None
    assert not is_locked(path) and path.exists()


@pytest.mark.usefixtures("has_fcntl")
def test_sigkill_releases_a_lock_though_its_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "holds\n"
        assert is_locked(path) and try_lock(path) is None
    finally:
        process.kill()
        process.communicate()
    assert path.exists() and not is_locked(path)
    lock = try_lock(path)
    assert lock is not None
    lock.release()


def test_a_program_started_by_the_owner_does_not_inherit_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    wait = "import sys; print(flush=True); sys.stdin.read()"
    with lock_file(path):
        child = subprocess.Popen(
            [sys.executable, "-c", wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False
        )
        assert child.stdout is not None and child.stdout.readline()
    try:
        assert not is_locked(path)
    finally:
        child.communicate()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_end_of_a_forked_child_does_not_release_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = lock_file(path)
    with lock:
        child = os.fork()
        if child == 0:
            lock.release(force=True)
            del lock
            os._exit(0)
        os.waitpid(child, 0)
        assert is_locked(path)


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: int) -> None:
        raise OSError("no space")

    path = tmp_path / "file"
    write_whole(path, "old")
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]

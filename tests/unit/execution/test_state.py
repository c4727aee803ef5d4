"""Tests of a run's folder: its lock, whether its run is alive, and atomic writes of its record."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plexp.execution import state as run_folder
from plexp.execution.state import (
    Record,
    RunFolder,
    attempts,
    crashed_runs,
    held,
    list_runs,
    next_attempt,
    unsettled_runs,
)
from tests.support.builders import HOLDS

CHECKOUT = Path(run_folder.__file__).parents[2]
Other = Callable[[Path], subprocess.Popen[str]]


def say(process: subprocess.Popen[str]) -> str:
    """Send a line to a process, and return its answer."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


def begun(path: Path, **changes: Any) -> RunFolder:
    folder = RunFolder(path)
    assert folder.acquire()
    folder.begin(**changes)
    return folder


def paths(folders: list[RunFolder]) -> list[str]:
    return [folder.path.name for folder in folders]


def test_the_lock_of_another_process_cannot_be_taken_until_it_is_released(tmp_path: Path, other: Other) -> None:
    mine, process = RunFolder(tmp_path / "run"), other(tmp_path / "run")
    assert mine.alive() and not mine.acquire() and crashed_runs(tmp_path) == []
    with held(mine) as is_mine:
        assert not is_mine
    record = mine.record()
    assert record is not None
    assert (record.pid, record.host, record.status) == (process.pid, platform.node(), "RUNNING")
    assert say(process) == "released\n"
    assert not mine.alive() and crashed_runs(tmp_path) == [] and mine.acquire()
    assert mine.alive()
    mine.release()
    assert not mine.alive()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_holds_no_lock_and_its_run_has_crashed(number: int, tmp_path: Path, other: Other) -> None:
    mine, process = RunFolder(tmp_path / "run"), other(tmp_path / "run")
    process.send_signal(number)
    process.wait()
    record = mine.record()
    assert not mine.alive()
    assert record is not None and record.status == "RUNNING", "it had no time to record its end"
    assert paths(crashed_runs(tmp_path)) == ["run"]
    assert mine.acquire()
    assert crashed_runs(tmp_path) == []
    mine.release()
    assert crashed_runs(tmp_path) == [], "taking and releasing its lock settles it"


def test_a_run_that_never_began_has_not_crashed(tmp_path: Path) -> None:
    folder = next_attempt(tmp_path, "run")
    assert folder.acquire()
    folder.write(Record("run"))
    folder.release()
    assert crashed_runs(tmp_path) == [] and not folder.alive() and not RunFolder(tmp_path / "nothing").alive()


def test_a_second_folder_object_in_one_process_is_another_owner(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    assert first.acquire() and not second.acquire() and second.alive()
    first.release()
    assert second.acquire()
    second.release()


def test_a_probe_does_not_prevent_taking_the_lock(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    folder.release()
    with (tmp_path / "run" / "lock").open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        timer = threading.Timer(0.05, fcntl.flock, (asking, fcntl.LOCK_UN))
        timer.start()
        assert folder.acquire(), "a probe has the lock for a moment"
        timer.join()
    folder.release()


def test_probes_do_not_mistake_each_other_for_an_owner(tmp_path: Path) -> None:
    begun(tmp_path / "run").release()
    with (tmp_path / "run" / "lock").open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        assert not RunFolder(tmp_path / "run").alive()


@pytest.mark.parametrize("is_free", [True, False])
def test_held_releases_the_lock_also_after_an_exception(is_free: bool, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    owner = None if is_free else begun(tmp_path / "run")
    with pytest.raises(ZeroDivisionError), held(folder) as is_mine:
        assert is_mine == is_free
        raise ZeroDivisionError
    assert folder.alive() != is_free
    if owner is not None:
        owner.release()


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert folder.acquire()
    (ready_read, ready_write), (end_read, end_write) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end_write)
        os.write(ready_write, b"!")
        os.read(end_read, 1)
        os._exit(0)
    try:
        assert os.read(ready_read, 1) == b"!"
        folder.release()
        assert not RunFolder(tmp_path / "run").alive(), "the child lives, and its copy of the lock is closed"
        assert folder.acquire()
        folder.release()
    finally:
        os.close(end_write)
        os.waitpid(child, 0)
        for pipe in (ready_read, ready_write, end_read):
            os.close(pipe)


def test_the_child_of_a_killed_process_does_not_keep_its_lock(tmp_path: Path) -> None:
    forks = "import os\nif os.fork() == 0:\n    print('holds', flush=True)\n    time.sleep(60)\n    os._exit(0)\n"
    source = HOLDS.replace('print("holds", flush=True)\n', forks)
    assert source != HOLDS
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "PYTHONWARNINGS": "ignore"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", source, str(tmp_path / "run"), ""]
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    try:
        assert process.stdout is not None and process.stdout.readline() == "holds\n"
        assert RunFolder(tmp_path / "run").alive()
        process.kill()
        process.wait()
        os.killpg(process.pid, 0)
        assert not RunFolder(tmp_path / "run").alive()
        assert paths(crashed_runs(tmp_path)) == ["run"]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_lock_that_is_taken_in_the_parent_is_still_held_after_a_fork(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert folder.acquire()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert RunFolder(tmp_path / "run").alive() and not RunFolder(tmp_path / "run").acquire()
    folder.release()


def run_of_another_host(root: Path, seconds_ago: float, status: Any = "RUNNING") -> RunFolder:
    """Return a run of another host as it is seen through a shared file system that does not share locks."""
    folder = RunFolder(root / "run")
    folder.path.mkdir(parents=True)
    (folder.path / "lock").touch()
    folder.write(Record("run", status, host="another-host", pid=1, started=time.time()))
    heartbeat = folder.path / "heartbeat"
    heartbeat.write_text("[100, 0.5]")
    then = time.time() - seconds_ago
    os.utime(heartbeat, (then, then))
    return folder


@pytest.mark.parametrize(
    ("seconds_ago", "status", "is_alive"),
    [
        (0, "RUNNING", True),
        (run_folder.STALE_SECONDS - 10, "RUNNING", True),
        (run_folder.STALE_SECONDS + 1, "RUNNING", False),
        (0, "FAILED", False),
        (0, "FINISHED", False),
    ],
)
def test_a_run_of_another_host_is_alive_as_long_as_its_heartbeat_is_fresh(
    seconds_ago: float, status: str, is_alive: bool, tmp_path: Path
) -> None:
    folder = run_of_another_host(tmp_path, seconds_ago, status)
    assert folder.alive() == is_alive
    assert paths(crashed_runs(tmp_path)) == ([] if is_alive else ["run"])
    with held(folder) as is_mine:
        assert is_mine == (not is_alive)


def test_on_this_host_a_fresh_heartbeat_without_the_lock_is_a_crash(tmp_path: Path) -> None:
    folder = run_of_another_host(tmp_path, 0)
    folder.change(host=platform.node())
    assert not folder.alive() and paths(crashed_runs(tmp_path)) == ["run"]


def test_beginning_records_who_runs_it_and_clears_the_last_outcome(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "0123-2")
    assert folder.acquire()
    folder.change(status="FAILED", error=["it broke"], outcome={"steps": 1}, run_id="abc", sweeps={"s": 1})
    before = time.time()
    record = folder.begin(name="new")
    assert record == folder.record()
    assert (record.status, record.error, record.outcome, record.run_id) == ("RUNNING", [], None, "abc")
    assert (record.identity, record.name, record.sweeps) == ("0123", "new", {"s": 1})
    assert (record.host, record.pid) == (platform.node(), os.getpid()) and before <= record.started <= time.time()
    assert (folder.path / "reserve").stat().st_size == run_folder.RESERVE_BYTES
    folder.is_settled = True
    folder.release()
    assert sorted(path.name for path in folder.path.iterdir()) == ["lock", "run.json"]


def test_a_run_that_is_released_without_a_recorded_end_has_crashed(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    folder.release()
    assert not folder.alive() and paths(crashed_runs(tmp_path)) == ["run"]


def test_the_heartbeat_is_renewed_during_the_run_and_has_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "HEARTBEAT_SECONDS", 0.05)
    folder = begun(tmp_path / "run")
    first, steps, share = folder.heartbeat()
    assert (steps, share) == (0, 0.0) and time.time() - first < 30
    folder.progress = (1234, 0.25)
    until = time.monotonic() + 30
    while folder.heartbeat()[1:] != (1234, 0.25) and time.monotonic() < until:
        time.sleep(0.02)
    assert folder.heartbeat()[1:] == (1234, 0.25) and folder.heartbeat()[0] > first
    folder.is_settled = True
    folder.release()
    time.sleep(0.2)
    assert folder.heartbeat() == (0.0, 0, 0.0)
    assert not any(thread.name == "heartbeat" and thread.is_alive() for thread in threading.enumerate())


def test_a_failed_write_does_not_stop_the_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "HEARTBEAT_SECONDS", 0.02)
    folder = begun(tmp_path / "run")
    (folder.path / "heartbeat").unlink()
    (folder.path / "heartbeat").mkdir()
    time.sleep(0.1)
    assert folder.heartbeat() == (0.0, 0, 0.0)
    (folder.path / "heartbeat").rmdir()
    until = time.monotonic() + 30
    while not folder.heartbeat()[0] and time.monotonic() < until:
        time.sleep(0.02)
    assert folder.heartbeat()[0]
    folder.is_settled = True
    folder.release()


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.record() is None
    record = Record(
        *("abc", "FINISHED", "näme", "run-id", "https://there", "host", 7, 1.5, ["seed=1"], {"sweep": 3}),
        *(["one", "two"], {"steps": 5, "final": None}, {"eval/return": float("nan")}),
    )
    folder.write(record)
    found = folder.record()
    assert found is not None
    assert str(found.metrics.pop("eval/return")) == "nan" and found == replace(record, metrics={})


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", '{"identity": "x"', '"identity"', '{"status": "RUNNING"}', "\x00\x00"]
)
def test_a_record_that_cannot_be_read_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    assert RunFolder(tmp_path).record() is None


def test_unknown_fields_of_a_later_plexps_record_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"identity": "x", "new": 1, "pid": 3}))
    assert RunFolder(tmp_path).record() == Record("x", pid=3)


def test_a_record_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.write(Record("first"))

    def fails(handle: int) -> None:
        assert folder.record() == Record("first"), "the old one stands until the new one is on disk"
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError):
        folder.write(Record("second"))
    assert folder.record() == Record("first")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_reader_during_a_write_sees_the_old_or_the_new_record(tmp_path: Path) -> None:
    folder, stop = RunFolder(tmp_path), threading.Event()
    folder.write(Record("x"))

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            folder.write(Record("x", name="long " * (number % 2000), pid=number))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(500):
            record = RunFolder(tmp_path).record()
            assert record is not None and len(record.name) == 5 * (record.pid % 2000)
    finally:
        stop.set()
        thread.join()


def test_changing_a_record_keeps_its_other_fields(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "abc-3")
    folder.path.mkdir()
    assert folder.change(name="a") == Record("abc", name="a") == folder.record()
    assert folder.change(pid=3) == Record("abc", name="a", pid=3) == folder.record()
    with pytest.raises(TypeError):
        folder.change(colour=1)


def test_attempts_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    assert attempts(tmp_path / "none", "abc") == []
    made = [next_attempt(tmp_path, "abc").path.name for _ in range(12)]
    assert made == ["abc", *(f"abc-{n}" for n in range(2, 13))]
    random.Random(0).shuffle(made)
    for name in ("abcd", "abcd-2", "ab", "xabc"):
        (tmp_path / name).mkdir()
    assert paths(attempts(tmp_path, "abc")) == ["abc", *(f"abc-{n}" for n in range(2, 13))]
    assert paths(attempts(tmp_path, "abcd")) == ["abcd", "abcd-2"]


def test_the_next_attempt_has_a_new_number_even_where_one_was_removed(tmp_path: Path) -> None:
    for _ in range(4):
        next_attempt(tmp_path, "abc")
    (tmp_path / "abc-2").rmdir()
    assert next_attempt(tmp_path, "abc").path.name == "abc-5"
    assert next_attempt(tmp_path, "abc").path.name == "abc-6"


def test_threads_that_ask_at_once_each_get_an_attempt_of_their_own(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(next_attempt(tmp_path, "abc").path.name)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 8


def test_the_steps_of_the_newest_checkpoint_are_read_from_its_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.checkpoint_steps() is None
    folder.checkpoints.mkdir()
    for name in ("draft-1", "step-000000000900-ab.safetensors", "step-000000100000-cd.safetensors"):
        (folder.checkpoints / name).touch()
    assert folder.checkpoint_steps() == 100_000


def test_all_runs_are_in_the_order_of_their_last_start(tmp_path: Path) -> None:
    for name, started in (("b", 3.0), ("a", 1.0), ("c", 2.0)):
        (tmp_path / name).mkdir()
        RunFolder(tmp_path / name).write(Record(name, started=started))
    (tmp_path / "unreadable").mkdir()
    (tmp_path / "a file").touch()
    (tmp_path / "unreadable" / "run.json").write_text("{ half")
    assert [(folder.path.name, record.identity) for folder, record in list_runs(tmp_path)] == [(n, n) for n in "acb"]


def test_unsettled_runs_have_crashed_or_have_operations_in_their_outbox(tmp_path: Path, other: Other) -> None:
    assert unsettled_runs(tmp_path) == []
    alive, killed = other(tmp_path / "alive"), other(tmp_path / "killed")
    killed.kill()
    killed.wait()
    for name, store in (("left", "http://left"), ("done", "http://done"), ("local", None)):
        folder = RunFolder(tmp_path / name)
        folder.outbox.mkdir(parents=True)
        folder.write(Record(name, "FAILED", store=store))
        if name != "done":
            (folder.outbox / "operations.jsonl").touch()
    (tmp_path / "alive" / "outbox").mkdir()
    (tmp_path / "alive" / "outbox" / "operations.jsonl").touch()
    found = {folder.path.name: record.store for folder, record in unsettled_runs(tmp_path)}
    assert found == {"killed": "https://there", "left": "http://left", "local": None}
    assert alive.poll() is None


def test_removing_the_progress_leaves_the_record_and_what_waits_for_the_store(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write(Record("0123"))
    for path in (folder.checkpoints, folder.replay, folder.outbox):
        path.mkdir()
        (path / "file").touch()
    folder.episodes.touch()
    for _ in range(2):
        folder.remove_progress()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outbox", "run.json"]

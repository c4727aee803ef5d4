"""Tests of the outbox: operations are kept in order, on disk, and removed when delivered."""

from __future__ import annotations

import json
import math
import resource
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plexp.tracking.outbox import Operation, Outbox

TEXT: Operation = {"op": "text", "text": "seed: 3\n", "name": "config.yaml"}


def points(*steps: int) -> Operation:
    return {"op": "metrics", "points": [["x", step / 2, 1, step] for step in steps]}


def filled(folder: Path, *operations: Operation) -> Outbox:
    outbox = Outbox(folder)
    for operation in operations:
        outbox.put(operation)
    return outbox


def emptied(outbox: Outbox, limit: int = 1) -> list[Operation]:
    """Mark all operations as done, and return them in that order."""
    found: list[Operation] = []
    while operations := outbox.waiting(limit):
        found += operations
        outbox.done(len(operations))
    return found


@contextmanager
def room_for(path: Path, size: int) -> Iterator[None]:
    """Let files of this process grow to the size of this file plus `size` bytes, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state #1 é" / "outbox"


def test_operations_are_done_first_in_first_out(folder: Path) -> None:
    put = [points(0), points(1), TEXT, points(2), {"op": "end", "status": "FINISHED", "time": 7}]
    outbox = filled(folder, *put)
    assert len(outbox) == 5
    assert emptied(outbox) == put and len(outbox) == 0


def test_metrics_are_done_in_batches_and_other_operations_alone(folder: Path) -> None:
    outbox = filled(folder, points(0, 1), points(2, 3), points(4), TEXT, TEXT, points(5))
    sizes = []
    while operations := outbox.waiting(4):
        sizes.append(len(operations))
        outbox.done(len(operations))
    assert sizes == [2, 1, 1, 1, 1]


def test_waiting_operations_survive_the_process_exactly(folder: Path) -> None:
    odd: Operation = {"op": "metrics", "points": [["é/x", math.nan, 1, 0], ["y", -math.inf, 2, 3], ["z", 0.1, 3, 4]]}
    filled(folder, odd, {"op": "text", "text": 'a\n"b"\u2028\r\nç', "name": "n"})
    found, text = emptied(Outbox(folder))
    assert math.isnan(found["points"][0][1]) and found["points"][1:] == odd["points"][1:]
    assert text["text"] == 'a\n"b"\u2028\r\nç'


def test_a_process_that_dies_in_delivery_leaves_all_operations_not_done(folder: Path) -> None:
    outbox = filled(folder, points(0), points(1), TEXT)
    outbox.done(1)
    outbox.put(points(2))
    again = Outbox(folder)
    assert emptied(again)[-3:] == [points(1), TEXT, points(2)]


def test_operations_put_after_reopening_come_last_and_survive_too(folder: Path) -> None:
    filled(folder, points(0))
    filled(folder, points(1))
    assert emptied(Outbox(folder)) == [points(0), points(1)]


@pytest.mark.parametrize("torn", [b'{"op":"metrics","points":[["x",0.5,', b'{"op":"te\xc3', b"{"])
def test_a_last_line_torn_by_a_power_cut_is_ignored(folder: Path, torn: bytes) -> None:
    outbox = filled(folder, points(0), points(1))
    with outbox.path.open("ab") as file:
        file.write(torn)
    assert emptied(Outbox(folder)) == [points(0), points(1)]


def test_operations_put_after_a_torn_line_survive(folder: Path) -> None:
    outbox = filled(folder, points(0))
    with outbox.path.open("ab") as file:
        file.write(b'{"op":"metrics","poi')
    filled(folder, points(1), points(2))
    assert emptied(Outbox(folder)) == [points(0), points(1), points(2)]


@pytest.mark.parametrize("room", [0, 10])
def test_a_full_disk_raises_and_leaves_the_earlier_lines_whole(folder: Path, room: int) -> None:
    outbox = filled(folder, points(0), TEXT)
    before = outbox.path.read_bytes()
    with room_for(outbox.path, room), pytest.raises(OSError):
        outbox.put(points(1))
    assert outbox.path.read_bytes() == before and len(outbox) == 2
    outbox.put(points(2))
    assert emptied(Outbox(folder)) == [points(0), TEXT, points(2)]


def test_when_all_is_done_no_file_or_folder_is_left(folder: Path) -> None:
    outbox = filled(folder, points(0), TEXT)
    outbox.done(1)
    assert outbox.path.exists()
    outbox.done(1)
    assert not folder.exists() and folder.parent.exists()
    outbox.put(TEXT)
    assert emptied(Outbox(folder)) == [TEXT]


def test_an_outbox_that_was_never_used_makes_no_folder(folder: Path) -> None:
    outbox = Outbox(folder)
    outbox.sync()
    assert outbox.waiting(10) == [] and not folder.exists()


def test_files_have_folders_of_their_own_which_are_removed_when_done(folder: Path) -> None:
    outbox = Outbox(folder)
    places = [outbox.place_for("agent.bin") for _ in range(2)]
    for number, place in enumerate(places):
        assert list(place.parent.iterdir()) == []
        place.write_text(str(number))
        outbox.put({"op": "file", "path": str(place.relative_to(folder)), "folder": None})
    outbox.done(1)
    assert not places[0].parent.exists() and places[1].read_text() == "1"
    outbox.done(1)
    assert not folder.exists()


def test_a_second_process_with_the_same_pid_reuses_no_place_of_a_waiting_file(folder: Path) -> None:
    first = Outbox(folder).place_for("agent.bin")
    first.write_text("of the first process")
    second = Outbox(folder).place_for("agent.bin")
    assert second.parent != first.parent
    second.write_text("of the second")
    assert first.read_text() == "of the first process"


def test_refused_operations_are_kept_in_a_file_of_their_own(folder: Path) -> None:
    outbox = filled(folder, points(0), TEXT)
    for operation in (points(0), TEXT):
        outbox.refuse(operation)
        outbox.done(1)
    kept = [json.loads(line) for line in (folder / "refused.jsonl").read_text().splitlines()]
    assert kept == [points(0), TEXT]
    assert not Outbox(folder) and len(Outbox(folder)) == 0


def test_an_outbox_is_true_while_operations_wait(folder: Path) -> None:
    assert not Outbox(folder)
    outbox = filled(folder, TEXT)
    assert Outbox(folder)
    outbox.done(1)
    assert not Outbox(folder)


def test_sync_makes_operations_durable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox, synced = filled(folder, TEXT), []
    monkeypatch.setattr("os.fsync", lambda file: synced.append(Path(file.name)))
    outbox.sync()
    assert synced == [outbox.path]


def test_threads_that_put_while_another_delivers_lose_nothing(folder: Path) -> None:
    outbox, found = Outbox(folder), list[Any]()

    def put(first: int) -> None:
        for step in range(first, first + 300):
            outbox.put(points(step))

    threads = [threading.Thread(target=put, args=(1000 * number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found += emptied(outbox, 50)
    found += emptied(outbox, 50)
    steps = [operation["points"][0][3] for operation in found]
    for number in range(3):
        assert [step for step in steps if step // 1000 == number] == [1000 * number + i for i in range(300)]
    assert not folder.exists()


def test_files_can_be_placed_while_the_outbox_is_emptied(folder: Path) -> None:
    outbox, over = Outbox(folder), threading.Event()

    def empty() -> None:
        while not over.is_set():
            outbox.put(TEXT)
            outbox.done(1)

    thread = threading.Thread(target=empty)
    thread.start()
    try:
        for _ in range(3000):
            shutil.rmtree(outbox.place_for("agent.bin").parent)
    finally:
        over.set()
        thread.join()

"""What waits for the store: in its order, on disk, whole, and gone when it is done."""

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
    """All operations in the order in which they are done."""
    found: list[Operation] = []
    while operations := outbox.waiting(limit):
        found += operations
        outbox.done(len(operations))
    return found


@contextmanager
def room_for(path: Path, size: int) -> Iterator[None]:
    """A file of this process can grow to this file's size and so many bytes more, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state #1 é" / "outbox"


def test_what_was_put_first_is_done_first(folder: Path) -> None:
    put = [points(0), points(1), TEXT, points(2), {"op": "end", "status": "FINISHED", "time": 7}]
    outbox = filled(folder, *put)
    assert len(outbox) == 5
    assert emptied(outbox) == put and len(outbox) == 0


def test_metrics_are_done_together_up_to_a_batch_and_all_else_alone(folder: Path) -> None:
    outbox = filled(folder, points(0, 1), points(2, 3), points(4), TEXT, TEXT, points(5))
    sizes = []
    while operations := outbox.waiting(4):
        sizes.append(len(operations))
        outbox.done(len(operations))
    assert sizes == [2, 1, 1, 1, 1]


def test_what_waits_survives_the_process_exactly(folder: Path) -> None:
    odd: Operation = {"op": "metrics", "points": [["é/x", math.nan, 1, 0], ["y", -math.inf, 2, 3], ["z", 0.1, 3, 4]]}
    filled(folder, odd, {"op": "text", "text": 'a\n"b"\u2028\r\nç', "name": "n"})
    found, text = emptied(Outbox(folder))
    assert math.isnan(found["points"][0][1]) and found["points"][1:] == odd["points"][1:]
    assert text["text"] == 'a\n"b"\u2028\r\nç'


def test_a_process_that_died_while_it_delivered_leaves_all_that_was_not_done(folder: Path) -> None:
    outbox = filled(folder, points(0), points(1), TEXT)
    outbox.done(1)
    outbox.put(points(2))
    again = Outbox(folder)
    assert emptied(again)[-3:] == [points(1), TEXT, points(2)]


def test_what_is_put_after_reopening_comes_last_and_survives_too(folder: Path) -> None:
    filled(folder, points(0))
    filled(folder, points(1))
    assert emptied(Outbox(folder)) == [points(0), points(1)]


@pytest.mark.parametrize("torn", [b'{"op":"metrics","points":[["x",0.5,', b'{"op":"te\xc3', b"{"])
def test_a_last_line_that_a_power_cut_tore_is_ignored(folder: Path, torn: bytes) -> None:
    outbox = filled(folder, points(0), points(1))
    with outbox.path.open("ab") as file:
        file.write(torn)
    assert emptied(Outbox(folder)) == [points(0), points(1)]


def test_what_is_put_after_a_torn_line_survives(folder: Path) -> None:
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


def test_when_all_is_done_neither_file_nor_folder_is_left(folder: Path) -> None:
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


def test_files_lie_alone_until_they_are_done_and_vanish_then(folder: Path) -> None:
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


def test_a_second_process_with_the_same_pid_takes_no_place_that_a_file_waits_in(folder: Path) -> None:
    first = Outbox(folder).place_for("agent.bin")
    first.write_text("of the first process")
    second = Outbox(folder).place_for("agent.bin")
    assert second.parent != first.parent
    second.write_text("of the second")
    assert first.read_text() == "of the first process"


def test_what_the_store_refuses_is_kept_apart_with_the_folder(folder: Path) -> None:
    outbox = filled(folder, points(0), TEXT)
    for operation in (points(0), TEXT):
        outbox.refuse(operation)
        outbox.done(1)
    kept = [json.loads(line) for line in (folder / "refused.jsonl").read_text().splitlines()]
    assert kept == [points(0), TEXT]
    assert not Outbox(folder) and len(Outbox(folder)) == 0


def test_whether_something_waits_is_known_without_opening_it(folder: Path) -> None:
    assert not Outbox(folder)
    outbox = filled(folder, TEXT)
    assert Outbox(folder)
    outbox.done(1)
    assert not Outbox(folder)


def test_sync_makes_what_was_put_durable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_place_for_a_file_can_be_had_while_the_folder_is_emptied(folder: Path) -> None:
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

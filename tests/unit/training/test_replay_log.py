"""Tests of the replay log: a resumed buffer equals one that never stopped, and damage is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plexp.errors import StoreError
from plexp.execution.checkpoint import decode, encode
from plexp.training.replay import log as replay_log
from plexp.training.replay.buffer import PrioritizedReplay, ReplayBuffer
from plexp.training.replay.log import DamagedLog, ReplayLog
from plexp.training.types import Trajectory
from tests.support.replay_world import SHAPES, World

KINDS = [ReplayBuffer, PrioritizedReplay]
SMALL = 4000
"""Length of a segment in these tests."""


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_log, "SEGMENT_BYTES", SMALL)
    monkeypatch.setattr(replay_log, "WAITING_BYTES", 700)


class Run:
    """A buffer and its log, to which random trajectories are added."""

    def __init__(self, folder: Path, kind: type[ReplayBuffer] = ReplayBuffer, rows: int = 40, **world: Any) -> None:
        self.world, self.kind = World(3, **world), kind
        self.capacity = rows * 3 + 1
        self.buffer, self.log = self.new_buffer(), ReplayLog(folder)

    def new_buffer(self) -> ReplayBuffer:
        return self.kind(self.capacity, self.world.spec)

    def add(self, trajectory: Trajectory) -> None:
        self.buffer.add(trajectory)
        self.log.append(trajectory)

    def play(self, number: int, steps: int = 3) -> None:
        for _ in range(number):
            self.add(self.world.play(steps))
            if isinstance(self.buffer, PrioritizedReplay):
                indices = self.buffer.draw(np.random.default_rng(self.buffer.added), 8)
                self.buffer.update_priorities(indices, np.cos(indices))

    def checkpoint(self) -> dict[str, Any]:
        self.log.sync()
        return decode(encode({"buffer": self.buffer.state_dict(), "log": self.log.position()}))

    def resume(self, state: dict[str, Any]) -> None:
        """Continue with a new buffer and log of the same folder."""
        self.buffer, self.log = self.new_buffer(), ReplayLog(self.log.folder)
        self.log.restore(state["log"], self.buffer)
        self.buffer.load_state_dict(state["buffer"])


def assert_equal(one: ReplayBuffer, other: ReplayBuffer) -> None:
    """Compare all that can be asked of two buffers, bit for bit."""
    assert (one.added, one.oldest, len(one)) == (other.added, other.oldest, len(other))
    state, other_state = one.state_dict(), other.state_dict()
    assert encode(state) == encode(other_state)
    if not len(one):
        return
    drawn = [buffer.draw(np.random.default_rng(5), 300) for buffer in (one, other)]
    np.testing.assert_array_equal(*drawn)
    for n_steps in (1, 4):
        batches = [vars(buffer.transitions(drawn[0], n_steps, 0.9)) for buffer in (one, other)]
        assert batches[0].pop("noise") is None and batches[1].pop("noise") is None
        assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0])
    if isinstance(one, PrioritizedReplay) and isinstance(other, PrioritizedReplay):
        np.testing.assert_array_equal(one.tree.nodes, other.tree.nodes)
        np.testing.assert_array_equal(one.weights_of(drawn[0], 0.5), other.weights_of(drawn[0], 0.5))


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("rows-*"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("same_step", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("before", [0, 1, 7, 60])
def test_a_resumed_buffer_equals_one_that_never_stopped(
    tmp_path: Path, kind: type[ReplayBuffer], same_step: bool, shape: Any, before: int
) -> None:
    world = dict(zip(("shape", "dtype", "action_shape", "action_dtype"), shape, strict=True))
    run = Run(tmp_path, kind, same_step=same_step, p_end=0.3, **world)
    run.play(before)
    state, uninterrupted = run.checkpoint(), run.buffer
    for _ in range(30):
        run.log.append(run.world.play(5))  # which the interruption loses
    run.log.sync()
    run.resume(state)
    assert [int(file.stem[-15:]) for file in files(tmp_path)][-1:] == [state["log"]["segment"]] * bool(before)
    assert_equal(run.buffer, uninterrupted)
    for _ in range(2):
        for steps in (1, 4, 1, 90, 2):
            trajectory = run.world.play(steps)
            uninterrupted.add(trajectory)
            run.add(trajectory)
            assert_equal(run.buffer, uninterrupted)
        run.resume(run.checkpoint())
        assert_equal(run.buffer, uninterrupted)


@pytest.mark.parametrize("same_step", [True, False])
def test_episodes_that_a_resumed_run_could_not_continue_are_cut_again(tmp_path: Path, same_step: bool) -> None:
    run = Run(tmp_path, same_step=same_step, p_end=0.1)
    for number in range(8):
        run.play(2)
        run.world.restart(number % 3)
    run.play(1)
    uninterrupted = run.buffer
    run.resume(run.checkpoint())
    assert_equal(run.buffer, uninterrupted)


def test_each_observation_is_written_once(tmp_path: Path) -> None:
    run = Run(tmp_path, shape=(100,), p_end=0.0)
    run.play(100, steps=1)
    run.log.sync()
    records = 100 * (replay_log.HEAD.size + 3 * (400 + 8 + 4 + 3))
    assert sum(file.stat().st_size for file in files(tmp_path)) == records + len(files(tmp_path)) * 3 * 400


def test_the_position_is_json_and_holds_while_the_log_grows(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.play(9)
    position = json.loads(json.dumps(run.log.position()))
    assert position["records"] == 9 and position["rows"] == 27
    state, uninterrupted = run.buffer.state_dict(), run.new_buffer()
    run.log.append(run.world.play(5))
    run.log.sync()
    ReplayLog(tmp_path).restore(position, uninterrupted)
    assert_equal(uninterrupted, run.buffer)
    assert state["added"] == uninterrupted.added


def damaged(folder: Path, state: dict[str, Any], buffer: ReplayBuffer) -> str:
    """Return what is said about a damaged log, after checking that nothing was changed."""
    before = {file: file.read_bytes() for file in files(folder)}
    with pytest.raises(DamagedLog) as error:
        ReplayLog(folder).restore(state["log"], buffer)
    assert not len(buffer) and before == {file: file.read_bytes() for file in files(folder)}
    assert isinstance(error.value, ValueError) and "\n" not in str(error.value)
    return str(error.value)


def test_a_log_that_was_cut_at_any_byte_is_damaged_before_the_position_and_whole_behind_it(tmp_path: Path) -> None:
    run = Run(tmp_path / "whole", p_end=0.4)
    run.play(4)
    state = run.checkpoint()
    run.log.append(run.world.play(2))
    run.log.sync()
    (file,), end = files(tmp_path / "whole"), state["log"]["offset"]
    data = file.read_bytes()
    for size in range(len(data) + 1):
        folder = tmp_path / "cut"
        folder.mkdir(exist_ok=True)
        (folder / file.name).write_bytes(data[:size])
        buffer = run.new_buffer()
        if size < end:
            assert damaged(folder, state, buffer).startswith(f"{file.name}: record ")
        else:
            ReplayLog(folder).restore(state["log"], buffer)
            assert_equal(buffer, run.buffer)
            assert (folder / file.name).read_bytes() == data[:end]


def test_every_flipped_byte_before_the_position_is_named_with_its_record(tmp_path: Path) -> None:
    run = Run(tmp_path, p_end=0.4)
    run.play(2)
    first = run.log.position()["offset"]
    run.play(2)
    state = run.checkpoint()
    (file,) = files(tmp_path)
    data = file.read_bytes()
    for place in range(0, len(data), 1 if len(data) < 3000 else 3):
        file.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        message = damaged(tmp_path, state, run.new_buffer())
        assert message.startswith(f"{file.name}: record ")
        assert ("record 1 " in message or "record 2 " in message) == (place < first)


def test_a_missing_file_and_missing_records_are_named(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", rows=200)
    run.play(60)
    state, whole = run.checkpoint(), files(tmp_path / "run")
    assert len(whole) > 3
    for number, file in enumerate(whole):
        copy = shutil.copytree(tmp_path / "run", tmp_path / f"copy-{number}")
        (copy / file.name).unlink()
        message = damaged(copy, state, run.new_buffer())
        neighbour = whole[number + 1].name if number + 1 < len(whole) else file.name
        assert message.startswith(neighbour) and message.endswith("missing")
    copy = shutil.copytree(tmp_path / "run", tmp_path / "emptied")
    (copy / whole[1].name).write_bytes(b"")
    assert damaged(copy, state, run.new_buffer()).startswith(f"{whole[2].name}: record 1 begins at row ")


def test_a_log_of_other_observations_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.play(3)
    other = ReplayBuffer(100, World(3, (5,)).spec)
    assert damaged(tmp_path, run.checkpoint(), other).endswith(
        "record 1 is of observations or actions of another shape or type"
    )


def test_the_log_of_another_run_is_refused_as_a_whole_and_in_part(tmp_path: Path) -> None:
    run, other = (Run(tmp_path / name, rows=200, p_end=0.0, seed=seed) for seed, name in enumerate(("run", "other")))
    for each in (run, other):
        each.play(60, steps=2)
    state, positions = run.checkpoint(), [{**each.checkpoint()["log"], "crc": 0} for each in (run, other)]
    assert positions[0] == positions[1] and len(files(tmp_path / "run")) > 1
    assert damaged(tmp_path / "other", state, run.new_buffer()).endswith(": it is of another run")
    for number, theirs in enumerate(files(tmp_path / "other")):
        copy = shutil.copytree(tmp_path / "run", tmp_path / f"copy-{number}")
        shutil.copy(theirs, copy / theirs.name)
        assert damaged(copy, state, run.new_buffer()).endswith("it is of another run")


def test_trimming_keeps_what_every_checkpoint_needs_and_bounds_the_disk(tmp_path: Path) -> None:
    run = Run(tmp_path / "log", p_end=0.2)
    states: list[tuple[dict[str, Any], ReplayBuffer]] = []
    sizes = []
    for _ in range(50):
        run.play(4)
        states = [*states[-1:], (run.checkpoint(), run.buffer)]
        run.log.trim([state["log"] for state, _ in states], run.buffer.rows)
        sizes.append(sum(file.stat().st_size for file in files(tmp_path / "log")))
        for state, uninterrupted in states:
            copy = shutil.copytree(tmp_path / "log", tmp_path / "copy")
            resumed = Run(copy)
            resumed.resume(state)
            assert_equal(resumed.buffer, uninterrupted)
            shutil.rmtree(copy)
        run.resume(states[-1][0])
    row = 3 * (12 + 8 + 4 + 3 + 12) + replay_log.HEAD.size
    assert max(sizes) < (40 + 2 * 12) * row + 2 * SMALL and sizes[-1] < 1.5 * sizes[15]


def test_trimming_removes_what_lies_between_two_checkpoints_needs(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.play(60)
    early, late_buffer = run.checkpoint(), run.buffer
    early_buffer = run.new_buffer()
    ReplayLog(shutil.copytree(tmp_path, tmp_path / "copy")).restore(early["log"], early_buffer)
    shutil.rmtree(tmp_path / "copy")
    run.play(200)
    late, before = run.checkpoint(), files(tmp_path)
    run.log.trim([early["log"], late["log"]], run.buffer.rows, begin=early["log"]["segment"])
    kept = files(tmp_path)
    assert kept[0] == before[0] and len(kept) < len(before) - 3, "what lies before `begin` stays"
    run.log.trim([early["log"], late["log"]], run.buffer.rows)
    assert len(files(tmp_path)) < len(kept)
    for state, uninterrupted in ((late, late_buffer), (early, early_buffer)):
        run.resume(state)
        assert_equal(run.buffer, uninterrupted)


def test_a_buffer_that_was_never_written_is_restored_empty_and_what_was_left_goes(tmp_path: Path) -> None:
    run = Run(tmp_path)
    state = run.checkpoint()
    run.play(30)
    run.log.sync()
    run.resume(state)
    assert not len(run.buffer) and not files(tmp_path)


def test_a_new_run_replaces_what_another_has_left(tmp_path: Path) -> None:
    first = Run(tmp_path)
    first.play(100)
    first.log.sync()
    second = Run(tmp_path, seed=1)
    second.play(5)
    second.log.sync()
    assert [file.name for file in files(tmp_path)] == [f"rows-{0:015d}.log"]
    kept = second.buffer
    second.resume(second.checkpoint())
    assert_equal(second.buffer, kept)


def test_removing_leaves_only_the_files_of_others(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.play(100)
    run.log.sync()
    (tmp_path / "rows-of-another.log").touch()
    run.log.remove()
    assert [file.name for file in tmp_path.iterdir()] == ["rows-of-another.log"]


def test_a_failed_write_is_said_in_one_line_and_made_good_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path)
    run.play(8)
    opened = Path.open

    def full(path: Path, mode: str = "r", *rest: Any) -> Any:
        if "b" in mode and mode != "rb":
            with opened(path, mode) as file:
                file.seek(0, 2)
                file.write(b"half a record")
            raise OSError(28, "No space left on device")
        return opened(path, mode, *rest)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StoreError, match=r"outputs=.*: the disk is full; free some space"):
        run.play(20)
    monkeypatch.setattr(Path, "open", opened)
    run.log.sync()
    position, again = run.log.position(), run.new_buffer()
    ReplayLog(tmp_path).restore(position, again)
    assert_equal(again, run.buffer)


def test_a_wrong_state_of_the_buffer_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.play(3)
    with pytest.raises(ValueError, match="the buffer has 0 transitions"):
        run.new_buffer().load_state_dict(run.buffer.state_dict())


def test_an_interrupted_append_or_write_leaves_the_log_consistent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path)

    def interrupted(*_: Any) -> Any:
        run.log.waiting += b"part of a record"
        raise KeyboardInterrupt

    for _ in range(20):
        run.play(2)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(replay_log, "_encode", interrupted)
            run.log.append(run.world.play(1))
    run.log.sync()
    run.log.sync()
    again = run.new_buffer()
    ReplayLog(tmp_path).restore(run.log.position(), again)
    assert again.added == run.log.position()["rows"] == 120

"""Tests of the replay memory: however a run is interrupted, its log is bounded and has what the checkpoints need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plexp.training.replay import log as replay_log
from plexp.training.replay.buffer import ReplayBuffer, ReplaySpec
from plexp.training.replay.log import DamagedLog
from plexp.training.replay.memory import ReplayMemory
from tests.support.replay_world import World

ROWS, EVERY, KEPT = 40, 24, 2
SMALL = 2000
"""Length of a segment in these tests."""
State = dict[str, Any]


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_log, "SEGMENT_BYTES", SMALL)
    monkeypatch.setattr(replay_log, "WAITING_BYTES", 300)


class Uniform:
    """Replay plugin that makes small buffers."""

    capacity = 3 * ROWS

    def make(self, spec: ReplaySpec) -> ReplayBuffer:
        return ReplayBuffer(self.capacity, spec)


class Run:
    """A run that plays, writes checkpoints of its memory, and is killed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.world = folder, World(3, p_end=0.1)
        self.checkpoints: list[State] = []
        self.sizes: list[int] = []
        """Bytes of the log after each step."""
        self.begin()

    def begin(self) -> None:
        self.memory = ReplayMemory(Uniform(), self.world.spec)
        self.memory.attach(self.folder)

    def play(self, steps: int) -> None:
        for _ in range(steps):
            self.memory.add(self.world.play(1))
            self.sizes.append(sum(file.stat().st_size for file in self.folder.glob("rows-*")))

    def checkpoint(self, state: State | None = None) -> None:
        state = state or self.memory.state_dict()
        self.memory.sync()
        self.checkpoints = [*self.checkpoints, state][-KEPT:]
        self.memory.trim(state, KEPT)

    def resume(self, number: int = -1) -> None:
        """Kill the run, and restore a checkpoint."""
        self.begin()
        self.memory.load_state_dict(self.checkpoints[number])


def bound(rows: int) -> int:
    """Return the bytes that so many rows and a file at each of their ends need at most."""
    per_row = replay_log.HEAD.size + 3 * (
        12 + 8 + 4 + 3 + 12
    )  # an observation, action, reward, flags, last observation
    return rows * (per_row + 3 * 20) + 2 * (SMALL + per_row)  # and the final observations of some episodes


def regularly(run: Run, number: int) -> None:
    run.play(EVERY)
    run.checkpoint()


def killed_after_each_checkpoint(run: Run, number: int) -> None:
    regularly(run, number)
    run.resume()


def never(run: Run, number: int) -> None:
    run.memory.state_dict()
    run.play(EVERY)


def only_when_it_is_interrupted(run: Run, number: int) -> None:
    run.memory.state_dict()
    run.play(EVERY)
    if number % 10 == 0:
        run.checkpoint()
        run.resume()


@pytest.mark.parametrize("live", [regularly, killed_after_each_checkpoint, never, only_when_it_is_interrupted])
def test_the_log_is_bounded_however_checkpoints_are_written(tmp_path: Path, live: Callable[..., None]) -> None:
    run = Run(tmp_path)
    for number in range(1, 61):
        live(run, number)
    checkpoints = 2 if live is only_when_it_is_interrupted else 0  # each needs all rows of a buffer of its own
    assert max(run.sizes) < bound((1 + checkpoints) * (ROWS + SMALL // 150) + 3 * EVERY)
    assert len(run.memory.buffer) == 3 * ROWS


@pytest.mark.parametrize("further", [0, 1, EVERY, 10 * EVERY])
def test_after_resuming_the_checkpoint_before_can_still_be_used(tmp_path: Path, further: int) -> None:
    run = Run(tmp_path)
    for number in range(9):
        regularly(run, number)
    expected = {number: [run.checkpoints[number]["buffer"]] for number in (-1, -2)}
    run.resume()
    for _ in range(further):
        run.memory.state_dict()
        run.play(1)
    run.memory.sync()
    for number in (-1, -2):
        run.resume(number)
        assert [run.memory.state_dict()["buffer"]] == expected[number]


def test_the_latest_state_can_be_written_after_many_more_steps(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.play(200)
    state = run.memory.state_dict()
    run.play(200)
    run.checkpoint(state)
    run.resume()
    assert run.memory.buffer.added == 200 and run.memory.state_dict() == state


def test_a_state_without_a_log_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.play(3)
    run.memory.log = None
    state = run.memory.state_dict()
    run.checkpoint(state)
    with pytest.raises(DamagedLog, match="there is no log of the replay buffer"):
        run.resume()


def test_many_files_between_two_checkpoints_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin a file every few steps, as with images, and restore each checkpoint, the first after a kill too."""
    monkeypatch.setattr(replay_log, "SEGMENT_BYTES", 400)
    run = Run(tmp_path)
    run.checkpoint()
    for _ in range(4):
        run.play(EVERY)
        assert len(list(tmp_path.glob("rows-*"))) > 4, "files begin between the checkpoints"
        run.checkpoint()
        run.resume()
        assert run.memory.buffer.added == run.memory.copied["rows"]
    assert run.memory.buffer.added == 4 * EVERY

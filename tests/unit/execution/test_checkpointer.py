"""Tests of the checkpointer: when it copies the state, and when it writes it to disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from plexp.execution.callbacks import checkpointer
from plexp.execution.callbacks.checkpointer import Checkpointer, Heartbeat
from plexp.execution.state import RunFolder
from plexp.training.progress import Profile, TrainingProgress


class Counting:
    """State of a list that changes in place, which counts how often it was copied."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.copies = 0

    def state_dict(self) -> Mapping[str, Any]:
        self.copies += 1
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: Any) -> None:
        self.seen = list(state_dict["seen"])


class Clock:
    """Clock that stands still except for what is added to it."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(checkpointer, "time", clock)
    return clock


Run = Callable[[int], None]


def begun(every: int | None, total: int = 10_000) -> tuple[Checkpointer, Counting, list[tuple[int, list[int]]], Run]:
    """Return a started checkpointer, what it copies, its writes as (step, list), and a function that makes steps."""
    part, written, progress = Counting(), [], TrainingProgress()

    def write(state: Mapping[str, Any], steps: int) -> None:
        written.append((steps, state["part"]["seen"]))

    listener = Checkpointer({"part": part}, write, every, Profile())
    listener.on_start(progress)

    def advance(steps: int) -> None:
        progress.steps += steps
        progress.fraction = min(1.0, progress.steps / total)
        part.seen.append(progress.steps)
        listener.on_iteration(progress)

    return listener, part, written, advance


def test_it_writes_at_every_interval_of_steps_and_at_the_end(clock: Clock) -> None:
    _, _, written, advance = begun(100, total=400)
    for _ in range(10):
        advance(40)
    assert [steps for steps, _ in written] == [120, 200, 320, 400]
    assert written[0] == (120, [40, 80, 120]), "a copy, not what the list became later"


def test_the_last_copy_is_written_once_when_the_run_is_stopped(clock: Clock) -> None:
    listener, _, written, advance = begun(1000)
    advance(10)
    clock.now += Checkpointer.PAUSE
    advance(10)
    advance(10)
    listener.save_last()
    listener.save_last()
    assert written == [(20, [10, 20])], "the third iteration came within the pause"
    clock.now += Checkpointer.PAUSE
    advance(970)
    listener.save_last()
    assert [steps for steps, _ in written] == [20, 1000]


def test_copies_are_taken_no_more_often_than_their_cost_allows(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    _, part, _, advance = begun(None)
    slow = part.state_dict

    def costs_a_second() -> Mapping[str, Any]:
        clock.now += 1.0
        return slow()

    monkeypatch.setattr(part, "state_dict", costs_a_second)
    clock.now += Checkpointer.PAUSE
    before = part.copies
    for _ in range(100):
        advance(1)
        clock.now += 0.5
    assert part.copies - before == 1 + int(50 / (1 / Checkpointer.SHARE + 0.5)), "a twentieth of the time"


def test_without_an_interval_it_writes_only_when_the_run_is_stopped(clock: Clock) -> None:
    listener, _, written, advance = begun(None, total=100)
    clock.now += 1
    advance(50)
    advance(50)
    assert written == []
    listener.save_last()
    assert [steps for steps, _ in written] == [100]


def test_a_resumed_run_writes_at_the_next_step_of_the_same_grid(clock: Clock) -> None:
    progress, written = TrainingProgress(steps=250), []
    listener = Checkpointer({"part": Counting()}, lambda state, steps: written.append(steps), 100, Profile())
    listener.on_start(progress)
    listener.save_last()
    assert written == [], "it is on disk already"
    for steps in (290, 310, 390, 420):
        progress.steps = steps
        listener.on_iteration(progress)
    assert written == [310, 420]


def test_its_time_is_profiled_separately(clock: Clock) -> None:
    progress, profile = TrainingProgress(), Profile()
    listener = Checkpointer({}, lambda state, steps: setattr(clock, "now", clock.now + 3.0), 10, profile)
    listener.on_start(progress)
    progress.steps = 10
    seconds = vars(profile)
    profile.start = lambda: (clock.now, sum(v for v in seconds.values() if isinstance(v, float)))  # type: ignore[method-assign]
    listener.on_iteration(progress)
    assert profile.checkpointing == pytest.approx(3.0)


def test_the_heartbeat_has_the_progress_of_the_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    heartbeat = Heartbeat(folder)
    heartbeat.on_iteration(TrainingProgress(steps=30, fraction=0.25))
    assert folder.progress == (30, 0.25)

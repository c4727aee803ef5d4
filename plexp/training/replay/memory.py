"""A replay buffer with its log on disk: what an algorithm learns from, and what a resumed run has again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from plexp.training.replay.buffer import ReplayBuffer, ReplaySpec
from plexp.training.replay.log import DamagedLog, ReplayLog
from plexp.training.types import Trajectory


class Replay(Protocol):
    """The way past transitions are kept and drawn (group `replay`)."""

    capacity: int
    """Transitions of all environments together."""

    def make(self, spec: ReplaySpec) -> ReplayBuffer:
        """Return an empty buffer."""
        ...


class ReplayMemory:
    """Replay buffer of a run.

    Args:
        replay: the plugin that makes it.
        spec: what it holds.
    """

    def __init__(self, replay: Replay, spec: ReplaySpec) -> None:
        self.buffer, self.spec = replay.make(spec), spec
        self.log: ReplayLog | None = None
        """Log of what was added; None: the run cannot be resumed."""
        self.positions: list[Mapping[str, int]] = []
        """Positions in the log of the checkpoints that are on disk, as far as this process knows them."""
        self.begin = 0
        """First row of the log that may be removed: until there is a new checkpoint, an older one may need those before."""
        self.copied: Mapping[str, int] | None = None
        """Position in the log of the latest state, which may become a checkpoint; None: there is no state yet."""

    def attach(self, folder: Path) -> None:
        """Log what is added from now on in a folder, from which `load_state_dict` fills the buffer again."""
        self.log = ReplayLog(folder)

    def add(self, trajectory: Trajectory) -> None:
        """Add T steps of the N environments."""
        self.buffer.add(trajectory)
        if self.log is not None and self.log.append(trajectory) and self.copied is not None:
            self.log.trim([*self.positions, self.copied], self.buffer.rows, self.begin)

    def sync(self) -> None:
        """Wait until the log survives a power cut: before a checkpoint that refers to it is written."""
        if self.log is not None:
            self.log.sync()

    def trim(self, state: Mapping[str, Any], kept: int) -> None:
        """Remove what no checkpoint needs, after one with this state was written: only the latest `kept` are on disk."""
        if self.log is not None and self.copied is not None:
            self.positions, self.begin = [*self.positions, state["position"]][-kept:], 0
            self.log.trim([*self.positions, self.copied], self.buffer.rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the buffer's counters, and the end of the log, which has its content."""
        self.copied = None if self.log is None else self.log.position()
        return {"buffer": self.buffer.state_dict(), "position": self.copied}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Fill the buffer from the log. Raises DamagedLog for one that is damaged or missing."""
        if self.log is None or state_dict["position"] is None:
            raise DamagedLog("there is no log of the replay buffer")
        position = state_dict["position"]
        self.log.restore(position, self.buffer)
        self.buffer.load_state_dict(state_dict["buffer"])
        self.positions, self.begin, self.copied = [position], position["segment"], position

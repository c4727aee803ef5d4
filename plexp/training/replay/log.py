"""The log of a replay buffer: what was added to it, so that a resumed run has the same content.

Files `rows-<first row>.log` hold one record after the other, each a head with a CRC-32 and a trajectory's arrays as raw bytes.
The CRC-32 is also of that of the record before, and a checkpoint has the last one, so that the log of another run is not taken
for this one's. A checkpoint has the position in the log, and a resumed run cuts the log there.
"""

from __future__ import annotations

import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from plexp.envs.environment import Array
from plexp.envs.stacking import newest
from plexp.errors import writing
from plexp.files import sync_folder
from plexp.training.replay.buffer import ReplayBuffer
from plexp.training.types import Trajectory

HEAD = struct.Struct("<I4sIQQIIB3x")
"""Head of a record: CRC-32 of the rest, format, CRC-32 of the record before, bytes of the arrays, first row, T, K, whether the
first observations are left out, since they are the last ones of the record before."""
FORMAT = b"RPL1"
SEGMENT_BYTES = 1 << 24
"""Length from which a file is complete."""
WAITING_BYTES = 1 << 20
"""Bytes that wait in memory; a larger number writes less often."""


class DamagedLog(ValueError):
    """A log that lacks what its position promises, with file and record."""


class _Written(NamedTuple):
    """State of a log, replaced as a whole, so that an interrupt finds it consistent."""

    segment: int = 0
    """First row of the file that grows."""
    size: int = 0
    """Bytes of that file that are written."""
    end: int = 0
    """Bytes of that file, with those that wait in memory."""
    records: int = 0
    """Number of records since the run began."""
    rows: int = 0
    """Number of rows since the run began."""
    crc: int = 0
    """CRC-32 of the last record."""
    last: Array | None = None
    """Observations [N, *obs] after the last record; None: the next record has its first observations."""


class ReplayLog:
    """Log of the trajectories that were added to a replay buffer, in files of a folder that is its own or shared.

    Raises StoreError on a full disk, and where the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.written, self.waiting = folder, _Written(), bytearray()
        self.unsynced: set[int] = set()
        """First rows of the files that may not survive a power cut yet."""

    def append(self, trajectory: Trajectory) -> bool:
        """Add a trajectory; it is on the disk after `sync`. The first one of a run removes what an earlier run has left.

        Returns True if a new file begins with it.
        """
        if not len(trajectory.observations):
            return False
        if not self.written.records:
            self.remove()
        if self.written.end >= SEGMENT_BYTES:
            self._write()
            self.written = self.written._replace(segment=self.written.rows, size=0, end=0, last=None)
        old = self.written
        del self.waiting[old.end - old.size :]  # what is written, or of an attempt that was interrupted
        record = _encode(trajectory, old.rows, old.crc, old.last)
        self.waiting += record
        self.written = old._replace(
            end=old.size + len(self.waiting),
            records=old.records + 1,
            rows=old.rows + len(trajectory.observations),
            crc=_crc(record, 0),
            last=newest(trajectory.last_observations.numpy(), trajectory.frames).copy(),
        )
        if self.written.end - old.size >= WAITING_BYTES:
            self._write()
        return not old.end

    def position(self) -> dict[str, int]:
        """Return the end of the log, for a checkpoint that is written after `sync`."""
        now = self.written
        return {"segment": now.segment, "offset": now.end, "records": now.records, "rows": now.rows, "crc": now.crc}

    def sync(self) -> None:
        """Wait until the log survives a power cut."""
        self._write()
        with self._writing():
            for path in [path for row in self.unsynced if (path := self._path(row)).exists()]:
                with path.open("rb") as file:
                    os.fsync(file)
            if self.unsynced:
                sync_folder(self.folder)
        self.unsynced = set()

    def restore(self, position: Mapping[str, int], buffer: ReplayBuffer) -> None:
        """Fill a buffer with what one that never stopped still holds at a position, and cut the log there.

        Raises DamagedLog, and leaves the log as it is and the buffer empty, if any of that is missing or damaged.
        """
        rows, segment = position["rows"], position["segment"]
        needed = self._needed(position, max(0, rows - buffer.rows))
        last, crc = None, None
        buffer.begin_at(needed[0] if needed else 0)
        try:
            for start in needed:
                last, crc = self._read(start, position["offset"] if start == segment else None, crc, buffer)
            if buffer.added != rows:
                raise DamagedLog(f"{self._path(segment).name}: the rows {buffer.added} to {rows} are missing")
            if needed and crc != position["crc"]:
                raise DamagedLog(f"{self._path(segment).name}: it is of another run")
        except DamagedLog:
            buffer.begin_at(0)
            raise
        end, records = position["offset"], position["records"]
        self.written = _Written(segment, end, end, records, rows, position["crc"], last)
        self._cut(position)

    def trim(self, positions: Sequence[Mapping[str, int]], rows: int, begin: int = 0) -> None:
        """Remove the files from the row `begin` on that are needed neither at these positions nor at one that is yet to come.

        `rows` are those of the ring.
        """
        ends = [*(position["rows"] for position in positions), self.written.rows]
        for start, following in pairwise(self._segments()):
            needed = any(start <= end and following > end - rows for end in ends)
            if start >= begin and not needed:
                self._path(start).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all files."""
        with self._writing():
            for start in self._segments():
                self._path(start).unlink(missing_ok=True)
        self.written, self.unsynced = _Written(), set()

    def _path(self, row: int) -> Path:
        return self.folder / f"rows-{row:015d}.log"

    def _segments(self) -> list[int]:
        """Return the first rows of all files, in ascending order."""
        return sorted(
            int(path.stem.removeprefix("rows-")) for path in self.folder.glob("rows-" + "[0-9]" * 15 + ".log")
        )

    def _writing(self) -> Any:
        return writing("outputs", self.folder, "make it one that you can write")

    def _write(self) -> None:
        """Write the waiting records, over whatever a failed attempt has left."""
        old = self.written
        if old.size == old.end:
            return
        path = self._path(old.segment)
        self.unsynced.add(old.segment)
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            with path.open("r+b" if old.size else "wb") as file:
                file.seek(old.size)
                file.write(self.waiting[: old.end - old.size])
        self.written = old._replace(size=old.end)

    def _needed(self, position: Mapping[str, int], row: int) -> list[int]:
        """Return the first rows of the files that have a row and all that follow it, up to a position.

        Raises DamagedLog if the first or the last of them is missing.
        """
        if not position["rows"]:
            return []
        starts = [start for start in self._segments() if start <= position["segment"]]
        if not starts or starts[-1] != position["segment"]:
            raise DamagedLog(f"{self._path(position['segment']).name} is missing")
        if starts[0] > row:
            raise DamagedLog(f"{self._path(starts[0]).name}: the rows {row} to {starts[0]} before record 1 are missing")
        return starts[bisect_right(starts, row) - 1 :]

    def _read(
        self, start: int, end: int | None, crc: int | None, buffer: ReplayBuffer
    ) -> tuple[Array | None, int | None]:
        """Add the records of a file, as far as `end`, to a buffer.

        Returns the observations after them, and the CRC-32 of the last; `crc` is that of the record before, None if it is not
        known.
        """
        name, at, row, layouts = self._path(start).name, 0, buffer.added, _Layouts(buffer)
        records: list[_Record] = []
        try:
            data = memoryview(self._path(start).read_bytes()[:end])
        except OSError as error:
            raise DamagedLog(f"{name} cannot be read ({error.strerror})") from None
        while at < len(data) or (end is not None and at < end):
            try:
                records.append(_decode(data, at, row, crc, not records, layouts))
            except ValueError as error:
                raise DamagedLog(f"{name}: record {len(records) + 1} {error}") from None
            crc, at, row = records[-1].crc, records[-1].end, row + records[-1].steps
        begins = [number for number, record in enumerate(records) if not record.continues]
        for begin, following in pairwise([*begins, len(records)]):  # at once, as a record may be a single step
            buffer.add(_joined(records[begin:following], buffer))
        last = records[-1].arrays["last_observations"] if records else None
        return (None if last is None else newest(last, buffer.frames).copy()), crc

    def _cut(self, position: Mapping[str, int]) -> None:
        """Remove everything behind a position."""
        with self._writing():
            for start in self._segments():
                if start > position["segment"] or not position["rows"]:
                    self._path(start).unlink(missing_ok=True)
            if position["rows"]:
                os.truncate(self._path(position["segment"]), position["offset"])


def _encode(trajectory: Trajectory, row: int, crc: int, last: Array | None) -> bytes:
    """Return a trajectory, whose first row this is, as a record, given CRC-32 of and observations after the record before."""
    arrays = {name: tensor.numpy() for name, tensor in trajectory.given().items() if name != "earlier"}
    continues = last is not None and np.array_equal(last, arrays["observations"][0])
    steps, finals = len(arrays["observations"]), len(arrays["final_index"])
    if continues:
        arrays["observations"] = arrays["observations"][1:]
    body = b"".join(array.tobytes() for array in arrays.values())
    head = HEAD.pack(0, FORMAT, crc, len(body), row, steps, finals, continues)[4:]
    return struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + head + body


def _crc(data: bytes, at: int) -> int:
    """Return the CRC-32 of the record that begins at a byte, as its head has it."""
    return int.from_bytes(data[at : at + 4], "little")


class _Record(NamedTuple):
    """A record that was read."""

    arrays: Array
    """Arrays of its trajectory, by name, as views of the file's bytes."""
    steps: int
    continues: bool
    """The first observations are left out: they are the last ones of the record before."""
    crc: int
    end: int
    """Byte behind it."""


class _Layouts(dict[tuple[int, int, int], "np.dtype[Any]"]):
    """Types of records' arrays, in the order of the fields of Trajectory, by T, K and whether it continues."""

    def __init__(self, buffer: ReplayBuffer) -> None:
        super().__init__()
        self.buffer = buffer

    def __missing__(self, key: tuple[int, int, int]) -> np.dtype[Any]:
        (steps, finals, continues), buffer, action = key, self.buffer, self.buffer.actions
        envs = buffer.num_envs
        self[key] = np.dtype(
            [
                ("observations", buffer.dtype, (steps - continues, envs, *buffer.observations.shape[1:])),
                ("actions", action.dtype, (steps, envs, *action.shape[1:])),
                ("rewards", np.float32, (steps, envs)),
                ("terminated", np.bool_, (steps, envs)),
                ("truncated", np.bool_, (steps, envs)),
                ("valid", np.bool_, (steps, envs)),
                ("last_observations", buffer.dtype, (envs, *buffer.shape)),
                ("final_observations", buffer.dtype, (finals, *buffer.shape)),
                ("final_index", np.int64, (finals,)),
                *([("states", np.float32, (steps, envs, states))] if (states := buffer.states.shape[1]) else []),
            ]
        )
        return self[key]


def _decode(data: memoryview, at: int, row: int, before: int | None, is_first: bool, layouts: _Layouts) -> _Record:
    """Return the record that begins at a byte. Raises ValueError, with what is wrong.

    Args:
        data: bytes of a file.
        at: where the record begins.
        row: first row that it must have.
        before: CRC-32 of the record before; None: it is not known.
        is_first: it is the first one of the file, which has its first observations.
        layouts: types of its arrays.
    """
    begin = at + HEAD.size
    if begin > len(data):
        raise ValueError("is cut short")
    crc, kind, previous, length, first, steps, finals, continues = HEAD.unpack_from(data, at)
    if begin + length > len(data):
        raise ValueError("is cut short, or its head is damaged")
    if zlib.crc32(data[at + 4 : begin + length]) != crc:
        raise ValueError("is damaged: its CRC-32 is of other bytes")
    if kind != FORMAT or first != row or (continues and is_first):
        raise ValueError(f"begins at row {first}, and row {row} is missing")
    if before is not None and previous != before:
        raise ValueError("does not follow the record before it: it is of another run")
    layout = layouts[steps, finals, continues]
    if length != layout.itemsize:
        raise ValueError("is of observations or actions of another shape or type")
    arrays = np.frombuffer(data, layout, 1, begin)[0]
    return _Record(arrays, steps, bool(continues), crc, begin + length)


def _joined(records: Sequence[_Record], buffer: ReplayBuffer) -> Trajectory:
    """Return the trajectory of records of which each but the first continues the one before."""
    arrays = [record.arrays for record in records]
    observations, offset, index = [arrays[0]["observations"]], 0, []
    for before, record in pairwise(records):
        last = newest(before.arrays["last_observations"], buffer.frames)
        observations += [last[None], record.arrays["observations"]]
    for record in records:
        index.append(record.arrays["final_index"] + offset)
        offset += record.steps * buffer.num_envs
    names = ("actions", "rewards", "terminated", "truncated", "valid", "final_observations", "states")
    columns = {
        name: np.concatenate([each[name] for each in arrays]) for name in names if name in (arrays[0].dtype.names or ())
    }
    columns |= {"observations": np.concatenate(observations), "final_index": np.concatenate(index)}
    columns["last_observations"] = arrays[-1]["last_observations"].copy()
    return Trajectory(**{name: torch.from_numpy(array) for name, array in columns.items()})

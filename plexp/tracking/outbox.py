"""Operations on the store, kept on disk until the store has done them. It knows no store."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

Operation: TypeAlias = dict[str, Any]
"""`op` says which: metrics (points), tags, text, file, model, end; the rest are its arguments, as JSON."""


class Outbox:
    """Operations on one run's record, first in, first out: a file of JSON lines that survives the process.

    A process killed while it delivers leaves operations that were done already: they are done again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "operations.jsonl"
        self._lock = threading.Lock()
        self._waiting = deque(_read(self.path))

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, operation: Operation) -> None:
        """Add an operation. Raises OSError, and leaves the file intact, if the disk is full."""
        line = (json.dumps(operation, separators=(",", ":")) + "\n").encode()
        with self._lock:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                try:
                    if file.write(line) != len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                except BaseException:
                    file.truncate(size)
                    raise
            self._waiting.append(operation)

    def place_for(self, name: str) -> Path:
        """Return a place for a file, alone in its folder, for an operation that names it as `path`."""
        with self._lock:  # or the folder may go, as empty, in between
            self.folder.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix="file-", dir=self.folder)) / name

    def withdraw(self, place: Path) -> None:
        """Give back a place that `place_for` gave."""
        shutil.rmtree(place.parent, ignore_errors=True)

    def sync(self) -> None:
        """Return when what was put here survives a power cut."""
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            os.fsync(file)

    def waiting(self, points: int) -> list[Operation]:
        """Return the first operations: metrics of about this many points together, or one operation of another kind."""
        with self._lock:
            first: list[Operation] = []
            for operation in self._waiting:
                if first and operation["op"] != "metrics":
                    break
                first.append(operation)
                points -= len(operation.get("points", ()))
                if operation["op"] != "metrics" or points <= 0:
                    break
            return first

    def done(self, number: int) -> None:
        """Forget the first `number` operations and their files, which are done."""
        with self._lock:
            for _ in range(number):
                operation = self._waiting.popleft()
                if path := operation.get("path"):
                    shutil.rmtree((self.folder / path).parent, ignore_errors=True)
            if not self._waiting:
                self.path.unlink(missing_ok=True)
                with suppress(OSError):  # there may be what was refused
                    self.folder.rmdir()

    def refuse(self, operation: Operation) -> None:
        """Keep apart what the store will never take, with its file."""
        if (place := self.folder / str(operation.get("path", ""))).is_file() or operation["op"] == "model":
            kept = self.folder / "refused" / place.parent.name
            kept.parent.mkdir(exist_ok=True)
            place.parent.rename(kept)
            operation = {**operation, "path": str((kept / place.name).relative_to(self.folder))}
        with (self.folder / "refused.jsonl").open("a") as file:
            file.write(json.dumps(operation) + "\n")


def _read(path: Path) -> list[Operation]:
    """Return the operations of a file, and cut off a last line that a power cut has left unfinished."""
    if not path.exists():
        return []
    data, found = path.read_bytes(), []
    if len(whole := data[: data.rfind(b"\n") + 1]) < len(data):
        os.truncate(path, len(whole))
    for line in whole.splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found

"""What is known of a run outside MLflow: its record, whether it is alive, and what it needs to be taken up again.

`<outputs>/state/<identity>[-n]/` holds `run.json`, a lock that its process holds while it lives, a heartbeat, the checkpoints
and what waits for the store. Importing this needs neither torch nor mlflow.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Any, Literal

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
"""A run of another host whose heart has not beaten for so long is dead; a larger one waits longer before it is resumed."""
RESERVE = 8 << 20
"""Bytes set aside, to be given back when the disk is full, so that the end can still be recorded."""

_locks: set[IO[str]] = set()


def state_folder(outputs: str | Path) -> Path:
    """Where the state of all runs of an outputs folder is."""
    return Path(outputs).absolute() / "state"


@dataclass(frozen=True)
class Record:
    """run.json."""

    identity: str
    status: Status = "RUNNING"
    name: str = ""
    run_id: str | None = None
    """MLflow's; None until there is one."""
    store: str | None = None
    """tracker.uri without credentials; None: the file in the same outputs folder."""
    host: str = ""
    pid: int = 0
    started: float = 0.0
    """Seconds since 1970, of the last start."""
    overrides: list[str] = field(default_factory=list)
    """As given on the command line, without credentials."""
    sweeps: dict[str, int] = field(default_factory=dict)
    """The sweeps that it belongs to, and its number there."""
    error: list[str] = field(default_factory=list)
    """Of a run that failed."""
    outcome: dict[str, Any] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """Of a run that finished; the last values."""
    pruned: str = ""  # at which step, and why, its search gave it up


class RunFolder:
    """The folder of one run. What writes holds its lock; reading needs none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None
        self._stop = threading.Event()
        self.progress = (0, 0.0)
        """(environment steps, share of the budget): goes with the heartbeat."""
        self.is_settled = True
        """False: MLflow does not know its end; then the heartbeat stays, and a later command settles it."""

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def outbox(self) -> Path:
        return self.path / "outbox"

    def record(self) -> Record | None:
        """None where there is none that can be read."""
        try:
            found = json.loads((self.path / "run.json").read_text())
            return Record(**{each.name: found[each.name] for each in fields(Record) if each.name in found})
        except (OSError, ValueError, TypeError):
            return None

    def write(self, record: Record) -> None:
        """Replace the record as a whole."""
        draft = self.path / f"run.json.{os.getpid()}"
        try:
            with draft.open("w") as file:
                json.dump(asdict(record), file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path / "run.json")
        finally:
            draft.unlink(missing_ok=True)

    def change(self, **changes: Any) -> Record:
        """Write the record with these changes."""
        record = replace(self.record() or Record(self.path.name.partition("-")[0]), **changes)
        self.write(record)
        return record

    def acquire(self) -> bool:
        """Take the lock; False if another process has it."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = (self.path / "lock").open("a")
        for _ in range(10):  # who asks whether it is alive holds it for a moment
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)
            else:
                self._lock = lock
                _locks.add(lock)
                return True
        lock.close()
        return False

    def begin(self, **changes: Any) -> Record:
        """Record that this process runs it now, and let the heart beat. The lock must be held."""
        with suppress(OSError), (self.path / "reserve").open("wb") as reserve:
            reserve.write(bytes(RESERVE))
        mine = {"host": platform.node(), "pid": os.getpid(), "started": time.time(), "status": "RUNNING"}
        record = self.change(**mine, error=[], outcome=None, **changes)
        self.is_settled = False
        self._stop.clear()
        self._beat()
        threading.Thread(target=self._beat_on, name="heartbeat", daemon=True).start()
        return record

    def release(self) -> None:
        """Give the lock back, and stop the heart."""
        self._stop.set()
        if self._lock is not None:
            if self.is_settled:
                (self.path / "heartbeat").unlink(missing_ok=True)
            self.spend_reserve()
            _locks.discard(self._lock)
            self._lock.close()
            self._lock = None

    def spend_reserve(self) -> None:
        """Make room on a full disk for what must still be written."""
        (self.path / "reserve").unlink(missing_ok=True)

    def checkpoint_steps(self) -> int | None:
        """Environment steps of the newest checkpoint; None: there is none."""
        names = [path.name.split("-")[1] for path in self.checkpoints.glob("step-*-*.safetensors")]
        return max(map(int, names), default=None)

    def heartbeat(self) -> tuple[float, int, float]:
        """Seconds since 1970 of the last one, environment steps and share of the budget by then; zeros if there is none."""
        try:
            file = self.path / "heartbeat"
            steps, share = json.loads(file.read_text())
            return file.stat().st_mtime, int(steps), float(share)
        except (OSError, ValueError, TypeError):
            return 0.0, 0, 0.0

    def alive(self) -> bool:
        """Whether a process runs it: one holds its lock, or (where locks don't reach) another host's heart beats."""
        if self._lock is not None:
            return True
        if not (self.path / "lock").exists():
            return False
        try:
            with (self.path / "lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            pass
        record = self.record()
        elsewhere = record is not None and record.status == "RUNNING" and record.host != platform.node()
        return elsewhere and time.time() - self.heartbeat()[0] < STALE_SECONDS

    def _beat(self) -> None:
        with suppress(OSError):  # on a full disk; whoever asks looks at the lock first
            (self.path / "heartbeat").write_text(json.dumps(self.progress))

    def _beat_on(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            self._beat()
            if self._stop.is_set() and self.is_settled:
                (self.path / "heartbeat").unlink(missing_ok=True)


@contextmanager
def held(folder: RunFolder) -> Iterator[bool]:
    """The folder's lock, if nobody has it."""
    if folder.alive() or not folder.acquire():
        yield False
        return
    try:
        yield True
    finally:
        folder.release()


def attempts(root: Path, identity: str) -> list[RunFolder]:
    """The folders of all attempts at a run, the newest last."""
    found = [path for path in root.glob(f"{identity}*") if path.name.partition("-")[0] == identity]
    return [RunFolder(path) for path in sorted(found, key=lambda path: int(path.name.partition("-")[2] or 1))]


def next_attempt(root: Path, identity: str) -> RunFolder:
    """A folder that nobody has used."""
    number = len(attempts(root, identity)) + 1
    while True:
        path = root / (identity if number == 1 else f"{identity}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return RunFolder(path)


def crashed_runs(root: Path) -> list[RunFolder]:
    """Runs that ended without a word: their heart had begun to beat, and nobody holds their lock."""
    return [folder for file in sorted(root.glob("*/heartbeat")) if not (folder := RunFolder(file.parent)).alive()]


def unsettled_runs(root: Path) -> list[tuple[RunFolder, Record]]:
    """Runs that nobody is at, and that are dead or have something waiting for their store."""
    waiting = [RunFolder(file.parents[1]) for file in sorted(root.glob("*/outbox/operations.jsonl"))]
    found = {each.path: each for each in [*crashed_runs(root), *(each for each in waiting if not each.alive())]}
    return [(folder, record) for folder in found.values() if (record := folder.record())]


def list_runs(root: Path) -> list[tuple[RunFolder, Record]]:
    """All runs of a state folder that have a record, in the order of their last start."""
    folders = [RunFolder(file.parent) for file in root.glob("*/run.json")]
    known = [(folder, record) for folder in folders if (record := folder.record())]
    return sorted(known, key=lambda pair: pair[1].started)


def _close_in_child() -> None:
    """An environment's process must not keep the lock of the run that started it."""
    while _locks:
        _locks.pop().close()


os.register_at_fork(after_in_child=_close_in_child)

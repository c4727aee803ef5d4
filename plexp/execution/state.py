"""The state of runs on disk: their records, whether they are alive, and what they need to be resumed.

`<outputs>/state/<identity>[-n]/` has `run.json`, a lock that the run's process holds while it lives, a heartbeat, the
checkpoints, and the outbox for the store. Importing this needs neither torch nor MLflow.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from plexp.files import is_locked, is_permitted, try_lock, write_whole

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
HEARTBEAT_SECONDS = 5.0
"""Seconds between two heartbeats of a run."""
STALE_SECONDS = 60.0
"""Seconds without a heartbeat after which a run of another host counts as dead; more delay its resuming."""
LOCK_SECONDS = 0.2
"""Seconds to wait for a lock, which a probe may have for a moment."""
RESERVE_BYTES = 8 << 20
"""Bytes set aside, to be given back when the disk is full, so that the end can still be recorded."""


def state_folder(outputs: str | Path) -> Path:
    """Return the folder with the state of all runs of an outputs folder."""
    return Path(outputs).absolute() / "state"


@dataclass(frozen=True)
class Record:
    """The content of `run.json`."""

    identity: str
    """Identity of the configuration; see plexp/config/identity.py."""
    status: Status = "RUNNING"
    name: str = ""
    run_id: str | None = None
    """Id of the MLflow run; None until there is one."""
    store: str | None = None
    """`tracker.uri` without credentials; None: the file in the same outputs folder."""
    host: str = ""
    pid: int = 0
    started: float = 0.0
    """Time of the last start, in seconds since 1970."""
    overrides: list[str] = field(default_factory=list)
    """Overrides as they were typed, without credentials."""
    sweeps: dict[str, int] = field(default_factory=dict)
    """Sweeps that it belongs to, each with its number there."""
    error: list[str] = field(default_factory=list)
    """Lines that say why it failed."""
    outcome: dict[str, Any] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """Last value of each metric of a run that finished."""
    pruned: str = ""
    """Step at which its search pruned it, and why."""


class RunFolder:
    """The folder of one run. Writing needs its lock, reading does not.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: FileLock | None = None
        self._stop = threading.Event()
        self.progress = (0, 0.0)
        """Environment steps and share of the budget so far, which each heartbeat records."""
        self.is_settled = True
        """False while MLflow does not know the run's end; the heartbeat stays then, and a later command settles it."""

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def replay(self) -> Path:
        """Folder of the log of a replay buffer."""
        return self.path / "replay"

    @property
    def episodes(self) -> Path:
        """File with the actions of the training episodes so far."""
        return self.path / "episodes"

    @property
    def outbox(self) -> Path:
        return self.path / "outbox"

    def remove_progress(self) -> None:
        """Remove what only a resumed run needs: of one that has come to its end."""
        for folder in (self.checkpoints, self.replay):
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            self.episodes.unlink(missing_ok=True)

    def record(self) -> Record | None:
        """Return the record; None if there is none that can be read."""
        try:
            content = json.loads((self.path / "run.json").read_text())
            return Record(**{field.name: content[field.name] for field in fields(Record) if field.name in content})
        except (OSError, ValueError, TypeError):
            return None

    def write(self, record: Record) -> None:
        """Replace the record as a whole."""
        write_whole(self.path / "run.json", json.dumps(asdict(record), indent=1))

    def change(self, **changes: Any) -> Record:
        """Write the record with these changes."""
        record = replace(self.record() or Record(self.path.name.partition("-")[0]), **changes)
        self.write(record)
        return record

    def acquire(self) -> bool:
        """Take the lock, and return True; False if another process has it."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = try_lock(self.path / "lock", LOCK_SECONDS)
        return self._lock is not None

    def begin(self, **changes: Any) -> Record:
        """Record that this process runs it now, and start the heartbeat. The lock must be held.

        Raises OSError, and changes nothing, if the disk has no space for the reserve.
        """
        self.is_settled = False
        with (self.path / "reserve").open("wb") as reserve:
            reserve.write(bytes(RESERVE_BYTES))
        process = {"host": platform.node(), "pid": os.getpid(), "started": time.time(), "status": "RUNNING"}
        record = self.change(**process, error=[], outcome=None, **changes)
        self._stop.clear()
        self._beat()
        threading.Thread(target=self._beat_on, name="heartbeat", daemon=True).start()
        return record

    def release(self) -> None:
        """Give the lock back, and stop the heartbeat."""
        self._stop.set()
        if self._lock is not None:
            if self.is_settled:
                (self.path / "heartbeat").unlink(missing_ok=True)
            self.spend_reserve()
            self._lock.release()
            self._lock = None

    def spend_reserve(self) -> None:
        """Make room on a full disk for what must still be written."""
        (self.path / "reserve").unlink(missing_ok=True)

    def checkpoint_steps(self) -> int | None:
        """Return the environment steps of the newest checkpoint; None if there is none."""
        names = [path.name.split("-")[1] for path in self.checkpoints.glob("step-*-*.safetensors")]
        return max(map(int, names), default=None)

    def heartbeat(self) -> tuple[float, int, float]:
        """Return time (seconds since 1970), environment steps and share of the budget of the last heartbeat, or zeros."""
        try:
            file = self.path / "heartbeat"
            steps, share = json.loads(file.read_text())
            return file.stat().st_mtime, int(steps), float(share)
        except (OSError, ValueError, TypeError):
            return 0.0, 0, 0.0

    def alive(self) -> bool:
        """Return True if a process runs it.

        A process of this host has its lock; one of another host, whose locks may not be seen here, has a recent heartbeat.
        """
        if self._lock is not None or is_locked(self.path / "lock"):
            return True
        record = self.record()
        is_elsewhere = record is not None and record.status == "RUNNING" and record.host != platform.node()
        return is_elsewhere and time.time() - self.heartbeat()[0] < STALE_SECONDS

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
    """Hold a folder's lock in the context, and yield True; False if another process has it."""
    if folder.alive() or not folder.acquire():
        yield False
        return
    try:
        yield True
    finally:
        folder.release()


def attempts(root: Path, identity: str) -> list[RunFolder]:
    """Return the folders of all attempts at a run, the newest last."""
    paths = [path for path in root.glob(f"{identity}*") if path.name.partition("-")[0] == identity]
    return [RunFolder(path) for path in sorted(paths, key=lambda path: int(path.name.partition("-")[2] or 1))]


def next_attempt(root: Path, identity: str) -> RunFolder:
    """Make a new folder for a run, and return it."""
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
    """Return runs that were killed: they have a heartbeat, and no process holds their lock."""
    return [folder for file in sorted(root.glob("*/heartbeat")) if not (folder := RunFolder(file.parent)).alive()]


def unsettled_runs(root: Path) -> list[tuple[RunFolder, Record]]:
    """Return runs that no process runs, and that were killed or have something waiting for their store."""
    if not is_permitted(root, os.R_OK):  # that of another user, or there is none
        return []
    waiting = [RunFolder(file.parents[1]) for file in sorted(root.glob("*/outbox/operations.jsonl"))]
    dead = [*crashed_runs(root), *(folder for folder in waiting if not folder.alive())]
    by_path = {folder.path: folder for folder in dead}
    return [(folder, record) for folder in by_path.values() if (record := folder.record())]


def list_runs(root: Path) -> list[tuple[RunFolder, Record]]:
    """Return all runs of a state folder that have a record, in the order of their last start."""
    folders = [RunFolder(file.parent) for file in root.glob("*/run.json")]
    runs = [(folder, record) for folder in folders if (record := folder.record())]
    return sorted(runs, key=lambda pair: pair[1].started)

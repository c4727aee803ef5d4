"""Files that several processes share: locks, and writes that are whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

POLL_SECONDS = 0.02
"""Seconds between two attempts at a lock that another process has."""
PROBE_SECONDS = 0.06
"""Seconds that a probe waits for a lock on Windows; a larger value mistakes fewer probes for owners, and takes longer."""

PROBE_BYTES = 1 << 16
"""Bytes without which a disk counts as full before something is begun."""


def lock_file(path: Path) -> FileLock:
    """Return the lock of a file, as a context manager that waits until no other process has it.

    The operating system gives the lock back when its process ends, in whatever way; a process that was forked from the
    owner doesn't have it. The file stays.
    """
    return FileLock(path, poll_interval=POLL_SECONDS, thread_local=False)


def try_lock(path: Path, seconds: float = 0.0) -> FileLock | None:
    """Take the lock of a file; None if another process still has it after these seconds."""
    lock = lock_file(path)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return None
    return lock


def is_locked(path: Path) -> bool:
    """Return True if a process has the lock of a file; False if the file is missing or cannot be locked.

    Probes share the lock, so that none takes another for an owner; on Windows, which lacks such locks, they wait a moment.
    """
    try:
        import fcntl
    except ImportError:
        return _is_locked_exclusively(path)
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _is_locked_exclusively(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        lock = try_lock(path, PROBE_SECONDS)
    except OSError:
        return False
    if lock is None:
        return True
    lock.release()
    return False


def unused(path: Path) -> Path:
    """Return a path, or the first of path-2, path-3, … that does not exist."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def new_folder(path: Path) -> Path:
    """Make a folder that no other process has made: at `path`, or at path-2, path-3, … where there is one, and return it.

    Raises OSError if none can be made.
    """
    while True:
        try:
            (free := unused(path)).mkdir(parents=True)
        except FileExistsError:  # another process was faster
            continue
        return free


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """Yield a path beside a file, to be written: it replaces the file at the end, or goes if the block raises."""
    draft = path.with_name(f"draft-{os.getpid()}-{path.name}")
    try:
        yield draft
        draft.replace(path)
    finally:
        with suppress(OSError):  # in a folder that cannot be written there is none
            draft.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, or replace it, so that a reader and a power cut find the old content or the new, never a part.

    Raises OSError, and leaves the old file as it is, if it cannot be written.
    """
    with draft_of(path) as draft, draft.open("wb") as file:  # which is closed before it replaces the other
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def is_permitted(path: Path, mode: int) -> bool:
    """Return True if this user may do something with a file or folder: os.R_OK, os.W_OK, os.X_OK."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def has_space(folder: Path) -> bool:
    """Return True if the disk of a folder has some space left."""
    return shutil.disk_usage(folder).free >= PROBE_BYTES


def try_writing(folder: Path) -> None:
    """Write a file in a folder, which is made if it does not exist, and remove it. Raises OSError if that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(PROBE_BYTES))


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder survive a power cut, where the operating system can tell."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

"""Files that several processes share: locks, and writes that are whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

POLL_SECONDS = 0.02
"""Seconds between two attempts at a lock that another process has."""
PROBE_SECONDS = 0.06
"""Seconds that a probe waits for a lock on Windows; a larger value mistakes fewer probes for owners, and takes longer."""


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


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, or replace it, so that a reader and a power cut find the old content or the new, never a part.

    Raises OSError, and leaves the old file as it is, if it cannot be written.
    """
    draft = path.with_name(f"draft-{os.getpid()}-{path.name}")
    try:
        with draft.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder survive a power cut, where the operating system can tell."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

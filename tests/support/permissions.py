"""Files that cannot be written, also for root, which most test runs in containers are, and a disk that is full."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

VERSION, OVERRIDES = 0x20080522, (1 << 1) | (1 << 2)
"""Version 3 of Linux's capabilities, and those to write and to read what the permissions forbid."""


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nothing in a folder be written in the block, by root neither."""
    paths = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths if not path.is_symlink()}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        with unprivileged():
            yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Apply the permissions of files to root too, in this thread and those that it starts."""
    if os.name != "posix" or os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root writes everywhere")
    before = _capabilities()
    _set((before[0] & ~OVERRIDES, *before[1:]))
    try:
        yield
    finally:
        _set(before)


def _capabilities() -> tuple[int, ...]:
    """Return the effective, permitted and inheritable capabilities of this thread, each in two words."""
    values = (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capget((ctypes.c_uint32 * 2)(VERSION, 0), values) == 0
    return tuple(values)


def _set(values: tuple[int, ...]) -> None:
    assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(VERSION, 0), (ctypes.c_uint32 * 6)(*values)) == 0


def full(*_: Any, **__: Any) -> Any:
    """Raise what a full disk raises, in the place of a function that writes."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

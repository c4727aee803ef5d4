"""SQLite stores that this user may read, but not write: how they are opened, and what is said where that is impossible."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from plexp.errors import Problem
from plexp.files import has_space, is_permitted

ASK = "ask its owner for permission"
COPY = "ask its owner for write permission, or copy the folder and give the copy: python -m plexp repair --outputs COPY"
"""Remedy for a store of another user; `repair` makes the runs of the copy find their files there."""


def database_of(uri: str) -> Path | None:
    """Return the file of a sqlite store; None for another store."""
    from sqlalchemy import make_url

    return Path(make_url(uri).database or "").absolute() if uri.startswith("sqlite") else None


def can_write(file: Path) -> bool:
    """Return True if this user may write a database: its file, and its folder, where SQLite keeps its log."""
    return is_permitted(file, os.W_OK) and is_permitted(file.parent, os.W_OK)


def can_open(file: Path) -> bool:
    """Return True if SQLite can open a database to write it: with permission, and space for its log."""
    return can_write(file) and has_space(file.parent)


def can_read(path: Path) -> bool:
    """Return True if this user may read a file or folder, or see that there is none."""
    if os.path.exists(path):
        return is_permitted(path, os.R_OK)
    return next((is_permitted(folder, os.X_OK) for folder in path.parents if os.path.isdir(folder)), True)


def reading_options(file: Path) -> dict[str, str]:
    """Return the options of SQLite's URI that open a database for reading alone.

    SQLite creates files next to a database even when it only reads. If it may not, and no process has the database open,
    `immutable` tells it that the file does not change.
    """
    log = Path(f"{file}-wal")
    has_log = log.exists() and (log.stat().st_size > 0 or Path(f"{file}-shm").exists())
    return {"mode": "ro"} if has_log or can_open(file) else {"mode": "ro", "immutable": "1"}


def reading_uri(uri: str) -> str:
    """Return the URI by which MLflow's client only reads a database file that exists."""
    from sqlalchemy import make_url

    url = make_url(uri)
    file = Path(url.database or "").absolute()
    options = {**url.query, **reading_options(file), "uri": "true"}
    return str(url.set(drivername="sqlite+pysqlite", database=f"file:{quote(str(file))}", query=options))


def problem_of_reading(key: str, place: object, file: Path) -> Problem | None:
    """Return why this user cannot read a database; None if the permissions are no reason."""
    if not can_read(file):
        return Problem(key, place, "it cannot be read by this user (Permission denied)", ASK)
    if "immutable" not in reading_options(file) and not can_write(file):
        cause = f"a run has left {file.name}-wal, or is writing it, and it cannot be read by a user who may not write"
        return Problem(key, place, cause, COPY)
    return None

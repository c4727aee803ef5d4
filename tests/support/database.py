"""Copies of MLflow's empty tables, instead of its migrations: 0.07 s of CPU time instead of 0.9, in this process."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

_originals: list[Any] = []


def copy_tables() -> None:
    """Patch MLflow to copy its tables into each new SQLite database; only the first database is still migrated."""
    from mlflow.store.db import utils

    if _originals:
        return
    initialize = utils._initialize_tables  # of MLflow 3.17
    _originals.append(initialize)
    tables: list[bytes] = []

    def initialize_or_copy(engine: Any) -> None:
        file = Path(engine.url.database or "") if engine.url.get_backend_name() == "sqlite" else None
        if file is None or not file.is_file() or file.stat().st_size:
            initialize(engine)
        elif not tables:
            initialize(engine)
            with closing(sqlite3.connect(file)) as connection:
                tables.append(connection.serialize())
        else:
            with closing(sqlite3.connect(file)) as connection, closing(sqlite3.connect(":memory:")) as empty:
                empty.deserialize(tables[0])
                empty.backup(connection)

    utils._initialize_tables = initialize_or_copy


def migrate_for_real() -> None:
    """Undo `copy_tables`: MLflow migrates every new database again, as it does outside the tests."""
    from mlflow.store.db import utils

    utils._initialize_tables = _originals[0] if _originals else utils._initialize_tables

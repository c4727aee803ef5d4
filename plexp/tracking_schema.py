"""Of which MLflow a store's tables are, where they are not of this one."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import mlflow


def other_schema(error: Exception, file: Path | None, uri: str) -> tuple[str, str] | None:
    """Cause and remedy where MLflow refused a database for its tables; None for any other error.

    `file`: of a sqlite store, whose newest run says which MLflow wrote it; `uri`: as it may be shown.
    """
    found = re.search(r"database schema \(found version (\w+), but expected", str(error))
    if found is None:
        return None
    known = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    if any(known.glob(f"{found[1]}_*.py")):
        remedy = f"keep a copy of it, then: mlflow db upgrade {uri}"
        return f"its tables are of an MLflow older than {mlflow.__version__}", remedy
    wrote = _written_by(file) if file is not None else ""
    newest = f" (its newest run is by MLflow {wrote})" if wrote else ""
    return f"its tables are of an MLflow newer than the {mlflow.__version__} here{newest}", "pip install -U plexp"


def _written_by(file: Path) -> str:
    """The MLflow of the newest run; empty if it is not known."""
    query = """SELECT value FROM tags JOIN runs USING (run_uuid) WHERE key = 'version.mlflow'
        ORDER BY start_time DESC LIMIT 1"""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as store:
        row = store.execute(query).fetchone()
        return str(row[0]) if row else ""
    return ""

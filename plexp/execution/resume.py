"""Decides whether a command is a new run, resumes an earlier one, or is finished already.

Importing this needs neither torch nor MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plexp.config.identity import identity
from plexp.errors import ConfigError, Problem
from plexp.execution.state import Record, RunFolder, attempts, next_attempt, state_folder
from plexp.tracking.format import masked


def finished(values: Mapping[str, Any], sweep: str) -> tuple[RunFolder, Record] | None:
    """Return the finished run of a configuration, with its record; None if there is none in this store.

    With `rerun=true` only a run of the same sweep counts.
    """
    folder = _latest(values)
    record = folder.record() if folder else None
    if folder is None or record is None or record.status != "FINISHED" or record.outcome is None:
        return None
    is_repeated = values.get("rerun") is not False and sweep not in record.sweeps
    return None if is_repeated else (folder, record)


def claim(values: Mapping[str, Any]) -> RunFolder:
    """Return the folder of a configuration's run with its lock acquired: of an interrupted or failed run, or a new one.

    Raises ConfigError if another process is running it.
    """
    folder = _latest(values)
    record = folder.record() if folder else None
    is_over = record is not None and (record.status == "FINISHED" or bool(record.pruned))
    if folder is None or is_over or values["resume"] == "never":
        folder = next_attempt(state_folder(values["outputs"]), identity(values))
    if folder.alive() or not folder.acquire():
        raise _running(folder)
    return folder


def store_of(values: Mapping[str, Any]) -> str | None:
    """Return `tracker.uri` without credentials; None: the file in the outputs folder."""
    uri = values["tracker"]["uri"]
    return None if uri is None else masked(str(uri))


def _latest(values: Mapping[str, Any]) -> RunFolder | None:
    """Return the folder of the newest attempt in the store of this configuration; None if there is none."""
    for folder in reversed(attempts(state_folder(values["outputs"]), identity(values))):
        record = folder.record()
        if record is None or record.store == store_of(values):
            return folder
    return None


def _running(folder: RunFolder) -> ConfigError:
    record = folder.record()
    process = f"process {record.pid} on {record.host}" if record else "another process"
    cause = f"{process} is running this configuration"
    return ConfigError(Problem("resume", "auto", cause, "wait for it, or give resume=never for a second run"))

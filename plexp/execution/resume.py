"""Whether a command is a new run, one to be taken up again, or one that is finished. Needs neither torch nor mlflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plexp.config.identity import identity
from plexp.errors import ConfigError, Problem
from plexp.execution.state import Record, RunFolder, attempts, next_attempt, state_folder
from plexp.tracking.format import masked


def finished(values: Mapping[str, Any], sweep: str) -> tuple[RunFolder, Record] | None:
    """The finished run of this configuration in this store, unless it is to be done again.

    With `rerun=true` only one counts that this very sweep has done.
    """
    folder = _latest(values)
    record = folder.record() if folder else None
    if folder is None or record is None or record.status != "FINISHED" or record.outcome is None:
        return None
    again = values.get("rerun") is not False and sweep not in record.sweeps
    return None if again else (folder, record)


def claim(values: Mapping[str, Any]) -> RunFolder:
    """The folder of the run that this is, its lock taken: that of an interrupted or failed one, or a new one.

    Raises ConfigError if another process runs it now.
    """
    folder = _latest(values)
    record = folder.record() if folder else None
    over = record is not None and (record.status == "FINISHED" or bool(record.pruned))
    if folder is None or over or values["resume"] == "never":
        folder = next_attempt(state_folder(values["outputs"]), identity(values))
    if folder.alive() or not folder.acquire():
        raise _running(folder)
    return folder


def store_of(values: Mapping[str, Any]) -> str | None:
    """`tracker.uri` as it may be written down; None: the file in the outputs folder."""
    uri = values["tracker"]["uri"]
    return None if uri is None else masked(str(uri))


def _latest(values: Mapping[str, Any]) -> RunFolder | None:
    """The newest attempt whose run is kept in the store that is asked for."""
    for folder in reversed(attempts(state_folder(values["outputs"]), identity(values))):
        record = folder.record()
        if record is None or record.store == store_of(values):
            return folder
    return None


def _running(folder: RunFolder) -> ConfigError:
    record = folder.record()
    who = f"process {record.pid} on {record.host}" if record else "another process"
    cause = f"{who} runs this very configuration now"
    return ConfigError(Problem("resume", "auto", cause, "wait for it, or give resume=never for a run beside it"))

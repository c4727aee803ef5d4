"""Decides whether a command is a new run, resumes an earlier one, or is finished already.

Importing this needs neither torch nor MLflow.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from plexp.config.identity import identity
from plexp.errors import ConfigError, Problem, writing
from plexp.execution.state import Record, RunFolder, attempts, next_attempt, state_folder
from plexp.files import lock_file
from plexp.tracking.format import masked

log = logging.getLogger("plexp")

GIVE = "give a folder that you can write: outputs=FOLDER"
"""Remedy for an outputs folder that a training cannot write."""


class AlreadyFinished(Exception):
    """Raised where another process has finished the run of a sweep's job a moment ago."""

    def __init__(self, folder: RunFolder, record: Record) -> None:
        super().__init__(record.name)
        self.folder, self.record = folder, record


def finished(values: Mapping[str, Any], sweep: str) -> tuple[RunFolder, Record] | None:
    """Return the finished run of a configuration, with its record; None if there is none in this store.

    A run that was deleted there, or has lost its files, does not count. With `rerun=true` only a run of the same sweep
    counts.
    """
    return _finished(values, sweep)[0]


def _finished(values: Mapping[str, Any], sweep: str) -> tuple[tuple[RunFolder, Record] | None, list[str]]:
    """Return the finished run, and what happened to newer ones."""
    gone: list[str] = []
    for folder in _attempts(values):
        record = folder.record()
        if record is None:
            break
        reason = lost([(folder, record)], values["tracker"]["uri"]).get(str(record.run_id))
        if record.status != "FINISHED" or record.outcome is None:
            if reason:  # it has no run that could be resumed
                continue
            break
        if values.get("rerun") is not False and sweep not in record.sweeps:
            break
        if reason is None:
            return (folder, record), gone
        gone.append(f"{record.name} (run {record.run_id}) {reason}")
    return None, gone


def lost(runs: Iterable[tuple[RunFolder, Record]], uri: str | None = None) -> dict[str, str]:
    """Return those of some runs that their store does not have any more, by id, each with what happened to it.

    A finished run without its end or its files counts, unless these still wait on this disk. Runs in a store with
    credentials or on a server are looked up only if `uri` is its address.
    """
    ids: dict[tuple[str | None, Path], dict[str, bool]] = defaultdict(dict)
    for folder, record in runs:
        store = uri if uri is not None and record.store == masked(uri) else record.store
        is_known = store is None or store.startswith("sqlite") or store == uri
        if record.run_id is not None and is_known and not record.pruned:
            is_settled = not (folder.outbox / "operations.jsonl").exists() and not (folder.path / "heartbeat").exists()
            ids[store, folder.path.parents[1]][record.run_id] = record.status == "FINISHED" and is_settled
    if not ids:
        return {}
    from plexp.tracking import history  # with numpy and SQLAlchemy

    return {
        run: why for (store, outputs), some in ids.items() for run, why in history.lost(store, outputs, some).items()
    }


def claim(values: Mapping[str, Any], sweep: str = "") -> RunFolder:
    """Return the folder of a configuration's run with its lock acquired: of an interrupted or failed run, or a new one.

    Raises ConfigError if another process is running it, StoreError if nothing can be written there, and AlreadyFinished if
    that of a job of a sweep is finished.
    """
    with writing("outputs", values["outputs"], GIVE):
        return _claim(values, sweep)


def _claim(values: Mapping[str, Any], sweep: str) -> RunFolder:
    root = state_folder(values["outputs"])
    root.mkdir(parents=True, exist_ok=True)
    with lock_file(root / "lock"):  # two processes must not both find that there is no run, and make one
        match, gone = _finished(values, sweep) if sweep else (None, [])
        if match is not None:
            raise AlreadyFinished(*match)
        if gone:
            log.warning("%s: it is done again, in a new run", gone[0])
        folder = next(iter(_attempts(values)), None)
        record = folder.record() if folder else None
        is_over = record is not None and (record.status == "FINISHED" or bool(record.pruned))
        if folder is None or is_over or values["resume"] == "never":
            folder = next_attempt(root, identity(values))
        if folder.alive() or not folder.acquire():
            raise _running(folder)
    return folder


def store_of(values: Mapping[str, Any]) -> str | None:
    """Return `tracker.uri` without credentials; None: the file in the outputs folder."""
    uri = values["tracker"]["uri"]
    return None if uri is None else masked(str(uri))


def _attempts(values: Mapping[str, Any]) -> Iterator[RunFolder]:
    """Yield the folders of the attempts at a configuration in its store, the newest first."""
    for folder in reversed(attempts(state_folder(values["outputs"]), identity(values))):
        record = folder.record()
        if record is None or record.store == store_of(values):
            yield folder


def _running(folder: RunFolder) -> ConfigError:
    record = folder.record()
    process = f"process {record.pid} on {record.host}" if record else "another process"
    cause = f"{process} is running this configuration"
    return ConfigError(Problem("resume", "auto", cause, "wait for it, or give resume=never for a second run"))

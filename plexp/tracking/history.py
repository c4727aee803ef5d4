"""Reads runs back from MLflow: their params, tags, how they ended, and their learning curves. It writes nothing."""

from __future__ import annotations

import errno
import math
import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit
from urllib.request import url2pathname

import numpy as np
import numpy.typing as npt
from sqlalchemy import make_url

from plexp.errors import Problem, StoreError, unwritable
from plexp.files import has_space
from plexp.tracking.format import cause, no_store
from plexp.tracking.permissions import problem_of_reading, reading_options

RETURN, SECONDS = "eval/return", "eval/seconds"
LARGEST = 1.7e308
"""Largest number that counts as finite: MLflow keeps ±inf as ±1.8e308."""
Point = tuple[int, int, float]
"""Timestamp, step, value of a metric."""


@dataclass(frozen=True)
class Curve:
    """Greedy evaluations of a run, by increasing step; a step that was logged twice counts once, as logged last."""

    steps: npt.NDArray[np.int64]
    """Environment steps of the evaluations, [E]."""
    returns: npt.NDArray[np.float64]
    """Mean return of each evaluation, [E]; NaN or infinite if that was logged."""
    seconds: npt.NDArray[np.float64]
    """Seconds of training until each evaluation, [E]; NaN where they were not logged."""


NO_CURVE = Curve(np.empty(0, np.int64), np.empty(0), np.empty(0))


@dataclass(frozen=True)
class RecordedRun:
    """A training run as MLflow knows it."""

    run_id: str
    name: str
    status: str
    """FINISHED, FAILED, KILLED, or RUNNING: also of a run that was killed without warning."""
    experiment: str
    """Name of its MLflow experiment."""
    start_time: int
    """Milliseconds since 1970."""
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict, repr=False)
    """Last value of each metric."""
    curve: Curve = field(default=NO_CURVE, repr=False)


class History(Protocol):
    """A store of runs."""

    def runs(self) -> list[RecordedRun]:
        """Return all training runs that are not deleted, without curves, in the order of their starts."""
        ...

    def curves(self, run_ids: Sequence[str]) -> dict[str, Curve]:
        """Return the learning curves of the runs that have one."""
        ...

    def lost(self, runs: Mapping[str, bool]) -> dict[str, str]:
        """Return the runs that the store does not have any more, by id, each with what happened to it.

        Where the value is True, a run that is not finished there, or whose files are gone, counts too.
        """
        ...


def open_history(uri: str | None, outputs: Path) -> History:
    """Open the store at `uri`, or the file in `outputs`. It and its methods raise StoreError if there is none."""
    file = outputs / "mlflow.db" if uri is None else Path(make_url(uri).database or "") if _is_sqlite(uri) else None
    if file is None:
        return ServerHistory(str(uri))
    if not os.path.isfile(file):
        raise StoreError(no_store(uri, outputs))
    return SqliteHistory(file)


def lost(uri: str | None, outputs: Path, runs: Mapping[str, bool]) -> dict[str, str]:
    """Return the runs that a store does not have any more; see `History.lost`. A store that does not answer has them all."""
    if not runs:
        return {}
    try:
        history = open_history(uri, outputs)
    except StoreError:
        return dict.fromkeys(runs, "its database is gone")
    with suppress(StoreError):
        return history.lost(runs)
    return {}


NOT_THERE, DELETED = "is not in the database any more", "was deleted in MLflow"
NOT_FINISHED, NO_FILES = "has lost its end", "has lost its files"
FILES = ("config.yaml", "agent.safetensors")
"""Files of a finished run without which no command can use it."""


class SqliteHistory:
    """MLflow's sqlite file, opened read-only: 200 curves in a tenth of the time that the client takes."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def lost(self, runs: Mapping[str, bool]) -> dict[str, str]:
        query = """SELECT run_uuid, artifact_uri, status, runs.lifecycle_stage, experiments.lifecycle_stage FROM runs
            JOIN experiments USING (experiment_id)"""
        with self._connect() as connection:
            stored = {run: row for run, *row in connection.execute(query)}
        return {run: why for run, whole in runs.items() if (why := self._why_lost(stored.get(run), whole))}

    def _why_lost(self, row: Sequence[str] | None, whole: bool) -> str:
        if row is None:
            return NOT_THERE
        address, status, *stages = row
        if "deleted" in stages:
            return DELETED
        if whole and status != "FINISHED":
            return NOT_FINISHED
        place = urlsplit(address)
        if not whole or place.scheme not in ("", "file"):
            return ""
        folder = Path(url2pathname(place.path))
        moved = self.file.parent / "artifacts" / Path(*folder.parts[-3:])  # with its outputs folder, see `plexp repair`
        is_whole = any(all((place / name).is_file() for name in FILES) for place in (folder, moved))
        return "" if is_whole else NO_FILES

    def runs(self) -> list[RecordedRun]:
        query = """SELECT run_uuid, runs.name, status, experiments.name, start_time FROM runs
            JOIN experiments USING (experiment_id) WHERE runs.lifecycle_stage = 'active' ORDER BY start_time, run_uuid"""
        with self._connect() as connection:
            rows: list[tuple[str, str, str, str, int]] = connection.execute(query).fetchall()
            params = _by_run(connection.execute("SELECT run_uuid, key, value FROM params"))
            tags = _by_run(connection.execute("SELECT run_uuid, key, value FROM tags"))
            metrics = _by_run(connection.execute("SELECT run_uuid, key, value FROM latest_metrics WHERE NOT is_nan"))
        return _training([RecordedRun(*row, params[row[0]], tags[row[0]], metrics[row[0]]) for row in rows])

    def curves(self, run_ids: Sequence[str]) -> dict[str, Curve]:
        query = """SELECT timestamp, step, CASE WHEN is_nan THEN NULL ELSE value END FROM metrics
            WHERE run_uuid = ? AND key = ?"""
        found = {}
        with self._connect() as connection:
            for run in run_ids:
                returns, seconds = (
                    [(at, step, math.nan if value is None else value) for at, step, value in rows]
                    for rows in (connection.execute(query, (run, key)).fetchall() for key in (RETURN, SECONDS))
                )
                if returns:
                    found[run] = _curve(returns, seconds)
        return found

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        options = urlencode(reading_options(self.file))
        try:
            with closing(sqlite3.connect(f"{self.file.absolute().as_uri()}?{options}", uri=True)) as connection:
                yield connection
        except sqlite3.Error as error:
            if (problem := problem_of_reading("store", self.file, self.file)) is not None:
                raise StoreError(str(problem)) from None
            if not has_space(self.file.parent):
                full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                raise StoreError(str(unwritable("store", self.file, full, ""))) from None
            remedy = "give the folder whose mlflow.db plexp wrote"
            raise StoreError(str(Problem("store", self.file, cause(error), remedy))) from None


class ServerHistory:
    """Any other store, through MLflow's client."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def lost(self, runs: Mapping[str, bool]) -> dict[str, str]:
        from plexp.tracking.store import is_gone

        found = {}
        with self._client() as client:
            for run, whole in runs.items():
                if is_gone(client, run):
                    found[run] = DELETED
                elif whole and client.get_run(run).info.status != "FINISHED":
                    found[run] = NOT_FINISHED
                elif whole and not set(FILES) <= {file.path for file in client.list_artifacts(run)}:
                    found[run] = NO_FILES
        return found

    def runs(self) -> list[RecordedRun]:
        with self._client() as client:
            names = {each.experiment_id: each.name for each in _pages(client.search_experiments)}
            found = (
                list(_pages(client.search_runs, list(names), order_by=["attributes.start_time ASC"])) if names else []
            )
        return _training(
            [
                RecordedRun(
                    run.info.run_id,
                    run.info.run_name,
                    run.info.status,
                    names[run.info.experiment_id],
                    run.info.start_time,
                    run.data.params,
                    run.data.tags,
                    run.data.metrics,
                )
                for run in found
            ]
        )

    def curves(self, run_ids: Sequence[str]) -> dict[str, Curve]:
        found = {}
        with self._client() as client:
            for run in run_ids:
                returns, seconds = (
                    [(m.timestamp, m.step, m.value) for m in client.get_metric_history(run, key)]
                    for key in (RETURN, SECONDS)
                )
                if returns:
                    found[run] = _curve(returns, seconds)
        return found

    @contextmanager
    def _client(self) -> Iterator[Any]:
        from plexp.tracking.store import connected  # with mlflow, which takes seconds

        with connected(self.uri, Path()) as client:
            yield client


def _is_sqlite(uri: str) -> bool:
    return uri.startswith("sqlite")


def _pages(search: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(*arguments, page_token=token, **options)
        yield from page
        token = page.token
        if not token:
            return


def _by_run(rows: Iterable[tuple[str, str, Any]]) -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = defaultdict(dict)
    for run, key, value in rows:
        values[run][key] = value
    return values


def _training(runs: list[RecordedRun]) -> list[RecordedRun]:
    return [run for run in runs if run.tags.get("kind", "training") == "training"]


def _curve(returns: list[Point], seconds: list[Point]) -> Curve:
    values = {step: value for _, step, value in sorted(returns, key=lambda point: point[:2])}
    spent = {step: value for _, step, value in sorted(seconds, key=lambda point: point[:2])}
    steps = sorted(values)
    found = np.array([values[step] for step in steps])
    found[np.abs(found) > LARGEST] = math.inf
    return Curve(np.array(steps, np.int64), found, np.array([spent.get(step, math.nan) for step in steps]))

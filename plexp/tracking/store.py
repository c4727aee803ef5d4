"""MLflow's store: a client for one that answers, its database, its experiments, and its errors in one line."""

from __future__ import annotations

import errno
import logging
import os
import re
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import mlflow
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError

from plexp.errors import Problem, StoreError, is_full, is_unwritable, unwritable
from plexp.files import has_space, lock_file
from plexp.tracking.format import cause, masked, sqlite_uri
from plexp.tracking.permissions import COPY, can_open, problem_of_reading, reading_uri
from plexp.tracking.views import saved_views

# MLflow reads these when it is imported and at each request; what the user has set stands.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # SQLAlchemy 2.1 about MLflow 3.17
    from mlflow import MlflowClient, MlflowException
    from mlflow.entities import LoggedModel, LoggedModelOutput, Metric, Param, Run
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryStore
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

__all__ = ["LoggedModel", "LoggedModelOutput", "Metric", "MlflowClient", "MlflowException", "Param", "Run"]
"""Names of MLflow that other files import from here, because the settings above must come before its first import."""

log = logging.getLogger("plexp")
for _name in ("mlflow", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.ERROR)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # what it would print is in StoreError


def sqlite_file(uri: str | None, outputs: Path) -> Path | None:
    """Return the database file of the store at `uri` (None: that in `outputs`); None for a store without one."""
    if uri is None:
        return outputs / "mlflow.db"
    return Path(make_url(uri).database or "") if uri.startswith("sqlite") else None


class Remedies(NamedTuple):
    """Advice about a store, by what is wrong with it."""

    folder: str
    """Advice for an outputs folder that cannot be written."""
    file: str
    """Advice for a database file that cannot be written."""
    other_folder: str
    """Advice for any other fault of the database in an outputs folder."""
    server: str
    """Advice for any other fault of a store that was named."""


TRAINING = Remedies(
    "give a folder that you can write: outputs=FOLDER",
    "give a file that you can write, or tracker.uri=null for the folder outputs",
    "choose a folder that can be written and has space",
    "start or mend it, or set tracker.uri=null to write to the folder outputs",
)
READING = Remedies(
    COPY,
    "ask its owner for write permission",
    "give --outputs the folder whose mlflow.db plexp wrote",
    "start or mend it, or leave it out for the runs in the folder outputs",
)


@contextmanager
def store_errors(uri: str | None, outputs: Path, *, training: bool = False) -> Iterator[None]:
    """Raise StoreError for whatever goes wrong with the store; `training`: for a command that trains."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        problem = _problem(error, uri, outputs, training=training)
        raise StoreError(str(problem)) from None  # the chain would print the credentials


def _problem(error: Exception, uri: str | None, outputs: Path, *, training: bool) -> Problem:
    if deleted := re.search(r"[Rr]un (\w+) must be in the 'active' state", str(error)):
        return Problem("run", deleted[1], "it was deleted in MLflow", "restore it there, or train it again")
    file, remedies = sqlite_file(uri, outputs), TRAINING if training else READING
    place = ("outputs", str(outputs)) if uri is None else ("tracker.uri" if training else "--uri", masked(uri))
    if (schema := other_schema(error, file, masked(uri or sqlite_uri(outputs / "mlflow.db")))) is not None:
        return Problem(*place, *schema)
    if file is not None and "disk I/O error" in str(error) and not has_space(file.parent):
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if file is not None and (is_full(error) or is_unwritable(error) or "unable to open database" in str(error)):
        if not training and not is_full(error) and (problem := problem_of_reading(*place, file)) is not None:
            return problem
        return unwritable(*place, error, remedies.folder if uri is None else remedies.file)
    if isinstance(error, ModuleNotFoundError) and "psycopg" in str(error.name):
        return Problem(*place, cause(error), 'pip install "plexp[postgresql]"')
    return Problem(*place, cause(error), remedies.other_folder if uri is None else remedies.server)


@contextmanager
def connected(uri: str | None, outputs: Path) -> Iterator[MlflowClient]:
    """Yield a client for the store at `uri` (None: that in `outputs`); it only reads one that this user may not write.

    Raises StoreError if there is no such store.
    """
    with store_errors(uri, outputs):
        file, address = sqlite_file(uri, outputs), uri or sqlite_uri(outputs / "mlflow.db")
        if file is not None and not (file.is_file() and file.stat().st_size):
            remedy = "put it back, or train again: the same commands do what is gone"
            raise StoreError(str(Problem("store", file, "the database is gone", remedy)))
        if file is not None and not can_open(file):
            yield _connect_to_read(reading_uri(address))
        else:
            yield connect(address, outputs.absolute())


def _connect_to_read(uri: str) -> MlflowClient:
    """Return a client that reads a database file as it is now: connections of an earlier client know an older one."""
    for kind in (SqlAlchemyStore, RegistryStore):
        if (engine := kind._engine_map.get(uri)) is not None:
            engine.dispose()
    client = MlflowClient(uri)
    client.search_experiments(max_results=1)
    return client


def connect(uri: str, outputs: Path) -> MlflowClient:
    """Return a client whose store exists and answers; a server gets one attempt of 4 s.

    A sqlite store that does not exist is created, with its files in `outputs`.
    """
    if uri.startswith("sqlite"):
        if make_url(uri).database in (None, "", ":memory:"):
            problem = Problem(
                "tracker.uri", uri, "it names no file, so nothing would be kept", "give sqlite:////folder/file.db"
            )
            raise StoreError(str(problem))
        file = Path(make_url(uri).database or "")
        _create_database(file, outputs)
        _forget_another(uri, file)
    elif not uri.startswith("http"):
        _reach(uri)
    client = MlflowClient(uri)
    patient = {key: os.environ[key] for key in os.environ if key.startswith("MLFLOW_HTTP_REQUEST_")}
    os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "4"}
    try:
        client.search_experiments(max_results=1)
    finally:
        os.environ |= patient
    return client


def _reach(uri: str) -> None:
    """Connect to a database once, for at most 4 s: MLflow itself tries for hours, and logs the password's refusal each time."""
    address = make_url(uri)
    limited = "psycopg" in address.drivername or address.drivername == "postgresql"
    engine = create_engine(address, connect_args={"connect_timeout": 4} if limited else {})
    try:
        engine.connect().close()
    finally:
        engine.dispose()


_files: dict[str, tuple[int, int]] = {}
"""Device and inode of each database file when it was last connected to."""


def _forget_another(uri: str, file: Path) -> None:
    """Close MLflow's connections to an earlier file of this name, which was removed or moved: they would write there.

    The attributes are not public; tried with MLflow 3.17.
    """
    status = file.stat()
    now = status.st_dev, status.st_ino
    if _files.setdefault(uri, now) != now:
        _files[uri] = now
        for kind in (SqlAlchemyStore, RegistryStore):
            if (engine := kind._engine_map.get(uri)) is not None:
                engine.dispose()


def is_gone(client: MlflowClient, run_id: str) -> bool:
    """Return True if a run was deleted, in MLflow's pages or for good."""
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "deleted")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return True


def experiment_id(client: MlflowClient, uri: str, outputs: Path, name: str) -> str:
    """Return the id of an experiment, which is created with its saved views if it does not exist.

    One that was deleted in MLflow stays as it is, with its runs; another of the same name and a number takes its place.
    """
    given, number = name, 1
    while (found := client.get_experiment_by_name(name)) is not None and found.lifecycle_stage == "deleted":
        number += 1
        name = f"{given} ({number})"
    if found is None:
        place = None if uri.startswith("http") else _artifacts(outputs, name)
        try:
            created: str = client.create_experiment(name, artifact_location=place)
        except MlflowException as error:
            found = client.get_experiment_by_name(name)  # another process was faster
            if found is None:
                raise error from None
        else:
            if name != given:
                log.warning("the experiment %s was deleted in MLflow: new runs go to %s", given, name)
            with suppress(Exception):
                for key, value in saved_views().items():
                    client.set_experiment_tag(created, key, value)
            return created
    if found.artifact_location.startswith("file://") and uri == sqlite_uri(outputs / "mlflow.db"):
        _warn_if_moved(found.artifact_location, outputs)
    return str(found.experiment_id)


def _warn_if_moved(location: str, outputs: Path) -> None:
    if not location.startswith(f"{outputs.as_uri()}/"):
        log.warning(
            "%s was moved: its runs look for their files in %s; mend it: python -m plexp repair", outputs, location
        )


def _create_database(path: Path, outputs: Path) -> None:
    """Create the file once and as a whole, however many processes start at the same time or are killed meanwhile.

    MLflow itself lets one process win, and never completes a file that was left half made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock_file(Path(f"{path}.lock")):
        if path.exists() and path.stat().st_size:
            return
        for suffix in ("-journal", "-wal", "-shm"):  # of a file that was removed: SQLite would mix it into the new one
            with suppress(FileNotFoundError):
                Path(f"{path}{suffix}").replace(f"{path}{suffix}.removed")
        draft = Path(f"{path}.draft")
        for suffix in ("", "-journal", "-wal", "-shm"):
            Path(f"{draft}{suffix}").unlink(missing_ok=True)
        event.listen(Engine, "connect", _without_syncing)
        try:
            _make_tables(draft, _artifacts(outputs))
        finally:
            event.remove(Engine, "connect", _without_syncing)
        with closing(sqlite3.connect(draft)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # so that readers and the writer don't wait for each other
        with draft.open("rb+") as file:
            os.fsync(file)
        draft.replace(path)


def _make_tables(file: Path, artifacts: str) -> None:
    """Make MLflow's tables in a new file, by the class behind its client, which is not public; tried with MLflow 3.17."""
    SqlAlchemyStore(sqlite_uri(file), artifacts).engine.dispose()  # type: ignore[no-untyped-call]  # it is, in mlflow


def _without_syncing(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")  # 60 migrations: 1 s instead of 6


def _artifacts(outputs: Path, experiment: str = "") -> str:
    """Return the URI of an experiment's folder of files, which no name leads out of.

    It is a URI because MLflow reads `#` and `%` of a plain path as its own.
    """
    safe = re.sub(r"[^A-Za-z0-9.-]", "_", experiment)
    return (outputs / "artifacts" / (safe if safe.strip(".") else "_" * len(safe))).as_uri()


def other_schema(error: Exception, file: Path | None, uri: str) -> tuple[str, str] | None:
    """Return cause and remedy if MLflow refused a database for its tables; None for any other error.

    `file` is that of a sqlite store, whose newest run names the MLflow that wrote it; `uri` is masked. The text of the
    error and the folder of migrations are not public; tried with MLflow 3.17.
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
    """Return the MLflow version of the newest run; empty if it is unknown."""
    query = """SELECT value FROM tags JOIN runs USING (run_uuid) WHERE key = 'version.mlflow'
        ORDER BY start_time DESC LIMIT 1"""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as store:
        row = store.execute(query).fetchone()
        return str(row[0]) if row else ""
    return ""

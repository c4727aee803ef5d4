"""One run's record in MLflow. The only file that imports mlflow."""

from __future__ import annotations

import copy
import fcntl
import logging
import os
import re
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, redirect_stderr, suppress
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

# MLflow reads these when it is imported and at each request; what the user has set stands.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # SQLAlchemy 2.1 about MLflow 3.17
    from mlflow import MlflowClient, MlflowException
    from mlflow.entities import LoggedModelOutput, Metric, Param
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import Engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError

from plexp.errors import Problem, StoreError
from plexp.tracking_views import cause, cut, masked, name_for_mlflow, saved_view, serve, sqlite_uri, text_for_mlflow

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

__all__ = ["StoreError", "Tracker", "connected", "serve"]

Status = Literal["FINISHED", "FAILED", "KILLED"]
BATCH = 1000
"""Metric points of one write: MLflow's limit."""
RETRY_SECONDS = 60.0
"""Between two attempts while the store does not answer; a larger one disturbs the training less."""

log = logging.getLogger(__name__)
for _name in ("mlflow", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.ERROR)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # what it would print is in StoreError


class Tracker:
    """One run's record in MLflow: buffered metrics, params, files, model, status.

    The run is RUNNING from here until `finish`. `uri` None keeps it in `<outputs>/mlflow.db` and `<outputs>/artifacts`.
    `params` have dotted names and are written as they are typed on the command line (null, true). Names that MLflow
    refuses get `_` for the characters in question. Raises StoreError, within 5 s, if there is no such store.
    """

    flush_seconds = 5.0
    """Metrics wait in memory at most so long; a larger one loses more at a SIGKILL."""

    def __init__(
        self,
        *,
        uri: str | None,
        outputs: Path,
        experiment: str,
        run_name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
    ) -> None:
        outputs = Path(os.path.abspath(outputs))
        self.uri, self.run_name = uri or sqlite_uri(outputs / "mlflow.db"), run_name
        self._errors = partial(_store_errors, uri, outputs)
        self.last: dict[str, float] = {}
        """The latest value of every metric."""
        self._points: list[Metric] = []
        self._flushed, self._not_before = time.monotonic(), 0.0
        self._status: Status | None = None
        with self._errors():
            self._client = _connect(self.uri, outputs)
            self.experiment_id = _experiment(self._client, self.uri, outputs, experiment)
            run = self._client.create_run(self.experiment_id, tags=_tags(tags), run_name=run_name)
        self.run_id: str = run.info.run_id
        self.artifact_uri: str = run.info.artifact_uri
        try:
            with self._errors():
                texts = {name_for_mlflow(key): text_for_mlflow(value) for key, value in params.items()}
                values = [Param(key, cut(text, 6000)) for key, text in texts.items()]
                for i in range(0, len(values), 100):
                    self._client.log_batch(self.run_id, params=values[i : i + 100])
        except BaseException:
            with suppress(StoreError):
                self.finish("FAILED")
            raise

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Buffer the metrics of one environment step; write them in batches. Never raises StoreError.

        NaN is kept; MLflow turns ±inf into ±1.8e308. What is no number is left out.
        """
        for name, value in metrics.items():
            try:
                self._points.append(Metric(name_for_mlflow(name), float(value), int(time.time() * 1000), int(step)))
                self.last[name] = float(value)
            except (TypeError, ValueError, RuntimeError) as error:
                log.warning("metric %s at step %s is left out: %s", name, step, error)
        now = time.monotonic()
        due = len(self._points) >= BATCH or now >= self._flushed + self.flush_seconds
        if due and now >= self._not_before:
            try:
                self.flush()
            except StoreError as error:
                self._not_before = time.monotonic() + RETRY_SECONDS
                log.warning("%s (%d metric points wait; next try in %g s)", error, len(self._points), RETRY_SECONDS)

    def flush(self) -> None:
        """Write what is buffered. Raises StoreError, and keeps the points, if the store does not take them."""
        while self._points:
            with self._errors():
                self._client.log_batch(self.run_id, metrics=self._points[:BATCH])
            del self._points[:BATCH]
        self._flushed, self._not_before = time.monotonic(), 0.0

    def log_file(self, path: Path, folder: str | None = None) -> None:
        with self._errors():
            self._client.log_artifact(self.run_id, str(path), folder)

    def log_text(self, text: str, name: str) -> None:
        with self._errors():
            self._client.log_text(self.run_id, text, name)

    def log_figure(self, figure: Figure, name: str) -> None:
        """As an image at least 1000 pixels wide."""
        dpi = max(figure.dpi, 1000 / figure.get_figwidth())
        with self._errors():
            self._client.log_figure(self.run_id, figure, name, save_kwargs={"dpi": dpi})

    def log_model(self, policy: torch.nn.Module, example: torch.Tensor) -> str | None:
        """Keep the policy as a model that loads without plexp and without pickle.

        The policy maps observations [B, *obs] to one tensor; `example` are such observations; the model takes any B.
        Returns the model's uri, or None, with the reason in the log, where torch.export cannot trace the policy or the
        store does not take it.
        """
        try:
            with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):
                warnings.simplefilter("ignore")  # and torch.export prints the graph it fails at
                return self._log_model(policy, example, f"{folder}/model")
        except Exception as error:
            log.warning("the model is not kept: %s: %s", type(error).__name__, cause(error))
            return None

    def _log_model(self, policy: torch.nn.Module, example: torch.Tensor, folder: str) -> str:
        # Not mlflow.pytorch.log_model: it registers the model first, and leaves it FAILED if the export fails.
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        import mlflow.pytorch  # calls logging.basicConfig(level=ERROR)

        root.handlers[:], root.level = handlers, level
        import numpy as np
        import torch
        from mlflow.models import Model, infer_signature

        policy = copy.deepcopy(policy).cpu().eval()
        batch = torch.cat([example, example])[:2].detach().cpu()  # of one, the batch size would be frozen
        with torch.no_grad():
            signature = infer_signature(batch.numpy(), policy(batch).numpy())
        record = Model(run_id=self.run_id)
        mlflow.pytorch.save_model(
            policy,
            folder,
            mlflow_model=record,
            signature=signature,
            input_example=batch.numpy(),
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", f"numpy=={np.__version__}"],
            serialization_format="pt2",
        )
        model = self._client.create_logged_model(self.experiment_id, name="policy", source_run_id=self.run_id)
        try:
            record.model_id, record.model_uuid, record.artifact_path = model.model_id, model.model_id, model.model_uri
            record.save(f"{folder}/MLmodel")
            self._client.log_model_artifacts(model.model_id, folder)
            self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])
            self._client.finalize_logged_model(model.model_id, "READY")
        except BaseException:
            self._client.delete_logged_model(model.model_id)
            raise
        return str(model.model_uri)

    def describe(self, markdown: str) -> None:
        """What stands on top of the run's page."""
        self.set_tags({"mlflow.note.content": markdown})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        with self._errors():
            for key, value in _tags(tags).items():
                self._client.set_tag(self.run_id, key, value)

    def finish(self, status: Status) -> None:
        """Write what is buffered and close the run. FAILED or KILLED may follow FINISHED, nothing follows those.

        Raises StoreError if the store does not take it; a run that loses points by that is FAILED, not FINISHED.
        """
        if self._status in (status, "FAILED", "KILLED"):
            return
        try:
            self.flush()
        except StoreError as error:
            with suppress(StoreError):
                self._terminate("FAILED" if status == "FINISHED" else status)
            raise StoreError(f"{error} ({len(self._points)} metric points of run {self.run_id} are lost)") from None
        self._terminate(status)

    def _terminate(self, status: Status) -> None:
        with self._errors():
            self._client.set_terminated(self.run_id, status)
        self._status = status


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {name_for_mlflow(key): cut(str(value), 8000) for key, value in tags.items()}


@contextmanager
def _store_errors(uri: str | None, outputs: Path) -> Iterator[None]:
    """Whatever goes wrong with the store is a StoreError."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        if uri is None:
            problem = Problem("outputs", outputs, cause(error), "choose a folder that can be written and has space")
        else:
            remedy = "start or mend it, or set tracker.uri=null to write to the folder outputs"
            problem = Problem("tracker.uri", masked(uri), cause(error), remedy)
        raise StoreError(str(problem)) from None  # the chain would print the credentials


@contextmanager
def connected(uri: str) -> Iterator[MlflowClient]:
    """A client for a store that exists. Raises StoreError."""
    with _store_errors(uri, Path()):
        yield _connect(uri, Path())


def _connect(uri: str, outputs: Path) -> MlflowClient:
    """A client whose store exists and answers; a server gets one attempt of 4 s."""
    if uri.startswith("sqlite:///"):
        _create_database(Path(make_url(uri).database or ""), outputs)
    client = MlflowClient(uri)
    patient = {key: os.environ[key] for key in os.environ if key.startswith("MLFLOW_HTTP_REQUEST_")}
    os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "4"}
    try:
        client.search_experiments(max_results=1)
    finally:
        os.environ |= patient
    return client


def _create_database(path: Path, outputs: Path) -> None:
    """Make the file once and as a whole, however many processes start at the same time or are killed in between.

    Left alone MLflow lets one of them win, and a file that is half made is never mended.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists() and path.stat().st_size:
            return
        draft = Path(f"{path}.draft")
        for suffix in ("", "-journal", "-wal", "-shm"):
            Path(f"{draft}{suffix}").unlink(missing_ok=True)
        event.listen(Engine, "connect", _without_syncing)
        try:
            root = _artifacts(outputs)
            SqlAlchemyStore(sqlite_uri(draft), root).engine.dispose()  # type: ignore[no-untyped-call]  # it is, in mlflow
        finally:
            event.remove(Engine, "connect", _without_syncing)
        with closing(sqlite3.connect(draft)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # so that readers and the writer don't wait for each other
        with draft.open("rb+") as file:
            os.fsync(file)
        draft.replace(path)


def _without_syncing(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")  # 60 migrations: 1 s instead of 6


def _artifacts(outputs: Path, experiment: str = "") -> str:
    """As a uri: in a plain path MLflow takes `#` and `%` for its own."""
    return (outputs / "artifacts" / re.sub(r"[^A-Za-z0-9.-]", "_", experiment)).as_uri()


def _experiment(client: MlflowClient, uri: str, outputs: Path, name: str) -> str:
    """The id of the experiment, made with its saved view if it is not there."""
    found = client.get_experiment_by_name(name)
    if found is None:
        place = None if uri.startswith("http") else _artifacts(outputs, name)
        try:
            made: str = client.create_experiment(name, artifact_location=place)
        except MlflowException as error:
            found = client.get_experiment_by_name(name)  # another process was faster
            if found is None:
                raise error from None
        else:
            with suppress(Exception):
                for key, value in saved_view().items():
                    client.set_experiment_tag(made, key, value)
            return made
    if found.lifecycle_stage == "deleted":
        problem = Problem(
            "tracker.experiment", name, "was deleted in MLflow", "restore it there or choose another name"
        )
        raise StoreError(str(problem))
    return str(found.experiment_id)

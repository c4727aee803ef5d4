"""Finds recorded runs by what a person calls them, and reads and extends their records."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import yaml
from packaging.version import InvalidVersion, Version

from plexp._version import __version__
from plexp.errors import ConfigError, Problem, StoreError, is_full, nearest, unwritable
from plexp.files import try_writing
from plexp.tracking.format import masked, name_for_mlflow, no_store
from plexp.tracking.permissions import ASK, COPY, can_read, can_write
from plexp.tracking.store import MlflowClient, MlflowException, Run, connected, is_gone, sqlite_file, store_errors

TRAINING = "tags.kind = 'training'"
NEWEST = ["attributes.start_time DESC"]
ID = r"[0-9a-f]{4,32}"
"""Pattern of a run's id, or of its beginning."""


class RunHandle:
    """A training run in MLflow, open for reading, and for writing where this user may.

    What is written raises StoreError, in one line, if it cannot be.
    """

    def __init__(self, client: MlflowClient, run: Run, place: Path, uri: str | None, outputs: Path) -> None:
        self.client, self.run, self._place = client, run, place
        self._errors = partial(store_errors, uri, outputs)
        self._store = ("outputs", str(outputs)) if uri is None else ("--uri", masked(uri))
        self._database = sqlite_file(uri, outputs)
        self.run_id: str = run.info.run_id
        self.name: str = run.info.run_name
        self.status: str = run.info.status
        self.experiment_id: str = run.info.experiment_id
        self.experiment: str = client.get_experiment(run.info.experiment_id).name
        self.params: dict[str, str] = run.data.params
        self.tags: dict[str, str] = run.data.tags
        self.metrics: dict[str, float] = run.data.metrics
        """Last value of each metric."""

    @property
    def values(self) -> dict[str, Any]:
        """Resolved configuration of the run. Raises ConfigError if it has none."""
        values: dict[str, Any] = yaml.safe_load(self.file("config.yaml").read_text())
        return values

    @property
    def newer(self) -> str:
        """Version of plexp that recorded it, if that is newer than this one; else empty."""
        written = self.tags.get("version.plexp", "0")
        try:
            return written if Version(written) > Version(__version__) else ""
        except InvalidVersion:
            return written

    def has(self, name: str) -> bool:
        """Return True if it has a file of this name, such as `agent.safetensors` or `films/best.mp4`."""
        folder = name.rpartition("/")[0]
        return any(file.path == name for file in self.client.list_artifacts(self.run_id, folder or None))

    def file(self, name: str) -> Path:
        """Return a copy of one of its files. Raises ConfigError if it has no such file."""
        if not self.has(name):
            if (folder := self._moved_from()) is not None:
                remedy = "if it was removed, train the run again; if it was moved, mend it: python -m plexp repair"
                raise ConfigError(Problem("run", self._called, f"the folder of its files is gone ({folder})", remedy))
            state = {"FINISHED": "has no"}.get(self.status, f"is {self.status} and has no")
            remedy = f"choose a finished one: {self._others()}" if self._others() else "train one to its end"
            raise ConfigError(Problem("run", self._called, f"it {state} {name}", remedy))
        (self._place / name).unlink(missing_ok=True)  # an earlier copy, which may be read-only as the file is
        try:
            return Path(self.client.download_artifacts(self.run_id, name, str(self._place)))
        except (OSError, MlflowException) as error:
            if is_full(error):
                raise StoreError(str(unwritable("TMPDIR", self._place.parent, error, ""))) from None
            if (files := self._files()) is not None and not can_read(files / name):
                cause = f"its file {name} cannot be read by this user (Permission denied)"
                raise StoreError(str(Problem("run", self._called, cause, ASK))) from None
            raise

    def check_writable(self, what: str) -> None:
        """Raise StoreError if nothing can be added to its record, before `what` is made, such as `an evaluation is`."""
        database, files = self._database, self._files()
        try:
            if database is not None and not can_write(database):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            for folder in ([database.parent] if database else []) + ([files] if files and files.exists() else []):
                try_writing(folder)
        except OSError as error:
            use = f", and {what} recorded with the run"
            raise StoreError(str(unwritable(*self._store, error, COPY, use))) from None

    def history(self, names: Iterable[str] | None = None) -> dict[str, dict[int, float]]:
        """Return the value of each metric at each step, as it was logged last.

        `names` are the metrics to return, of those that the run has; None: all.
        """
        values: dict[str, dict[int, float]] = {}
        for name in self.metrics if names is None else [name for name in names if name in self.metrics]:
            points = sorted(self.client.get_metric_history(self.run_id, name), key=lambda m: (m.timestamp, m.step))
            values[name] = {point.step: point.value for point in points}
        return values

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Add a file."""
        with self._adding(f"{folder}/{path.name}" if folder else path.name):
            self.client.log_artifact(self.run_id, str(path), folder)

    def log_text(self, text: str, name: str) -> None:
        """Add a text as a file."""
        with self._adding(name):
            self.client.log_text(self.run_id, text, name)

    @contextmanager
    def _adding(self, name: str) -> Iterator[None]:
        """Remove what has been written of a file that cannot be added as a whole."""
        with self._errors():
            try:
                yield
            except OSError:
                if (files := self._files()) is not None:
                    (files / name).unlink(missing_ok=True)
                raise

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Add metrics at a step."""
        with self._errors():
            for name, value in metrics.items():
                self.client.log_metric(self.run_id, name_for_mlflow(name), value, step=step)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        with self._errors():
            for name, value in tags.items():
                self.client.set_tag(self.run_id, name_for_mlflow(name), value)

    @property
    def _called(self) -> str:
        return f"{self.name} ({self.run_id[:8]})"

    def _moved_from(self) -> Path | None:
        """Return the folder of its files, if that does not exist any more; else None."""
        folder = self._files()
        return folder if folder is not None and not folder.exists() else None

    def _files(self) -> Path | None:
        """Return the folder of its files; None if they are not in a folder of this host."""
        place = urlsplit(self.run.info.artifact_uri)
        return Path(url2pathname(place.path)) if place.scheme == "file" else None

    def _others(self) -> str:
        runs = _search(self.client, [self.experiment_id], f"{TRAINING} and attributes.status = 'FINISHED'", limit=3)
        return ", ".join(run.info.run_name for run in runs if run.info.run_id != self.run_id)


@contextmanager
def open_run(reference: str, *, outputs: Path, uri: str | None, env: str | None = None) -> Iterator[RunHandle]:
    """Open the run that `reference` means, in the store at `uri` (None: the file in `outputs`).

    A reference is a run id or its beginning, a run's name (the newest of that name), `last` (the newest run), `best` (the
    highest final return in the experiment of the newest run, or of `env`), or a registered model (`models:/NAME/VERSION`,
    `NAME@ALIAS`).
    Raises ConfigError for a run that does not exist, StoreError for a store that does not exist or fails.
    """
    _must_exist(uri, outputs)
    with connected(uri, outputs) as client:
        run = _find(client, reference, env)
        with tempfile.TemporaryDirectory() as place:
            yield RunHandle(client, run, Path(place), uri, outputs)


def _must_exist(uri: str | None, outputs: Path) -> None:
    """Raise StoreError if there is no store: reading must not create one."""
    file = sqlite_file(uri, outputs)
    if file is not None and not os.path.isfile(file):
        raise StoreError(no_store(uri, outputs))


def _find(client: MlflowClient, reference: str, env: str | None) -> Run:
    if model := re.fullmatch(r"(?:models:/)?([^/@]+)(?:@([^/@]+)|/(\d+))", reference):
        return _of_model(client, reference, *model.groups())
    experiments = {each.experiment_id: each.name for each in client.search_experiments()}
    if env is not None:
        number = r"( \(\d+\))?"  # of one that took the place of another that was deleted, see `experiment_id`
        chosen = {key: name for key, name in experiments.items() if re.fullmatch(re.escape(env) + number, name)}
        if not chosen:
            raise ConfigError(Problem("--env", env, "no run is of it", nearest(env, sorted(experiments.values()))))
        experiments = chosen
    runs = _search(client, list(experiments), TRAINING, limit=1)
    if runs and reference == "best":
        place = [runs[0].info.experiment_id] if env is None else list(experiments)
        finished = f"{TRAINING} and attributes.status = 'FINISHED'"
        runs = _search(client, place, finished, limit=1, order=["metrics.`eval/final_return` DESC"])
    elif runs and reference != "last":
        runs = _named(client, list(experiments), reference)
    if not runs:
        every = _search(client, list(experiments), TRAINING, limit=1000)
        remedy = nearest(reference, sorted({run.info.run_name for run in every})[-20:]) if every else "train one"
        raise ConfigError(Problem("run", reference, "there is no such run", remedy))
    return runs[0]


def _named(client: MlflowClient, experiments: list[str], reference: str) -> list[Run]:
    """Return the newest run of that name, or the one whose id begins so."""
    if re.fullmatch(ID, reference):
        found = [r for r in _search(client, experiments, TRAINING) if r.info.run_id.startswith(reference)]
        if len(found) > 1:
            names = ", ".join(run.info.run_id[:12] for run in found[:3])
            raise ConfigError(Problem("run", reference, "several runs begin so", f"give more of it: {names}"))
        if found:
            return found
    if "'" in reference:
        return []
    return _search(client, experiments, f"{TRAINING} and attributes.run_name = '{reference}'", limit=1)


def _search(
    client: MlflowClient, experiments: list[str], what: str, *, limit: int | None = None, order: list[str] = NEWEST
) -> list[Run]:
    found: list[Run] = []
    token = None
    while experiments and (limit is None or len(found) < limit):
        page = client.search_runs(experiments, what, order_by=order, max_results=limit or 1000, page_token=token)
        found += page
        token = page.token
        if not token:
            break
    return found[:limit]


def _of_model(client: MlflowClient, reference: str, name: str, alias: str | None, version: str | None) -> Run:
    try:
        if alias is not None:
            found = client.get_model_version_by_alias(name, alias)
        else:
            found = client.get_model_version(name, str(version))
        run_id = str(found.run_id)
    except MlflowException as error:
        names = sorted(model.name for model in client.search_registered_models())
        remedy = nearest(name, names) if names else "register one: python -m plexp export best --register"
        cause = "there is no such registered model" if name not in names else "it has no such version or alias"
        raise ConfigError(Problem("run", reference, cause, remedy)) from error
    if is_gone(client, run_id):
        cause = f"the run of this version ({run_id[:8]}) was deleted in MLflow"
        raise ConfigError(Problem("run", reference, cause, "restore it there, or register another"))
    return client.get_run(run_id)

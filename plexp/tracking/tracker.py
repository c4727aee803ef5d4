"""The record of one run in MLflow: training writes to an outbox on disk, and a thread delivers it to the store."""

from __future__ import annotations

import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from plexp.tracking import store
from plexp.tracking.delivery import BATCH, Delivery, DeliveryThread
from plexp.tracking.format import cause, cut, masked, name_for_mlflow, sqlite_uri, text_for_mlflow
from plexp.tracking.models import save_model
from plexp.tracking.outbox import Outbox
from plexp.tracking.store import Metric, Param, Run

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure


Status = Literal["FINISHED", "FAILED", "KILLED"]
PROVENANCE = ("git.", "version.", "host.")
"""Prefixes of tags that say where a run was computed; a run that is resumed elsewhere has them again as `resume.…`."""

log = logging.getLogger("plexp")


class Tracker:
    """The record of one run in MLflow: metrics, params, files, model, status.

    The run is RUNNING from here until `finish`. Whatever is logged lies in the outbox until the store has it, so that
    neither a failing store nor a SIGKILL loses anything; only a full disk raises StoreError. Names that MLflow refuses get
    `_` for the characters in question.

    Args:
        uri: URI of the store; None: `<outputs>/mlflow.db`, with files in `<outputs>/artifacts`.
        outputs: the outputs folder.
        outbox: folder of the outbox.
        experiment, run_name: names in MLflow.
        params: params with dotted names, written as they are typed on the command line (null, true).
        tags: tags of the run.
        run_id: run to resume, if the store still has it; None: a new one.
        created: called with the run's id as soon as there is one.
        training: whether a training records it, whose remedies are keys; False: a command.

    Raises StoreError, within 5 s, if the store does not exist or answer.
    """

    def __init__(
        self,
        *,
        uri: str | None,
        outputs: Path,
        outbox: Path,
        experiment: str,
        run_name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        run_id: str | None = None,
        created: Callable[[str], object] = lambda run_id: None,
        training: bool = True,
    ) -> None:
        outputs = Path(os.path.abspath(outputs))
        self.uri, self.run_name = uri or sqlite_uri(outputs / "mlflow.db"), run_name
        self._errors = partial(store.store_errors, uri, outputs, training=training)
        self.last: dict[str, float] = {}
        """Latest value of every metric."""
        self._status: Status | None = None
        with self._errors():
            self.client = store.connect(self.uri, outputs)
            run = self._resume(run_id) if run_id else None
            self.is_resumed = run is not None
            if run is None:
                group = store.experiment_id(self.client, self.uri, outputs, experiment)
                run = self.client.create_run(group, tags=_tags(tags), run_name=run_name)
            else:
                self.last |= run.data.metrics
        self.experiment_id: str = run.info.experiment_id
        self.run_id: str = run.info.run_id
        self.artifact_uri: str = run.info.artifact_uri
        with self._errors():
            created(self.run_id)
        if run_id and not self.is_resumed:
            shutil.rmtree(outbox, ignore_errors=True)  # of the run that was deleted
        self._outbox = Outbox(outbox)
        self._delivery = Delivery(self.client, self.run_id, self._outbox, unsure=self.is_resumed)
        self._log_params(params, run)
        if self.is_resumed:
            known = {key: value for key, value in _tags(tags).items() if key.startswith(PROVENANCE)}
            changed = {f"resume.{key}": value for key, value in known.items() if run.data.tags.get(key) != value}
            self.set_tags(changed | {key: value for key, value in tags.items() if key.startswith("sweep.")})
        self._delivery_thread = DeliveryThread(self._delivery, self._errors, is_server=self.uri.startswith("http"))

    def _resume(self, run_id: str) -> Run | None:
        """Return the run, RUNNING again; None if it was deleted."""
        if store.is_gone(self.client, run_id):
            log.warning("run %s was deleted in MLflow: its configuration starts a new run", run_id)
            return None
        self.client.update_run(run_id, status="RUNNING")
        return self.client.get_run(run_id)

    def _log_params(self, params: Mapping[str, object], run: Run) -> None:
        """Log the params that the run does not have yet: all, unless an earlier start was killed in between."""
        texts = {name_for_mlflow(key): cut(text_for_mlflow(value), 6000) for key, value in params.items()}
        values = [Param(key, text) for key, text in texts.items() if key not in run.data.params]
        try:
            with self._errors():
                for i in range(0, len(values), 100):
                    self.client.log_batch(self.run_id, params=values[i : i + 100])
        except BaseException:
            with suppress(Exception):
                self.client.set_terminated(self.run_id, "FAILED")
            raise

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Note the metrics of one environment step. Raises StoreError if the disk is full.

        NaN is kept; MLflow turns ±inf into ±1.8e308. What is no number is left out.
        """
        points: list[tuple[str, float, int, int]] = []
        for name, value in metrics.items():
            try:
                point = Metric(name_for_mlflow(name), float(value), int(time.time() * 1000), int(step))
                points.append((point.key, point.value, point.timestamp, point.step))
                self.last[name] = point.value
            except (TypeError, ValueError, RuntimeError) as error:
                log.warning("metric %s at step %s is left out: %s", name, step, error)
        self._put(op="metrics", points=points)
        if len(self._outbox) >= BATCH:
            self._delivery_thread.hurry()

    def log_file(self, path: Path, folder: str | None = None) -> None:
        with self._placed(path.name) as place:
            shutil.copyfile(path, place)
            self._put(op="file", path=self._relative(place), folder=folder)

    def log_text(self, text: str, name: str) -> None:
        self._put(op="text", text=text, name=name)

    def log_figure(self, figure: Figure, name: str) -> None:
        """Log a figure as an image at least 1000 pixels wide."""
        folder, _, file = name.rpartition("/")
        with self._placed(file) as place:
            figure.savefig(place, dpi=max(figure.dpi, 1000 / figure.get_figwidth()))
            self._put(op="file", path=self._relative(place), folder=folder or None)

    def log_model(self, policy: torch.nn.Module, example: torch.Tensor) -> bool:
        """Keep the policy as a model that loads without plexp and without pickle.

        The policy maps observations [B, *obs] to one tensor; `example` are such observations; the model takes any B.
        Returns whether it is kept; if not, where torch.export cannot trace the policy, the reason is in the log.
        """
        try:
            with self._placed("model") as place:
                with warnings.catch_warnings(), redirect_stderr(StringIO()):
                    warnings.simplefilter("ignore")  # and torch.export prints the graph it fails at
                    save_model(policy, example, place, self.run_id)
                self._put(op="model", path=self._relative(place))
        except Exception as error:
            log.warning("the model is not kept: %s: %s", type(error).__name__, cause(error))
            return False
        return True

    def describe(self, markdown: str) -> None:
        """Set the description on top of the run's page."""
        self.set_tags({"mlflow.note.content": markdown})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        if tags:
            self._put(op="tags", tags=_tags(tags))

    def remove_tag(self, key: str) -> None:
        self._put(op="untag", key=name_for_mlflow(key))

    def flush(self) -> None:
        """Bring to the store what waits. Raises StoreError, and keeps it, if the store does not take it."""
        with self._errors():
            self._delivery.deliver()

    def sync(self) -> None:
        """Return when all that was logged survives a power cut, in the store or on this disk."""
        with self._errors():
            self._outbox.sync()

    def finish(self, status: Status) -> bool:
        """Close the run. FAILED or KILLED may follow FINISHED, nothing follows those.

        Returns whether the store has everything; if it has not, the rest waits in the outbox for `python -m plexp sync`.
        """
        if self._status in (status, "FAILED", "KILLED"):
            return not len(self._outbox)
        self._status = status
        self._put(op="end", status=status, time=int(time.time() * 1000))
        self._delivery_thread.end()
        if len(self._outbox):
            rest = (
                "%s does not take all of run %s; the rest waits in %s: bring it there later with python -m plexp sync"
            )
            log.warning(rest, masked(self.uri), self.run_id, self._outbox.folder)
        return not len(self._outbox)

    @contextmanager
    def _placed(self, name: str) -> Iterator[Path]:
        """Yield a place in the outbox for a file of this name, which is removed if it is not filled."""
        with self._errors():
            place = self._outbox.place_for(name)
            try:
                yield place
            except BaseException:
                self._outbox.withdraw(place)
                raise

    def _put(self, **operation: Any) -> None:
        with self._errors():
            self._outbox.put(operation)

    def _relative(self, place: Path) -> str:
        return str(place.relative_to(self._outbox.folder))


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {name_for_mlflow(key): cut(str(value), 8000) for key, value in tags.items()}

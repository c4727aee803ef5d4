"""Brings what waits in an outbox to MLflow: each metric step once, whatever failed or died in between."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

from plexp.errors import StoreError, one_line
from plexp.tracking.format import cause
from plexp.tracking.models import register_model
from plexp.tracking.outbox import Operation, Outbox
from plexp.tracking.store import Metric, MlflowClient, MlflowException, is_gone

log = logging.getLogger("plexp")
BATCH = 1000
"""Metric points of one write: MLflow's limit."""
FINAL = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE")
"""MLflow's codes for what it will never take, however often it is asked."""


class Delivery:
    """Does the operations of an outbox in their order.

    `unsure`: some may have been done already, as after a death or a lost answer; then the store is asked first which metric
    steps it has.
    """

    def __init__(self, client: MlflowClient, run_id: str, outbox: Outbox, *, unsure: bool) -> None:
        self.client, self.run_id, self.outbox, self.unsure = client, run_id, outbox, unsure
        self.count = 0
        """Operations done."""
        self.is_run_deleted = False
        """True if the run was deleted while it was recorded."""
        self._known: dict[str, set[int]] = {}
        self._lock = threading.Lock()

    def deliver(self) -> None:
        """Deliver everything that waits. Raises what MLflow raises if the store does not answer; the rest keeps waiting."""
        with self._lock:
            while operations := self.outbox.waiting(BATCH):
                try:
                    self._do(operations)
                except MlflowException as error:
                    self.unsure, self._known = True, {}
                    if error.error_code not in FINAL:
                        raise
                    if is_gone(self.client, self.run_id):
                        self._set_aside(operations)
                    else:
                        self._do_singly(operations)
                except BaseException:
                    self.unsure, self._known = True, {}
                    raise
                self.outbox.done(len(operations))
                self.count += len(operations)

    def _set_aside(self, operations: list[Operation]) -> None:
        """Keep what a run logs that was deleted meanwhile, with one line for all of it."""
        if not self.is_run_deleted:
            where = self.outbox.folder / "refused.jsonl"
            log.warning("run %s was deleted in MLflow; what it logs from now on is kept in %s", self.run_id, where)
        self.is_run_deleted = True
        for operation in operations:
            self.outbox.refuse(operation)

    def _do(self, operations: list[Operation]) -> None:
        first = operations[0]
        match first["op"]:
            case "metrics":
                points = [Metric(*point) for each in operations for point in each["points"]]
                self._log(self._new(points) if self.unsure else points)
            case "tags":
                for key, value in first["tags"].items():
                    self.client.set_tag(self.run_id, key, value)
            case "untag":
                if first["key"] in self.client.get_run(self.run_id).data.tags:
                    self.client.delete_tag(self.run_id, first["key"])
            case "text":
                self.client.log_text(self.run_id, first["text"], first["name"])
            case "file":
                if (path := self.outbox.folder / first["path"]).exists():
                    self.client.log_artifact(self.run_id, str(path), first["folder"])
            case "model":
                if (path := self.outbox.folder / first["path"]).exists():
                    register_model(self.client, self.run_id, path, unsure=self.unsure)
            case "end":
                self.client.set_terminated(self.run_id, first["status"], first["time"])

    def _log(self, points: list[Metric]) -> None:
        for i in range(0, len(points), BATCH):
            self.client.log_batch(self.run_id, metrics=points[i : i + BATCH])

    def _new(self, points: list[Metric]) -> list[Metric]:
        """Return the points whose step the store does not have."""
        for name in {point.key for point in points} - self._known.keys():
            history = self.client.get_metric_history(self.run_id, name)
            self._known[name] = {point.step for point in history}
        fresh = []
        for point in points:
            if point.step not in self._known[point.key]:
                self._known[point.key].add(point.step)
                fresh.append(point)
        return fresh

    def _do_singly(self, operations: list[Operation]) -> None:
        """Keep apart what MLflow never takes, and that alone. Raises what MLflow raises where it does not answer."""
        for operation in operations:
            parts = [{**operation, "points": [point]} for point in operation.get("points", ())] or [operation]
            for part in parts:
                try:
                    self._do([part])
                except MlflowException as error:
                    if error.error_code not in FINAL:
                        raise
                    self.outbox.refuse(part)
                    where = self.outbox.folder / "refused.jsonl"
                    log.warning("MLflow refused %s (%s); it is kept in %s", part["op"], cause(error), where)


class DeliveryThread:
    """Delivers every few seconds, in a thread, so that a store that fails or hangs costs the training nothing.

    errors: a context that turns what MLflow raises into StoreError. is_server: at the end it is not waited for if it fails.
    """

    FLUSH_SECONDS = 5.0
    """Seconds that metrics wait at most, if the store answers; a smaller number writes more often."""
    RETRY_SECONDS = 5.0
    """Seconds between two attempts while the store does not answer."""
    PATIENCE = 5.0, 60.0
    """Seconds that the end of a run waits for a server, or a file, that accepts nothing."""

    def __init__(
        self, delivery: Delivery, errors: Callable[[], AbstractContextManager[None]], *, is_server: bool
    ) -> None:
        self.delivery, self.errors, self.is_server = delivery, errors, is_server
        self.wake, self.ending = threading.Event(), False
        self.thread = threading.Thread(target=self._carry, name="courier", daemon=True)
        self.thread.start()

    def hurry(self) -> None:
        """Deliver soon, because much is waiting."""
        self.wake.set()

    def end(self) -> None:
        """Return when all is delivered, or when the store has taken nothing for as long as patience lasts."""
        self.ending = True
        self.wake.set()
        if not self.thread.is_alive():
            with suppress(StoreError), self.errors():
                self.delivery.deliver()
        patience = self.PATIENCE[0 if self.is_server else 1]
        done, since = self.delivery.count, time.monotonic()
        while self.thread.is_alive() and time.monotonic() - since < patience:
            self.thread.join(0.1)
            if self.delivery.count != done:
                done, since = self.delivery.count, time.monotonic()

    def _carry(self) -> None:
        troubled = False
        while True:
            self.wake.wait(self.RETRY_SECONDS if troubled else self.FLUSH_SECONDS)
            self.wake.clear()
            ending = self.ending
            try:
                with self.errors():
                    self.delivery.deliver()
                troubled = False
            except Exception as error:
                if not troubled:
                    again = f"what is logged waits on disk; next try every {self.RETRY_SECONDS:g} s"
                    log.warning("%s (%s)", one_line(error), again)
                troubled = True
            if ending and (self.is_server or not troubled):
                return

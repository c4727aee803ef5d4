"""Settles runs whose process has ended: killed ones are marked KILLED, and what waits on disk goes to the store."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from plexp.errors import StoreError
from plexp.execution.state import RunFolder, held, state_folder, unsettled_runs
from plexp.files import is_permitted
from plexp.tracking.delivery import Delivery
from plexp.tracking.format import masked, no_store, sqlite_uri
from plexp.tracking.outbox import Outbox
from plexp.tracking.permissions import can_write
from plexp.tracking.store import MlflowClient, connected, is_gone, sqlite_file, store_errors


def settle(client: MlflowClient, outputs: Path, uri: str | None) -> list[str]:
    """Settle the runs of an outputs folder that are recorded in a store (`uri` None: the folder's own).

    Returns a line for each. Raises StoreError if the store does not answer; the rest keeps waiting.
    """
    lines, store = [], None if uri is None else masked(uri)
    for folder, record in unsettled_runs(state_folder(outputs)):
        if record.store != store:
            continue
        with store_errors(uri, outputs), held(folder) as free:
            if free:
                folder.is_settled = False
                lines += _settle(client, folder)
                folder.is_settled = True
    return lines


def settle_outputs(outputs: Path, uri: str | None) -> list[str]:
    """Settle the runs of an outputs folder, for a command that has no client yet; see `settle`.

    Where nothing is to be settled, MLflow is not called.
    """
    if uri == sqlite_uri(outputs / "mlflow.db"):
        uri = None  # as the runs' records have it
    if not unsettled_runs(state_folder(outputs)):
        return []
    if uri is None and not os.path.isfile(outputs / "mlflow.db"):
        raise StoreError(no_store(uri, outputs))
    with connected(uri, outputs) as client:
        return settle(client, outputs, uri)


def can_settle(outputs: Path, uri: str | None) -> bool:
    """Return True if this user may write what settling the runs of an outputs folder changes: their state and the store."""
    file = sqlite_file(uri, outputs)
    return is_permitted(state_folder(outputs), os.W_OK) and (file is None or can_write(file))


def _settle(client: MlflowClient, folder: RunFolder) -> list[str]:
    """Settle one run, and return a line that says how; none if another process has just done it."""
    record, (beat, _, _) = folder.record(), folder.heartbeat()
    assert record is not None
    if record.status == "FINISHED" or record.pruned:  # its process was killed just before it would have done that
        folder.remove_progress()
    run_id = record.run_id or _by_tag(client, folder.path.name)
    actions = []
    if run_id is not None and is_gone(client, run_id):
        shutil.rmtree(folder.outbox, ignore_errors=True)
        folder.change(status="KILLED" if record.status == "RUNNING" else record.status)
        return [f"{record.name or folder.path.name} ({run_id}): it was deleted in MLflow"]
    outbox = Outbox(folder.outbox)
    if run_id is not None and len(outbox):
        actions.append(f"delivered what waited ({len(outbox)} operations)")
        Delivery(client, run_id, outbox, unsure=True).deliver()
    if beat:  # it stopped before MLflow knew of its end
        died = record.status == "RUNNING"
        status = "KILLED" if died else record.status
        error = ["its process was killed, or the power failed"] if died else record.error
        if run_id is not None:
            client.set_terminated(run_id, status, int(beat * 1000))
            if error and not died:
                client.set_tag(run_id, "error", error[0])
        folder.change(status=status, run_id=run_id, error=error)
        actions.append(f"{'died, ' if died else ''}marked {status}")
    return [f"{record.name or folder.path.name} ({run_id}): {', '.join(actions)}"] if actions else []


def _by_tag(client: MlflowClient, state: str) -> str | None:
    """Return the id of the run that was created just before its process died."""
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(ids, f"tags.state = '{state}'", max_results=1) if ids else []
    return runs[0].info.run_id if runs else None


def tag(outputs: Path, uri: str | None, run_id: str, tags: dict[str, str]) -> None:
    """Add tags to a finished run, if it is still there. Raises StoreError if the store does not answer."""
    with connected(uri, outputs) as client:
        if is_gone(client, run_id):
            return
        for key, value in tags.items():
            client.set_tag(run_id, key, value)

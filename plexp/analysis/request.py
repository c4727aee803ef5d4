"""One comparison from request to record: read the runs, compare, print, draw, and record it in MLflow as a run."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from plexp.analysis.compare import compare
from plexp.analysis.grouping import select
from plexp.analysis.model import Comparison
from plexp.analysis.report import print_comparison, write
from plexp.errors import Problem, StoreError, decoration, writing
from plexp.files import new_folder
from plexp.tracking.history import NO_CURVE, RecordedRun, open_history

log = logging.getLogger("plexp")


@dataclass(frozen=True)
class Request:
    """Runs to compare, and how."""

    uri: str | None
    """The store; None: the file in `outputs`."""
    outputs: Path
    env: str | None = None
    where: Mapping[str, Sequence[str]] | None = None
    """Values of params, groups or tags, one of which a run must have."""
    sweep: str | None = None
    by: Sequence[str] | None = None
    baseline: str | None = None
    threshold: float | None = None
    to: Path | None = None
    """Folder for the report; None: a new one in `outputs`, and where that is impossible, none."""


def run_comparison(request: Request, console: Console, tags: Mapping[str, str]) -> Path | None:
    """Print the comparison, write its report and log both; return the report's path, None if it cannot be written.

    `tags` are those of the comparison's own MLflow run, beside its kind: where it was made. A report or a run that cannot be
    written is left out, with a warning.

    Raises ConfigError or StoreError, one line each, for what cannot be compared, and for a report in a folder that was asked
    for; what was printed by then stays.
    """
    runs = recorded(request)
    comparison = compare(runs, by=request.by, baseline=request.baseline, threshold=request.threshold)
    print_comparison(comparison, console)
    try:
        files = _write_report(comparison, request)
    except StoreError as error:
        if request.to is not None:
            raise
        log.warning("no report is written: %s", error)
        return None
    console.print(f"report with pictures: {files[0]}", soft_wrap=True, highlight=False, markup=False)
    experiment = Counter(run.experiment for run in runs).most_common(1)[0][0]
    try:
        run_id = _keep(comparison, request, files, experiment, tags)
    except StoreError as error:
        log.warning("the report is not recorded in MLflow: %s", error)
    else:
        console.print(f"MLflow run {run_id}, in experiment {experiment}", soft_wrap=True, highlight=False, markup=False)
    return files[0]


def _write_report(comparison: Comparison, request: Request) -> list[Path]:
    """Write the report, and return its files. Raises StoreError if it cannot be written."""
    slug = re.sub(r"[^a-z0-9]+", "-", comparison.title.lower())[:60].strip("-")
    folder = request.to or request.outputs / "reports" / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{slug}"
    with writing("--to", folder, "give a folder that you can write: --to FOLDER"):
        return write(comparison, new_folder(folder) if request.to is None else folder)


def recorded(request: Request) -> list[RecordedRun]:
    """Return the runs that are asked for, the finished ones with their curves."""
    history = open_history(request.uri, request.outputs)
    runs = select(history.runs(), env=request.env, where=request.where or {}, sweep=request.sweep)
    curves = history.curves([run.run_id for run in runs if run.status == "FINISHED"])
    return [replace(run, curve=curves.get(run.run_id, NO_CURVE)) for run in runs]


def _keep(
    comparison: Comparison, request: Request, files: Sequence[Path], experiment: str, tags: Mapping[str, str]
) -> str:
    from plexp.tracking.tracker import Tracker  # with mlflow, which takes seconds: after what may be refused

    params = {
        "by": ",".join(comparison.by),
        "baseline": request.baseline,
        "threshold": comparison.threshold,
        "budget": int(comparison.grid[-1]),
        "groups": "; ".join(f"{group.label} ({len(group.members)})" for group in comparison.groups),
    }
    tracker = Tracker(
        uri=request.uri,
        outputs=request.outputs,
        outbox=files[0].parent / "outbox",
        experiment=experiment,
        run_name=f"comparison of {comparison.title}",
        params=params,
        tags={"kind": "comparison", "group": "comparison", **tags},
        training=False,
    )
    try:
        for file in files:
            tracker.log_file(file)
        with decoration("the description of the comparison"):
            tracker.describe("\n".join(f"- {sentence}" for sentence in comparison.verdicts))
    except BaseException:
        tracker.finish("FAILED")
        raise
    if not tracker.finish("FINISHED"):
        raise StoreError(str(Problem("report", files[0].parent, "the store does not take it", "compare again later")))
    return tracker.run_id

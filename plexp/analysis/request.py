"""One comparison from request to record: read the runs, compare, print, draw, and record it in MLflow as a run."""

from __future__ import annotations

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
from plexp.errors import Problem, StoreError, decoration
from plexp.files import new_folder
from plexp.tracking.format import cause
from plexp.tracking.history import NO_CURVE, RecordedRun, open_history


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


def run_comparison(request: Request, console: Console, tags: Mapping[str, str]) -> Path:
    """Print the comparison, write its report and log both; return the report's path.

    `tags` are those of the comparison's own MLflow run, beside its kind: where it was made.

    Raises ConfigError or StoreError, one line each; what was printed or written by then stays.
    """
    runs = recorded(request)
    comparison = compare(runs, by=request.by, baseline=request.baseline, threshold=request.threshold)
    print_comparison(comparison, console)
    slug = re.sub(r"[^a-z0-9]+", "-", comparison.title.lower())[:60].strip("-")
    folder = request.outputs / "reports" / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{slug}"
    try:
        files = write(comparison, new_folder(folder))
    except OSError as error:
        remedy = "give --outputs a folder that can be written and has space"
        raise StoreError(str(Problem("report", folder, cause(error), remedy))) from None
    console.print(f"report with pictures: {files[0]}", soft_wrap=True, highlight=False, markup=False)
    experiment = Counter(run.experiment for run in runs).most_common(1)[0][0]
    run_id = _keep(comparison, request, files, experiment, tags)
    console.print(f"MLflow run {run_id}, in experiment {experiment}", soft_wrap=True, highlight=False, markup=False)
    return files[0]


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

"""`plexp status`: what is done, running, interrupted, failed and why. Read from the outputs folder; needs no mlflow."""

from __future__ import annotations

import json
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from plexp.errors import ConfigError, Problem, decoration, nearest
from plexp.execution.resume import lost
from plexp.execution.state import Record, RunFolder, list_runs, state_folder
from plexp.tracking.permissions import ASK, can_read

if TYPE_CHECKING:
    from rich.console import Console


FILE, SEARCH = "sweep.json", "search.json"
SETTLED = ("FINISHED", "PRUNED")
EMPTY: Mapping[str, Any] = {}
Runs: TypeAlias = Sequence[tuple[RunFolder, Record]]
"""Runs with their records, in the order of their starts."""


@dataclass(frozen=True)
class Row:
    """A job of a sweep, or a run of its own."""

    status: str
    """FINISHED, PRUNED, RUNNING, INTERRUPTED, FAILED, REFUSED, WAITING, or DELETED: its run is not whole in MLflow."""
    job: int | None = None
    overrides: Sequence[str] = ()
    note: str = ""
    """Remark on how far it is, and since when."""
    final_return: float | None = None
    seconds: float | None = None
    errors: Sequence[str] = ()
    log: Path | None = None
    """File of its log."""


def status(outputs: Path, sweep: str | None, console: Console) -> None:
    """Print a sweep (the newest, if none is named), the unfinished runs outside it, and a line for each other sweep.

    Raises ConfigError if there is no such sweep, or nothing at all.
    """
    root = outputs / "sweeps"
    if not (can_read(root) and can_read(state_folder(outputs))):
        raise ConfigError(Problem("outputs", outputs, "it cannot be read by this user (Permission denied)", ASK))
    folders = sorted(file.parent for file in root.glob(f"*/{FILE}"))
    runs = list_runs(state_folder(outputs))
    if sweep is not None and sweep not in [folder.name for folder in folders]:
        known = [folder.name for folder in folders[-5:]]
        remedy = nearest(sweep, known) if known else "start one with: python -m plexp -m"
        raise ConfigError(Problem("--sweep", sweep, "there is no such sweep", remedy))
    if not folders and not runs:
        cause = "no run has been started there yet"
        raise ConfigError(Problem("outputs", outputs, cause, "start one with: python -m plexp"))
    chosen = root / sweep if sweep else folders[-1] if folders else None
    if chosen is not None:
        print_sweep(chosen, runs, console)
    newest = {record.identity: (folder, record) for folder, record in runs}  # of all attempts
    single = [(folder, record) for folder, record in newest.values() if not record.sweeps]
    gone = lost(single)
    alone = [_row(folder, record) for folder, record in single if folder.alive() or record.run_id not in gone]
    unfinished = [row for row in alone if row.status not in SETTLED]
    if unfinished:
        _table("runs outside sweeps that are not finished", unfinished, set(), console)
        _reasons(unfinished, console)
        if any(row.status in ("INTERRUPTED", "FAILED") for row in unfinished):
            console.print("the same command resumes a run from its last checkpoint")
    if not unfinished and chosen is None:
        number = f"{len(alone)} runs" if len(alone) != 1 else "1 run"
        deleted = f"; {len(gone)} deleted" if gone else ""
        console.print(f"{number} outside sweeps, finished{deleted}", highlight=False)
    if sweep is None:
        for folder in reversed([folder for folder in folders if folder != chosen]):
            line = f"sweep {folder.name}: {_counts(rows_of(folder, runs))}"
            console.print(line, highlight=False, soft_wrap=True, markup=False)


def is_complete(folder: Path, runs: Runs) -> bool:
    """Return True if all jobs of a sweep are finished, as far as their number is known."""
    return _is_complete(folder, rows_of(folder, runs))


def _is_complete(folder: Path, rows: Sequence[Row]) -> bool:
    is_under_way = sweep_record(folder).get("search", False) and not (searched(folder) or EMPTY).get("is_done")
    return bool(rows) and not is_under_way and all(row.status in SETTLED for row in rows)


def print_sweep(folder: Path, runs: Runs, console: Console) -> bool:
    """Print the table of a sweep, and return True if all its jobs are finished."""
    rows = rows_of(folder, runs)
    if not rows:
        return True
    complete = _is_complete(folder, rows)
    with decoration("the table of the sweep"):
        _print_rows(folder, rows, complete, console)
    return complete


def _print_rows(folder: Path, rows: Sequence[Row], complete: bool, console: Console) -> None:
    shared = set.intersection(*(set(row.overrides) for row in rows)) if len(rows) > 1 else set()
    title = " ".join([f"sweep {folder.name}", *sorted(shared)])
    if found := searched(folder):
        from plexp.sweeps.search_report import show  # with scipy

        console.print(title, soft_wrap=True, highlight=False, markup=False)
        _reasons(rows, console)
        show(found, console)
    else:
        _table(title, rows, shared, console)
        _reasons(rows, console)
    if not complete:
        command = f"python -m plexp {shlex.join(sweep_record(folder).get('arguments', ['-m', '…']))}"
        line = f"{_counts(rows)}; the same command does what is missing: {command}"
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def rows_of(folder: Path, runs: Runs, uri: str | None = None) -> list[Row]:
    """Return a row for every job of a sweep; see `lost` for `uri`."""
    jobs, results = sweep_record(folder).get("jobs"), _results(folder)
    own = [(run, record) for run, record in runs if folder.name in record.sweeps]
    gone = lost(own, uri)
    # in the order of their starts, so that the last one of a job counts of those that are there
    own.sort(key=lambda pair: pair[1].run_id not in gone)
    mine = {record.sweeps[folder.name]: (run, record) for run, record in own}
    rows = []
    for number in range(len(jobs)) if jobs is not None else sorted({*results, *mine}):
        result, (run, record) = results.get(number, {}), mine.get(number, (None, None))
        overrides = jobs[number] if jobs else result.get("overrides") or (record.overrides if record else [])
        where = folder / str(number)
        if run is None and result.get("status") == "FINISHED":  # another job has made the run, or a later sweep
            final, note = result.get("final_return"), "before" if "before" in result else ""
            row = Row("FINISHED", note=note, final_return=final)
        elif run is None or record is None or (result.get("status") == "REFUSED" and _newer(where, run)):
            state = {"KILLED": "INTERRUPTED"}.get(result.get("status", ""), result.get("status", "WAITING"))
            row = Row(state, errors=result.get("error", []))
        else:
            row = _row(run, record, result)
            if (reason := gone.get(str(record.run_id))) and row.status != "RUNNING":
                status = "PRUNED" if result.get("status") == "PRUNED" else "DELETED"
                row = replace(row, status=status, note=f"its run {reason}", final_return=None, errors=[])
        rows.append(replace(row, job=number, overrides=overrides, seconds=result.get("seconds"), log=where))
    return rows


def _row(run: RunFolder, record: Record, result: Mapping[str, Any] = EMPTY) -> Row:
    """Return the row of a run; `result` is its job's, which may have failed after the run, as for a missing objective."""
    (beat, steps, share), errors = run.heartbeat(), result.get("error") or record.error
    kept = run.checkpoint_steps()
    note = "before its first checkpoint" if kept is None else f"at step {kept:,}"
    match record.status:
        case "RUNNING" if run.alive():
            status = "RUNNING"
            note = f"{steps:,} steps ({share:.0%}), heartbeat {_ago(beat)} ago, process {record.pid} on {record.host}"
        case "RUNNING":
            status, errors = "INTERRUPTED", ["its process was killed, or the power failed"]
        case "KILLED" if record.pruned:
            status, note, errors = "PRUNED", record.pruned.partition(":")[0], []
        case "KILLED":
            status, errors = "INTERRUPTED", record.error
        case "FINISHED":
            status, note = "FAILED" if errors else "FINISHED", "before" if "before" in result else ""
        case _:
            status = "FAILED"
    final = (record.outcome or {}).get("final_return")
    return Row(status, None, record.overrides, note, final, errors=errors)


def _newer(where: Path, run: RunFolder) -> bool:
    """Return True if the job's result is newer than the run's record."""
    with suppress(OSError):
        return (where / "result.json").stat().st_mtime > (run.path / "run.json").stat().st_mtime
    return False


def _table(title: str, rows: Sequence[Row], shared: set[str], console: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console.print(title, soft_wrap=True, highlight=False, markup=False)
    table = Table(box=box.SIMPLE)
    in_sweep, noted = any(row.job is not None for row in rows), any(row.note for row in rows)
    names = ["job", "what differs", "status", "final return", "seconds"] if in_sweep else ["given", "status"]
    for name in [*names, *([""] if noted else [])]:
        table.add_column(name, justify="right" if name in ("final return", "seconds") else "left")
    for row in rows:
        differs = " ".join(override for override in row.overrides if override not in shared)
        figures = [_number(row.final_return), _number(row.seconds)] if in_sweep else []
        number = ["" if row.job is None else str(row.job)] if in_sweep else []
        table.add_row(*number, Text(differs), row.status, *figures, *([row.note] if noted else []))
    console.print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _reasons(rows: Sequence[Row], console: Console) -> None:
    """Print why jobs or runs are not finished: a line for each reason, with the jobs that share it and a log."""
    reasons: dict[str, list[Row]] = {}
    for row in rows:
        if row.errors and row.status not in SETTLED:
            reasons.setdefault("; ".join(row.errors), []).append(row)
    for reason, those in reasons.items():
        where = "" if those[0].log is None else f" (log in {those[0].log})"
        line = f"{_jobs([row.job for row in those if row.job is not None])}{reason}{where}"
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _jobs(numbers: Sequence[int]) -> str:
    """Return the jobs in words: `job 3: `, `jobs 0, 2 and 5: ` or `20 jobs, the first of them 0: `; empty for none."""
    if len(numbers) < 2:
        return "".join(f"job {number}: " for number in numbers)
    if len(numbers) > 5:
        return f"{len(numbers)} jobs, the first of them {numbers[0]}: "
    return f"jobs {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}: "


def _counts(rows: Sequence[Row]) -> str:
    counts = Counter(row.status for row in rows)
    order = ("FINISHED", "PRUNED", "RUNNING", "INTERRUPTED", "FAILED", "REFUSED", "DELETED", "WAITING")
    return f"of {len(rows)} jobs " + ", ".join(f"{counts[name]} {name.lower()}" for name in order if counts[name])


def searched(folder: Path) -> dict[str, Any] | None:
    """Return what a search has found so far; None if there is no search."""
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((folder / SEARCH).read_text())
        return found
    return None


def sweep_record(folder: Path) -> dict[str, Any]:
    """Return the record in a sweep's folder, empty if there is none."""
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((folder / FILE).read_text())
        return found
    return {}


def _results(folder: Path) -> dict[int, dict[str, Any]]:
    found = {}
    for file in folder.glob("*/result.json"):
        if file.parent.name.isdigit():
            with suppress(OSError, ValueError):
                found[int(file.parent.name)] = json.loads(file.read_text())
    return found


def _ago(moment: float) -> str:
    return f"{max(0.0, time.time() - moment):.0f} s"

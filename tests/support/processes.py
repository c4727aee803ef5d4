"""Helpers of tests and fault scripts that run plexp in processes of its own and compare everything runs recorded."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from safetensors.numpy import load_file

CHECKOUT = Path(__file__).parents[2]
EPISODES = "episodes.safetensors"
CLOCK = ("time/", "eval/seconds", "speed/seconds_to_threshold")
"""Prefixes of the metrics that measure durations: the only ones in which two runs of one seed may differ."""


def start(arguments: Sequence[str], *, code: str | None = None, **options: Any) -> subprocess.Popen[str]:
    """Start `python -m plexp`, or the program `code`, in a process group of its own."""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    command = [sys.executable, *(("-m", "plexp") if code is None else ("-c", code)), *arguments]
    return subprocess.Popen(command, **{"env": environment, "cwd": CHECKOUT, **streams, **options})


def finish(arguments: Sequence[str], seconds: float = 600.0, **options: Any) -> tuple[int, str]:
    """Run `python -m plexp` to its end; return the exit status and the output on stderr."""
    with start(arguments, **options) as process:
        _, errors = process.communicate(timeout=seconds)
    return process.returncode, errors or ""


def kill(process: subprocess.Popen[str], after: float, number: int = signal.SIGKILL) -> float | None:
    """Send a signal to the process, not to its group, after so many seconds.

    Returns the seconds until its end, or None if it had ended before.
    """
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        began = time.monotonic()
        os.kill(process.pid, number)
        process.communicate()
        return time.monotonic() - began
    process.communicate()
    return None


def runs(outputs: Path) -> list[dict[str, Any]]:
    """Return every run of a store: id, status, tags, params, metrics as {name: [(step, value), …]}, folder, name."""
    with closing(sqlite3.connect(f"{(outputs / 'mlflow.db').absolute().as_uri()}?mode=ro", uri=True)) as store:
        found = store.execute("SELECT run_uuid, status, artifact_uri, name FROM runs ORDER BY start_time").fetchall()
        result = []
        for run, status, files, name in found:
            rows = store.execute("SELECT key, step, value, is_nan FROM metrics WHERE run_uuid = ?", (run,)).fetchall()
            metrics: dict[str, list[tuple[int, Any]]] = {}
            for key, step, value, is_nan in rows:
                metrics.setdefault(key, []).append((step, "nan" if is_nan else value))
            tags = dict(store.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run,)))
            params = dict(store.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run,)))
            folder = Path(url2pathname(urlsplit(files).path))
            sorted_metrics = {key: sorted(points, key=lambda point: point[0]) for key, points in metrics.items()}
            record = {"id": run, "status": status, "tags": tags, "params": params, "metrics": sorted_metrics}
            result.append({**record, "folder": folder, "name": name})
    return result


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Return the differences of two runs of one configuration in weights, metrics except durations, and episodes.

    Steps logged twice and a status other than FINISHED are listed too.
    """
    found = []
    weights = [load_file(run["folder"] / "agent.safetensors") for run in (ours, theirs)]
    if weights[0].keys() != weights[1].keys():
        found.append("names of weights")
    found += [f"weights {name}" for name, array in weights[0].items() if array.tobytes() != weights[1][name].tobytes()]
    names = ours["metrics"].keys() | theirs["metrics"].keys()
    for name in sorted(names):
        mine, other = ours["metrics"].get(name, []), theirs["metrics"].get(name, [])
        if [step for step, _ in mine] != [step for step, _ in other]:
            found.append(f"steps of {name}")
        if not name.startswith(CLOCK) and mine != other:
            found.append(f"values of {name}")
        found += [f"{name} twice at step {step}" for step, n in Counter(step for step, _ in mine).items() if n > 1]
    if (ours["folder"] / "episodes.csv").read_text() != (theirs["folder"] / "episodes.csv").read_text():
        found.append("episodes.csv")
    if (ours["folder"] / EPISODES).read_bytes() != (theirs["folder"] / EPISODES).read_bytes():
        found.append(EPISODES)
    return found + [f"status {run['status']}" for run in (ours, theirs) if run["status"] != "FINISHED"]


def wait_for(what: Any, seconds: float = 180.0) -> Any:
    """Return the result of `what()` once it is true; raise TimeoutError after `seconds`."""
    until = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.02)
    return found

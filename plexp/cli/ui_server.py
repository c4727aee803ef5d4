"""Starts MLflow's server on a store, and prints links into it. Imports no MLflow, so that `plexp ui` starts quickly."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from urllib.request import ProxyHandler, Request, build_opener

from plexp.errors import decoration
from plexp.tracking import views as ui_views
from plexp.tracking.format import cause, masked, no_store, sqlite_uri
from plexp.tracking.permissions import can_open, database_of, problem_of_reading, reading_uri

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(*, uri: str | None, outputs: Path, host: str = "127.0.0.1", port: int = 5000) -> int:
    """Run MLflow's server on a store until Ctrl-C, and print a link to each experiment's curves, the newest first.

    Returns the exit status: 0 after Ctrl-C, 1 if the server failed, 2 if there is nothing to serve or the port is taken.
    """
    if uri and uri.startswith("http"):
        print(f"{masked(uri)} is a server already; open {masked(uri).rstrip('/')}/#/experiments?{ui_views.ML}")
        return 0
    if uri is None and not os.path.isfile(outputs / "mlflow.db"):
        print(no_store(uri, outputs), file=sys.stderr)
        return 2
    address = uri or sqlite_uri(outputs / "mlflow.db")
    if (file := database_of(address)) is not None and file.is_file() and not can_open(file):
        place = ("outputs", str(outputs)) if uri is None else ("--uri", masked(uri))
        if (problem := problem_of_reading(*place, file)) is not None:
            print(problem, file=sys.stderr)
            return 2
        address = reading_uri(address)
    if reason := _occupied(host, port):
        print(f"--host {host} --port {port}: {reason}; choose another --port or --host", file=sys.stderr)
        return 2
    if host not in LOOPBACK:
        advice = "Whoever reaches it can read, change and delete every run; hosts outside: MLFLOW_SERVER_ALLOWED_HOSTS"
        print(f"warning: --host {host}: MLflow asks for no password. {advice}", file=sys.stderr)
    with suppress(ValueError):  # not in the main thread; else SIGTERM and a closed terminal end the server too
        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.default_int_handler)
    with tempfile.TemporaryFile() as output:
        server = _start(address, outputs, host, port, output)
        try:
            return _attend(server, host, port, output)
        except KeyboardInterrupt:
            return 0
        finally:
            _stop(server)


def _start(uri: str, outputs: Path, host: str, port: int, output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a small server: one worker, and no job runners, which would be 13 more processes."""
    environment = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": uri,  # in the command line every user of the machine could read its password
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": os.environ.get("MLFLOW_DISABLE_TELEMETRY", "true"),
        "PYTHONSAFEPATH": "1",  # else a file types.py in the current folder stops it
    }
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", host, "--port", str(port)]
    command += ["--artifacts-destination", Path(os.path.abspath(outputs), "artifacts").as_uri()]  # of runs over http
    return subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)


def _attend(server: subprocess.Popen[bytes], host: str, port: int, output: IO[bytes]) -> int:
    """Print the links as soon as the server answers, and wait for its end."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    address = f"http://[{local}]:{port}" if ":" in local else f"http://{local}:{port}"
    while server.poll() is None and not _answers(local, port):
        time.sleep(0.1)
    if server.poll() is None:
        print(f"MLflow runs at {address} until Ctrl-C. Learning curves, the newest experiment first:", flush=True)
        with suppress(OSError):  # the server may refuse its own address as --host; it runs all the same
            for line in _experiments(address):
                print(line, flush=True)
        server.wait()
    output.seek(0)
    lines = output.read().decode(errors="replace").splitlines()
    reason = [line for line in lines if re.search(r"(Error|Exception): ", line)] or lines
    print(f"MLflow's server ended with status {server.returncode}: {cause(Exception(*reason[-1:]))}", file=sys.stderr)
    return 1


def _experiments(address: str) -> Iterator[str]:
    """Yield links to the experiments that have runs, the one with the newest run first, and save or renew their views."""
    opener = build_opener(ProxyHandler({}))

    def post(method: str, **body: object) -> Any:
        header = {"Content-Type": "application/json"}
        request = Request(f"{address}/api/2.0/mlflow/{method}", json.dumps(body).encode(), header)
        with opener.open(request, timeout=60) as response:
            return json.load(response)

    def newest(key: str, **which: object) -> list[Any]:
        order = ["attributes.start_time DESC"]
        return list(post("runs/search", experiment_ids=[key], max_results=1, order_by=order, **which).get("runs", []))

    experiments = post("experiments/search", max_results=1000).get("experiments", [])
    newest_starts = {
        experiment["experiment_id"]: runs[0]["info"]["start_time"]
        for experiment in experiments
        if (runs := newest(experiment["experiment_id"]))
    }
    for experiment in sorted(experiments, key=lambda e: newest_starts.get(e["experiment_id"], 0), reverse=True):
        key = experiment["experiment_id"]
        if key not in newest_starts:
            continue
        tags = {tag["key"]: tag["value"] for tag in experiment.get("tags", [])}
        with decoration(f"the saved view of the experiment {experiment['name']}"):
            for tag, value in ui_views.saved_views().items():
                if not ui_views.is_same_view(tags.get(tag, ""), value):
                    post("experiments/set-experiment-tag", experiment_id=key, key=tag, value=value)
        yield f"  {experiment['name']}: {ui_views.link(address, key)}"
        yield f"    as a table: {ui_views.link(address, key, ui_views.TABLE)}"
        for run in newest(key, filter="tags.kind = 'comparison'"):
            report = ui_views.link_to_file(address, key, run["info"]["run_id"], "report.html")
            yield f"    newest comparison: {report}"


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Stop the server and its worker, which share a process group of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(10)


def _occupied(host: str, port: int) -> str:
    """Return why the port cannot be used; empty if it can."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            return cause(error)
    return ""


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True

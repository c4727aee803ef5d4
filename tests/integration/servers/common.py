"""Temporary servers of PostgreSQL and MLflow on loopback, and a function with many writers on one store."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

from mlflow import MlflowClient

from plexp.tracking.tracker import Tracker


def binaries() -> Path | None:
    """Return the folder of initdb and pg_ctl, which Debian keeps out of PATH (the newest); None if there is none."""
    found = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    return Path(found).parent if found else debian[-1].parent if debian else None


def missing() -> str:
    """Return what is missing to run PostgreSQL here; empty if nothing is."""
    if binaries() is None:
        return "there is no initdb: apt-get install postgresql"
    return "" if find_spec("psycopg") else 'there is no psycopg: pip install "plexp[postgresql]"'


@dataclass
class PostgreSQL:
    """PostgreSQL server of the tests, in a folder that is deleted with it."""

    folder: Path
    port: int
    password: str
    account: str | None
    """User that it runs as, since it refuses root; None: the current user."""

    def uri(self, password: str | None = None) -> str:
        """Return the address of the database, with the right password unless another is given."""
        return f"postgresql+psycopg://plexp:{password or self.password}@127.0.0.1:{self.port}/postgres"

    def control(self, *arguments: str) -> None:
        """Run pg_ctl on the server."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200"
        self.run("pg_ctl", "-w", "-o", options, "-l", str(self.folder / "log"), *arguments)

    def run(self, name: str, *arguments: str) -> None:
        command = [str((binaries() or Path()) / name), "-D", str(self.folder / "data"), *arguments]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
        others: dict[str, Any] = (
            {"user": self.account, "group": self.account, "extra_groups": []} if self.account else {}
        )
        subprocess.run(command, check=True, timeout=120, **quiet, **others)


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """Run PostgreSQL on a free port of loopback, with a password."""
    folder, account = Path(tempfile.mkdtemp()), "postgres" if os.geteuid() == 0 else None
    server = PostgreSQL(folder, free_port(), secrets.token_hex(8), account)
    try:
        (folder / "password").write_text(server.password)
        if account:
            for path in (folder, folder / "password"):
                shutil.chown(path, account)
        server.run("initdb", "-A", "scram-sha-256", "-U", "plexp", f"--pwfile={folder / 'password'}", "-E", "UTF8")
        server.control("start")
        yield server
        server.control("stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def mlflow_server(uri: str, folder: Path, workers: int = 2) -> Iterator[str]:
    """Run MLflow's server on a store, as the README shows, and yield its address."""
    port = free_port()
    lean = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", str(workers)]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | lean | {"MLFLOW_BACKEND_STORE_URI": uri}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + 120
        while not is_healthy(port):
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError((folder / "server.log").read_text()[-2000:])
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def free_port() -> int:
    """Return a port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_healthy(port: int) -> bool:
    """Return whether MLflow answers on a port; it listens there some seconds before it does."""
    try:
        with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/health", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@dataclass(frozen=True)
class Written:
    """Result of many writers on one store."""

    seconds: float
    """Time from the start of the writers to the end of the last one."""
    complete: int
    """Runs that are FINISHED, with the right value at every step."""
    lost: int
    """Points that are not in the store."""
    twice: int
    """Surplus points, of steps that were stored more than once."""
    waiting: int
    """Writers that ended before everything was delivered."""


def write_at_once(uri: str | None, outputs: Path, writers: int, points: int) -> Written:
    """Start processes that each log a run of so many points as fast as they can; read everything back and count it."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(writers + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, about forking with threads
        processes = [context.Process(target=_write, args=(uri, outputs, i, points, barrier)) for i in range(writers)]
        for process in processes:
            process.start()
    barrier.wait()
    began = time.monotonic()
    for process in processes:
        process.join(600)
    seconds = time.monotonic() - began
    client = MlflowClient(uri or f"sqlite:///{outputs}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("writers").experiment_id])
    complete = lost = twice = 0
    for run in runs:
        history = client.get_metric_history(run.info.run_id, "x")
        found = Counter((point.step, point.value) for point in history)
        wanted = {(step, float(step)) for step in range(points)}
        lost, twice = lost + len(wanted - found.keys()), twice + sum(n - 1 for n in found.values())
        complete += run.info.status == "FINISHED" and found.keys() == wanted
    waiting = sum(process.exitcode != 0 for process in processes)
    return Written(seconds, complete, lost + points * (writers - len(runs)), twice, waiting)


def _write(uri: str | None, outputs: Path, number: int, points: int, barrier: Any) -> None:
    barrier.wait()
    names = {"experiment": "writers", "run_name": f"writer {number}", "params": {"seed": number}, "tags": {}}
    run = Tracker(uri=uri, outputs=outputs, outbox=outputs / "state" / str(number) / "outbox", **names)  # type: ignore[arg-type]
    for step in range(points):
        run.log({"x": float(step)}, step)
    sys.exit(0 if run.finish("FINISHED") else 3)

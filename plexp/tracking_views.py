"""MLflow from outside: what its pages show first, the server that shows them, the names and texts it takes.

Imports no mlflow, so that `plexp ui` starts quickly.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from urllib.request import ProxyHandler, Request, build_opener

VIEW = "plexp"
"""Key of the saved view in an experiment's tags and in links."""
ML = "workflowType=machine_learning"
"""In a link; without it MLflow opens its pages for language models."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
COLUMNS = (
    *(f"params.`{name}`" for name in ("algo.plugin", "advantage.plugin", "net.plugin", "net.layers", "seed")),
    *(f"metrics.`{name}`" for name in ("eval/final_return", "speed/steps_to_threshold", "stability/max_drawdown")),
)
SECTIONS: list[dict[str, Any]] = [
    {"uuid": name, "name": name, "display": True, "isReordered": True, "columns": columns, "cardHeight": height}
    for name, columns, height in (("eval", 2, 460), ("train", 3, 320), ("time", 3, 320))
]
COMMON = {"metricSectionId": "eval", "runsCountToCompare": 10, "deleted": False, "isGenerated": False}
LINE = {
    "type": "LINE",
    "lineSmoothness": 0,
    "xAxisScaleType": "linear",
    "scaleType": "linear",
    "range": {},
    "xAxisKey": "step",
    "selectedXAxisMetricKey": "",
    "displayPoints": False,
    "yAxisKey": "metric",
    "yAxisExpressions": [],
    "ignoreOutliers": False,
    "useGlobalXaxisKey": True,
    "useGlobalLineSmoothing": True,
}
CHARTS: list[dict[str, Any]] = [
    {**COMMON, **LINE, "uuid": "return", "metricKey": "eval/return", "displayName": "return"},
    {**COMMON, "type": "BAR", "uuid": "final_return", "metricKey": "eval/final_return", "displayName": "final return"},
]


def saved_view() -> dict[str, str]:
    """The experiment tag that holds the view: runs grouped by their tag `group`, charts over environment steps.

    The format is that of MLflow 3.17's own "share" button; it is documented nowhere.
    """
    state: dict[str, Any] = {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": ["attributes.`Run Name`", *COLUMNS],
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "SHOW_ALL",
        "viewMaximized": False,
        "runListHidden": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "group"}]},
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    state |= {"compareRunSections": SECTIONS, "compareRunCharts": CHARTS, "isAccordionReordered": True}
    now = int(time.time() * 1000)
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    view = {"name": "curves averaged over seeds", "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
    return {f"mlflow.sharedViewState.{VIEW}": json.dumps(view)}


def link(server: str, experiment_id: str) -> str:
    """To an experiment's charts."""
    return f"{server}/#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW}&{ML}&compareRunsMode=CHART"


def serve(*, uri: str | None, outputs: Path, host: str = "127.0.0.1", port: int = 5000) -> int:
    """Run MLflow's server on a store until Ctrl-C, and print a link to each experiment's curves, the newest first.

    Returns the exit status: 0 after Ctrl-C, 1 if the server failed, 2 if there is nothing to serve or no place to.
    """
    if uri and uri.startswith("http"):
        print(f"{masked(uri)} is a server already; open {masked(uri).rstrip('/')}/#/experiments?{ML}")
        return 0
    if uri is None and not (outputs / "mlflow.db").is_file():
        print(f"outputs={outputs}: no run has been kept there yet; start one with: python -m plexp", file=sys.stderr)
        return 2
    if reason := _occupied(host, port):
        print(f"--host {host} --port {port}: {reason}; choose another --port or --host", file=sys.stderr)
        return 2
    if host not in LOOPBACK:
        advice = "Whoever reaches it can read, change and delete every run; hosts outside: MLFLOW_SERVER_ALLOWED_HOSTS"
        print(f"warning: --host {host}: MLflow asks for no password. {advice}", file=sys.stderr)
    with suppress(ValueError):  # not in the main thread; else SIGTERM and a closed terminal end the server too
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryFile() as output:
        server = _start(uri or sqlite_uri(outputs / "mlflow.db"), outputs, host, port, output)
        try:
            return _attend(server, host, port, output)
        except KeyboardInterrupt:
            return 0
        finally:
            _stop(server)


def _start(uri: str, outputs: Path, host: str, port: int, output: IO[bytes]) -> subprocess.Popen[bytes]:
    """The lean server: one worker, no job runners (which are 13 processes more)."""
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
            for experiment_id, name in _experiments(address):
                print(f"  {name}: {link(address, experiment_id)}", flush=True)
        server.wait()
    output.seek(0)
    lines = output.read().decode(errors="replace").splitlines()
    reason = [line for line in lines if re.search(r"(Error|Exception): ", line)] or lines
    print(f"MLflow's server ended with status {server.returncode}: {cause(Exception(*reason[-1:]))}", file=sys.stderr)
    return 1


def _experiments(address: str) -> list[tuple[str, str]]:
    """(id, name) of those that have runs, the one with the newest run first; gives those without it the saved view."""
    opener = build_opener(ProxyHandler({}))

    def post(method: str, **body: object) -> Any:
        header = {"Content-Type": "application/json"}
        request = Request(f"{address}/api/2.0/mlflow/{method}", json.dumps(body).encode(), header)
        with opener.open(request, timeout=60) as response:
            return json.load(response)

    newest = {}
    for experiment in post("experiments/search", max_results=1000).get("experiments", []):
        key, last = experiment["experiment_id"], {"max_results": 1, "order_by": ["attributes.start_time DESC"]}
        if runs := post("runs/search", experiment_ids=[key], **last).get("runs"):
            newest[key, experiment["name"]] = runs[0]["info"]["start_time"]
            for tag, value in saved_view().items():
                if tag not in [known["key"] for known in experiment.get("tags", [])]:
                    post("experiments/set-experiment-tag", experiment_id=key, key=tag, value=value)
    return sorted(newest, key=lambda experiment: newest[experiment], reverse=True)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """The server and its worker, which share a process group of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(10)


def _occupied(host: str, port: int) -> str:
    """Why nobody can listen there; empty if one can."""
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


def sqlite_uri(path: Path) -> str:
    """A database file as MLflow names it."""
    return f"sqlite:///{os.path.abspath(path)}"


def name_for_mlflow(name: str) -> str:
    """As MLflow takes it for metrics, params and tags: other characters become `_`, empty parts of the path vanish."""
    parts = [part if part.strip(".") else "_" for part in re.sub(r"[^\w/.\- :]", "_", name).split("/") if part]
    return "/".join(parts)[:250].rstrip("/") or "_"


def text_for_mlflow(value: object) -> str:
    """As it is typed on the command line: null, true, 0.5, [64,64]."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(text_for_mlflow, value))}]"
    return str(value)


def cut(text: str, limit: int) -> str:
    """At most `limit` characters: beginning and end of a longer text, and how long it was."""
    if len(text) <= limit:
        return text
    note = f" … [{len(text)} characters] … "
    head = (limit - len(note)) * 2 // 3
    return text[:head] + note + text[head + len(note) - limit :]


def masked(text: str) -> str:
    """Without the credentials in its addresses."""
    return re.sub(r"([?&][^=&\s]+=)[^&\s]+", r"\1***", re.sub(r"://\S*@", "://***@", text))


def cause(error: Exception) -> str:
    """One line: the innermost reason in an exception's text, or its beginning."""
    if isinstance(error, FileExistsError):
        return "is a file, not a folder"
    text = masked(" ".join(str(error).split())) or type(error).__name__
    reason = re.search(r"(?<=\[Errno )-?\d+\] [^'\")]+|Connection to \S+ timed out|Read timed out", text)
    if reason:
        return reason[0].partition("] ")[2].strip(": ") or reason[0]
    text = re.split(r" \[SQL: | \(Background on", text)[0]
    return text if len(text) <= 240 else f"{text[:240]}…"

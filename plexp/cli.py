"""The commands. Importing this module, composing and completing need neither torch nor mlflow."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from plexp import CONF, conf_folders

log = logging.getLogger("plexp")
OK, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
_status = OK
_sweep_folder: Path | None = None


class UserConf(SearchPathPlugin):
    """Finds `conf/` of the current folder too, for plugins of one's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in conf_folders()[1:]:
            search_path.append("plexp-user", f"file://{folder}")


class SweepFolder(Callback):
    """Remembers where the jobs of a sweep leave their results."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        global _sweep_folder
        _sweep_folder = Path(config.hydra.sweep.dir)


class Terminated(KeyboardInterrupt):
    """SIGTERM."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit status: 0 done, 1 failed, 2 wrong configuration, 130 Ctrl-C, 143 SIGTERM."""
    arguments = sys.argv[1:] if arguments is None else arguments
    match arguments[:1]:
        case ["plugins"]:
            return _plugins(arguments[1:])
        case ["ui"]:
            return _ui(arguments[1:])
    return _experiment(arguments)


def _experiment(arguments: list[str]) -> int:
    from plexp.explain import explain

    global _status
    _status = OK
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us, to be said in one line
    os.environ["PLEXP_SWEEP"] = time.strftime("%Y-%m-%d_%H-%M-%S")
    Plugins.instance().register(UserConf)
    sys.argv = ["plexp", *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    except KeyboardInterrupt as interrupt:
        print("interrupted; what was logged so far is kept, and the run is marked KILLED", file=sys.stderr)
        return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else USAGE
    except Exception as error:
        problem = explain(error, arguments)
        if problem is None:
            raise
        print(problem, file=sys.stderr)
        return USAGE
    finally:
        if _sweep_folder is not None and _sweep_folder.is_dir():
            _status = _report(_sweep_folder)
    return _status


def task(cfg: DictConfig) -> float | None:
    """One job: build, run, report. It never raises, but for an interrupt, so that a sweep goes on without it."""
    global _status
    hydra_config = HydraConfig.get()
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    result: dict[str, Any] = {
        "job": hydra_config.job.num if in_sweep else 0,
        "overrides": list(hydra_config.overrides.task),
    }
    started = time.time()
    try:
        with _sigterm_as_interrupt():
            result |= {"status": "FINISHED", **_run(cfg, in_sweep)}
    except KeyboardInterrupt:
        result |= {"status": "KILLED"}
        raise
    except Exception as error:
        _status, lines = _say(error)
        result |= {"status": "REFUSED" if _status == USAGE else "FAILED", "error": lines}
        if _status == FAILED:
            file = Path(hydra_config.runtime.output_dir, "traceback.txt")
            file.write_text(traceback.format_exc())
            lines = [f"{' '.join(lines)} (traceback in {file})"]
        if in_sweep:
            log.error("\n".join(lines))
        else:
            print("\n".join(lines), file=sys.stderr)
    finally:
        result["seconds"] = time.time() - started
        Path(hydra_config.runtime.output_dir, "result.json").write_text(json.dumps(result, indent=1))
    return result.get("final_return")


def _run(cfg: DictConfig, in_sweep: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from rich.console import Console

    from plexp.experiment import build

    experiment = build(cfg)
    from plexp.run import run, verdict  # with mlflow, which takes seconds: after what may be refused

    tags = {"group": _group(experiment.group)} | ({"sweep": os.environ["PLEXP_SWEEP"]} if in_sweep else {})
    console = Console(quiet=in_sweep)
    outcome = run(experiment, tags, console)
    speed = outcome.steps / max(outcome.seconds, 1e-9)
    if in_sweep:
        log.info("%s: %s", outcome.name, verdict(outcome))
    effort = f"{outcome.steps:,} steps in {outcome.seconds:.1f} s ({speed:,.0f} steps/s)"
    console.print(f"[bold]{outcome.name}[/bold]  {effort}", highlight=False)
    console.print(f"{verdict(outcome)}", highlight=False, soft_wrap=True)
    console.print(f"MLflow run {outcome.run_id}; browse it with: python -m plexp ui", highlight=False, soft_wrap=True)
    return asdict(outcome)


def _group(name: str) -> str:
    """What charts average over: the run's name without its seed, and whatever else was changed."""
    overrides = HydraConfig.get().overrides.task
    named = ("seed", "algo", "net", "net.layers", "net.width", "advantage", "env", "outputs")
    return " ".join([name, *sorted(o for o in overrides if o.lstrip("+").partition("=")[0] not in named)])


def _say(error: Exception) -> tuple[int, list[str]]:
    """The exit status of a failed job and the lines that say why."""
    from plexp.errors import ConfigError, StoreError, TrainingError, one_line
    from plexp.explain import explain

    if isinstance(error, ConfigError | StoreError):
        return USAGE, str(error).splitlines()
    if isinstance(error, OmegaConfBaseException):
        return USAGE, [str(explain(error, []))]
    if isinstance(error, TrainingError):
        return FAILED, [str(error)]
    return FAILED, [f"{type(error).__name__}: {one_line(error)}"]


def _report(folder: Path) -> int:
    """Print what ran and what failed; 1 if any job did."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    files = sorted(
        folder.glob("*/result.json"), key=lambda file: int(file.parent.name) if file.parent.name.isdigit() else 0
    )
    results = [(file.parent, json.loads(file.read_text())) for file in files]
    if not results:
        return OK
    shared = set.intersection(*(set(result["overrides"]) for _, result in results)) if len(results) > 1 else set()
    title = " ".join([f"sweep {os.environ['PLEXP_SWEEP']}", *sorted(shared)])
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for column in ("job", "what differs", "status", "final return", "seconds"):
        table.add_column(column, justify="right" if column in ("final return", "seconds") else "left")
    for _, result in results:
        differs = " ".join(override for override in result["overrides"] if override not in shared)
        final = f"{result['final_return']:.1f}" if "final_return" in result else ""
        table.add_row(str(result["job"]), differs, result["status"], final, f"{result['seconds']:.1f}")
    console = Console()
    console.print(table)
    failed = [(where, result) for where, result in results if result["status"] != "FINISHED"]
    for where, result in failed:
        console.print(
            f"job {result['job']}: {'; '.join(result.get('error', ['interrupted']))} (log in {where})", soft_wrap=True
        )
    return FAILED if failed else OK


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM raises, so that the run is closed as KILLED."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _plugins(arguments: list[str]) -> int:
    from plexp.catalogue import describe, overview
    from plexp.errors import ConfigError

    parser = argparse.ArgumentParser("plexp plugins", description="List every plugin, or describe one.")
    parser.add_argument("name", nargs="?", help="a plugin, such as ppo, or a group and a plugin, such as algo/ppo")
    name = parser.parse_args(arguments).name
    try:
        return overview() if name is None else describe(name)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return USAGE


def _ui(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("plexp ui", description="Browse the runs in MLflow.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="the folder given as outputs=")
    parser.add_argument("--uri", help="another store, as given as tracker.uri=")
    options = parser.parse_args(arguments)
    from plexp.tracking_views import serve

    return serve(uri=options.uri, outputs=options.outputs.absolute(), host=options.host, port=options.port)

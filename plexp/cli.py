"""The commands. Importing this module, composing and completing need neither torch nor mlflow."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig

from plexp import CONF, conf_folders, job
from plexp.errors import ConfigError, StoreError
from plexp.job import FAILED, INTERRUPTED, OK, TERMINATED, USAGE

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


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit status: 0 done, 1 failed, 2 wrong configuration, 130 Ctrl-C, 143 SIGTERM."""
    arguments = sys.argv[1:] if arguments is None else arguments
    match arguments[:1]:
        case ["plugins"]:
            return _plugins(arguments[1:])
        case ["compare"]:
            return _compare(arguments[1:])
        case ["ui"]:
            return _ui(arguments[1:])
    return _experiment(arguments)


def _experiment(arguments: list[str]) -> int:
    from plexp.explain import explain

    job.status = OK
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us, to be said in one line
    os.environ["PLEXP_SWEEP"] = time.strftime("%Y-%m-%d_%H-%M-%S")
    Plugins.instance().register(UserConf)
    sys.argv = ["plexp", *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job.task)()
    except KeyboardInterrupt as interrupt:
        print("interrupted; what was logged so far is kept, and the run is marked KILLED", file=sys.stderr)
        return TERMINATED if isinstance(interrupt, job.Terminated) else INTERRUPTED
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
            job.status = _report(_sweep_folder)
    return job.status


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


def _plugins(arguments: list[str]) -> int:
    from plexp.catalogue import describe, overview

    parser = argparse.ArgumentParser("plexp plugins", description="List every plugin, or describe one.")
    parser.add_argument("name", nargs="?", help="a plugin, such as ppo, or a group and a plugin, such as algo/ppo")
    name = parser.parse_args(arguments).name
    try:
        return overview() if name is None else describe(name)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return USAGE


def _compare(arguments: list[str]) -> int:
    usage = "Which learns faster, which is steadier, and is it more than luck? Compares the runs that MLflow holds."
    parser = argparse.ArgumentParser("plexp compare", description=usage)
    parser.add_argument("--env", help="the environment, such as cartpole, or an MLflow experiment")
    parser.add_argument(
        "--by", type=_names, help="params or groups that make the groups: algo,net.layers; all that differ"
    )
    parser.add_argument("--where", action="append", default=[], type=_condition, metavar="KEY=VALUE[,VALUE]")
    parser.add_argument("--sweep", help="only runs of this sweep (their tag sweep)")
    parser.add_argument("--baseline", metavar="GROUP", help="compare with this group alone, such as net.layers=2")
    parser.add_argument("--threshold", type=float, help="mean return that counts as learnt; env.solved_return")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="the folder given as outputs=")
    parser.add_argument("--uri", help="another store, as given as tracker.uri=")
    options = parser.parse_args(arguments)
    from rich.console import Console

    from plexp.comparison_run import Request, run_comparison

    request = Request(**{**vars(options), "where": dict(options.where), "outputs": options.outputs.absolute()})
    try:
        run_comparison(request, Console())
    except (ConfigError, StoreError) as error:
        print(error, file=sys.stderr)
        return USAGE
    return OK


def _names(text: str) -> list[str]:
    return [name for name in text.replace(" ", "").split(",") if name]


def _condition(text: str) -> tuple[str, list[str]]:
    key, sign, values = text.partition("=")
    if not key or not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, values.split(",")


def _ui(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("plexp ui", description="Browse the runs in MLflow.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="the folder given as outputs=")
    parser.add_argument("--uri", help="another store, as given as tracker.uri=")
    options = parser.parse_args(arguments)
    from plexp.tracking_views import serve

    return serve(uri=options.uri, outputs=options.outputs.absolute(), host=options.host, port=options.port)

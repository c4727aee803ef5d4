"""The commands. Importing this module, composing and completing need neither torch nor mlflow."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from plexp import CONF, conf_folders, job, sweeps
from plexp.credentials import mask_logs
from plexp.errors import ConfigError, StoreError
from plexp.job import FAILED, INTERRUPTED, OK, TERMINATED, USAGE
from plexp.tracking_views import masked


class UserConf(SearchPathPlugin):
    """Finds `conf/` of the current folder too, for plugins of one's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in conf_folders()[1:]:
            search_path.append("plexp-user", f"file://{folder}")


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
        case ["status"]:
            return _status(arguments[1:])
        case ["sync"]:
            return _sync(arguments[1:])
        case ["repair"]:
            return _repair(arguments[1:])
        case ["replay"]:
            return _replay(arguments[1:])
    return _experiment(arguments)


def _experiment(arguments: list[str]) -> int:
    from plexp.explain import explain

    job.status = OK
    mask_logs()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us, to be said in one line
    os.environ["PLEXP_ARGUMENTS"] = json.dumps([masked(argument) for argument in arguments])
    os.environ["PLEXP_SWEEP"] = sweeps.name_of(arguments)
    Plugins.instance().register(UserConf)
    sys.argv = ["plexp", *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job.task)()
    except KeyboardInterrupt as interrupt:
        print("interrupted; nothing is lost: the same command goes on from the last checkpoint", file=sys.stderr)
        return TERMINATED if isinstance(interrupt, job.Terminated) else INTERRUPTED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else USAGE
    except ConfigError as error:
        print(error, file=sys.stderr)
        return USAGE
    except Exception as error:
        if type(error).__name__ == "TerminatedWorkerError":  # of joblib
            print("a worker of the sweep was killed (out of memory?), and the others with it", file=sys.stderr)
            return FAILED
        problem = explain(error, arguments)
        if problem is None:
            raise
        print(masked(str(problem)), file=sys.stderr)
        return USAGE
    finally:
        if sweeps.running.lock is not None and sweeps.running.folder is not None:
            job.status = _report(sweeps.running.folder, sweeps.running.outputs)
        sweeps.end()
    return job.status


def _report(folder: Path, outputs: str) -> int:
    """Print what ran and what failed; 1 if any job is not finished."""
    from rich.console import Console

    from plexp.run_folder import every, state_folder
    from plexp.status import print_sweep

    return OK if print_sweep(folder, every(state_folder(outputs)), Console()) else FAILED


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

    _settled(options.uri, options.outputs.absolute(), quiet=True)
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

    _settled(options.uri, options.outputs.absolute(), quiet=True)
    return serve(uri=options.uri, outputs=options.outputs.absolute(), host=options.host, port=options.port)


def _status(arguments: list[str]) -> int:
    usage = "What is done, running, interrupted, failed and why."
    parser = _parser("status", usage)
    parser.add_argument("--sweep", help="a sweep by its name; the newest")
    options = parser.parse_args(arguments)
    from rich.console import Console

    from plexp.status import status

    try:
        status(options.outputs, options.sweep, Console())
    except ConfigError as error:
        print(error, file=sys.stderr)
        return USAGE
    return _settled(options.uri, options.outputs, quiet=True)


def _sync(arguments: list[str]) -> int:
    usage = "Bring to MLflow what waits on disk because its store did not answer, and mark runs that died."
    options = _parser("sync", usage).parse_args(arguments)
    return _settled(options.uri, options.outputs, quiet=False)


def _settled(uri: str | None, outputs: Path, *, quiet: bool) -> int:
    """Settle what dead runs left behind; the exit status."""
    from plexp.run_folder import left_behind, state_folder

    status, said = OK, 0
    stores = {record.store for _, record in left_behind(state_folder(outputs))} if uri is None else {uri}
    for store in sorted(stores, key=str):
        from plexp.tracking_settle import settle_outputs

        try:
            for line in settle_outputs(outputs, store):
                print(line, file=sys.stderr if quiet else sys.stdout)
                said += 1
        except StoreError as error:
            print(error, file=sys.stderr)
            status = FAILED
    if not quiet and status == OK and not said:
        print("nothing waits")
    return OK if quiet else status


def _repair(arguments: list[str]) -> int:
    usage = "Make the runs of an outputs folder that was moved find their files again."
    options = _parser("repair", usage).parse_args(arguments)
    from plexp.tracking_repair import repair

    try:
        print(repair(options.outputs))
    except StoreError as error:
        print(error, file=sys.stderr)
        return USAGE
    return OK


def _replay(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("plexp replay", description="Play an episode that went wrong again.")
    parser.add_argument("file", type=Path, help="fault.json, from the run's folder or its artifacts in MLflow")
    options = parser.parse_args(arguments)
    from plexp.replay import replay

    try:
        print(replay(options.file))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return USAGE
    return OK


def _parser(name: str, usage: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(f"plexp {name}", description=usage)
    parser.add_argument("--outputs", type=lambda text: Path(text).absolute(), default=Path("outputs").absolute())
    parser.add_argument("--uri", help="the store, as given as tracker.uri=; as each run has it")
    return parser

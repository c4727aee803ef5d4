"""The command line: runs an experiment, a sweep or a command.

Importing this module, composing and completing need neither torch nor MLflow.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser

from plexp._version import __version__
from plexp.cli import commands, job
from plexp.cli.streams import durable_output
from plexp.config.compose import register_search_path
from plexp.config.config_files import check_chosen
from plexp.config.paths import CONF
from plexp.errors import FAILED, INTERRUPTED, OK, TERMINATED, USAGE, ConfigError, Problem, StoreError, TrainingError
from plexp.sweeps import sweep as sweeps
from plexp.sweeps.launchers import launcher_message
from plexp.sweeps.optuna_sweeper import SweeperConfig, register_with_hydra
from plexp.sweeps.signals import Terminated
from plexp.tracking.format import mask_logs, masked


def main(arguments: list[str] | None = None) -> int:
    """Run a command, and return its exit status: 0 done, 1 failed, 2 wrong configuration, 130 Ctrl-C, 143 SIGTERM."""
    if arguments is None:
        arguments = sys.argv[1:]
        _see_current_folder()
    with durable_output():
        try:
            return _main(arguments)
        except (ConfigError, StoreError) as error:
            print(error, file=sys.stderr)
            return USAGE
        except TrainingError as error:
            print(error, file=sys.stderr)
            return FAILED
        except KeyboardInterrupt as interrupt:
            print("interrupted", file=sys.stderr)
            return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED


def _see_current_folder() -> None:
    """Let the command `plexp` import modules of the current folder, as `python -m plexp` does."""
    if not sys.flags.safe_path and "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def _main(arguments: list[str]) -> int:
    # Hydra would print its own version
    if any(len(argument) > 2 and "--version".startswith(argument) for argument in arguments):
        print(f"plexp {__version__}")
        return OK
    if arguments[:1] and arguments[0] in commands.NAMES:
        status: int = importlib.import_module(f"plexp.cli.commands.{arguments[0]}").main(arguments[1:])
        return status
    _check_flags(arguments)
    return _experiment(arguments)


def _check_flags(arguments: list[str]) -> None:
    """Raise ConfigError for flags that Hydra would answer with its usage, or with something that plexp does not do.

    Its parser is not public; tried with Hydra 1.3.8.
    """

    def refuse(message: str) -> NoReturn:
        raise ConfigError(commands.problem_of(message, parser))

    parser = get_args_parser()
    parser.prog, parser.error = "plexp", refuse  # type: ignore[method-assign]
    options, others = parser.parse_known_args(arguments)
    see = "see python -m plexp --help"
    if (late := [argument for argument in others if not argument.startswith("-")]) and late == others:
        remedy = "give all key=value behind the flags"
        raise ConfigError(Problem(late[0], ..., "it is separated from other arguments by a flag", remedy))
    parser.parse_args(arguments)
    if options.experimental_rerun is not None:
        remedy = "give the same command again, which resumes, or python -m plexp reproduce RUN"
        raise ConfigError(Problem("--experimental-rerun", options.experimental_rerun, "plexp has no such runs", remedy))
    if options.package is not None and options.cfg is None:
        raise ConfigError(
            Problem("--package", options.package, "it shows a part of --cfg", f"give --cfg job too, {see}")
        )


def _experiment(arguments: list[str]) -> int:
    from plexp.config.hydra_errors import explain

    mask_logs()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises exceptions, which become one line here
    os.environ["PLEXP_ARGUMENTS"] = json.dumps([masked(argument) for argument in arguments])
    os.environ.pop("PLEXP_SWEEP", None)  # that of a sweep which this process has run before
    register_search_path()
    register_with_hydra()
    sys.argv = ["plexp", *arguments]
    try:
        check_chosen(arguments)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job.task)()
    except KeyboardInterrupt as interrupt:
        print("interrupted; nothing is lost: the same command resumes from the last checkpoint", file=sys.stderr)
        return TERMINATED if isinstance(sweeps.running.interrupt or interrupt, Terminated) else INTERRUPTED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else USAGE
    except ConfigError as error:
        print(error, file=sys.stderr)
        return USAGE
    except Exception as error:
        if (message := launcher_message(error)) is not None:
            print(masked(message), file=sys.stderr)
            return FAILED
        keys = list(SweeperConfig.model_fields)
        problem = explain(error, arguments, commands=commands.NAMES, sweeper_keys=keys)
        if problem is None:
            raise
        print(masked(str(problem)), file=sys.stderr)
        return USAGE
    finally:
        status = OK
        if sweeps.running.lock is not None and sweeps.running.folder is not None:
            status = _report(sweeps.running.folder, sweeps.running.outputs)
        sweeps.end()
    return status


def _report(folder: Path, outputs: str) -> int:
    """Print what ran and what failed, and return the exit status: 1 if any job is not finished."""
    from rich.console import Console

    from plexp.execution.state import list_runs, state_folder
    from plexp.sweeps.status import print_sweep

    return OK if print_sweep(folder, list_runs(state_folder(outputs)), Console()) else FAILED

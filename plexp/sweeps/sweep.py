"""A sweep: its name, its jobs, and whether it runs now. The same command line is the same sweep, whenever it is started."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from plexp.config.identity import sweep_identity
from plexp.errors import USAGE, ConfigError, Problem
from plexp.execution.state import list_runs, state_folder
from plexp.files import try_lock
from plexp.sweeps import launchers
from plexp.sweeps.optuna_sweeper import OptunaSweeper
from plexp.sweeps.signals import interrupted, listen
from plexp.sweeps.status import FILE, is_complete
from plexp.tracking.format import mask_written, masked

GRACE_SECONDS = 3.0
"""Seconds that interrupted jobs have for their last checkpoint; more delay the end of a sweep after Ctrl-C."""
AGAIN = ("rerun=true", "rerun=True", "rerun=1", "rerun=yes")


@dataclass
class _Running:
    """The sweep that runs in this process."""

    folder: Path | None = None
    outputs: str = "outputs"
    lock: FileLock | None = None
    interrupt: KeyboardInterrupt | None = None
    """Interrupt that ended it; Ray turns any into a plain KeyboardInterrupt."""


running = _Running()


def name_of(arguments: Sequence[str]) -> str:
    """Return the name of the sweep that these arguments have started before, or a new one.

    It is a new one too if the earlier sweep is complete and the arguments ask for it again.
    """
    root = Path(_outputs(arguments)) / "sweeps"
    key = sweep_identity(_plain(arguments))
    for file in sorted(root.glob(f"*/{FILE}"), reverse=True):
        with suppress(OSError, ValueError):
            if json.loads(file.read_text())["identity"] == key:
                again = any(argument in AGAIN for argument in arguments)
                if not again or not is_complete(file.parent, list_runs(state_folder(_outputs(arguments)))):
                    return file.parent.name
                break
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    return f"{name}-{os.getpid()}" if (root / name).exists() else name


class SweepRecord(Callback):
    """Records the jobs of a sweep before they begin, and hands an interrupt on to those that run."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            self._begin(config)
        except ConfigError as error:  # of which Hydra would make a warning
            print(error, file=sys.stderr)
            end()
            raise SystemExit(USAGE) from None

    def _begin(self, config: DictConfig) -> None:
        folder, jobs = Path(config.hydra.sweep.dir).absolute(), _jobs(config)
        launcher: Any = OmegaConf.to_container(config.hydra.launcher, resolve=True)
        choice = str(config.hydra.runtime.choices.get("hydra/launcher"))
        if problem := launchers.problem_of(launcher, choice, config.tracker.uri):
            raise ConfigError(problem)
        folder.mkdir(parents=True, exist_ok=True)
        running.folder, running.outputs = folder, str(config.outputs)
        running.lock = _locked(folder)
        # with these every job is composed, wherever it runs: its folder, and the one that the command was given in
        handed_on = {"hydra.sweep.dir": folder, "++hydra.job.env_set.PLEXP_FOLDER": Path.cwd()}
        with open_dict(config.hydra.overrides):
            config.hydra.overrides.hydra += [f"{key}={_quoted(value)}" for key, value in handed_on.items()]
        arguments = json.loads(os.environ["PLEXP_ARGUMENTS"])
        record = {
            "identity": sweep_identity(_plain(arguments)),
            "host": platform.node(),
            "arguments": [masked(argument) for argument in arguments],
            "jobs": jobs,
            "search": _sweeper(config) == OptunaSweeper.__name__,
        }
        (folder / FILE).write_text(json.dumps(record, indent=1))
        launchers.begin(launcher)
        listen(_interrupt)


def _quoted(path: Path) -> str:
    """Return a path as a value of Hydra's command line, whatever characters it has."""
    return QuotedString(str(path).replace("${", r"\${"), Quote.single).with_quotes()


def end() -> None:
    """End the sweep of this process: mask credentials, give its lock back, and remove it if no job was started."""
    if running.folder is not None:
        mask_written(running.folder)
        if running.lock is not None and not any(each.name.isdigit() for each in running.folder.iterdir()):
            shutil.rmtree(running.folder)  # what was asked for was refused: there never was a sweep
    running.folder = running.interrupt = None
    if running.lock is not None:
        running.lock.release()
        running.lock = None


def _jobs(config: DictConfig) -> list[list[str]] | None:
    """Return the overrides of every job; None if a sweeper decides as it goes."""
    if _sweeper(config) != BasicSweeper.__name__ or config.hydra.sweeper.params:
        return None
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides(list(config.hydra.overrides.task))
    try:
        (jobs,) = BasicSweeper.split_arguments(overrides, None)
    except HydraException:  # which the sweeper will raise itself
        return None
    return [[masked(override) for override in job] for job in jobs]


def _sweeper(config: DictConfig) -> str:
    return str(config.hydra.sweeper._target_).rpartition(".")[2]


def _locked(folder: Path) -> FileLock:
    lock = try_lock(folder / "lock")
    if lock is None:
        cause = "another process runs this very sweep now"
        raise ConfigError(Problem("sweep", folder.name, cause, "wait for it: python -m plexp status"))
    return lock


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End the jobs, then raise in this process."""
    running.interrupt = interrupted(number)
    end_jobs()
    raise running.interrupt


def end_jobs() -> None:
    """Let the jobs of this sweep in other processes of this host write their checkpoints and end."""
    if running.folder is None:
        return
    name = running.folder.name
    jobs = [
        (folder, record.pid)
        for folder, record in list_runs(state_folder(running.outputs))
        if name in record.sweeps and record.host == platform.node() and record.pid != os.getpid() and folder.alive()
    ]
    for _, pid in jobs:
        with suppress(OSError):
            os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < until and any(folder.alive() for folder, _ in jobs):
        time.sleep(0.05)


def _outputs(arguments: Sequence[str]) -> str:
    given = [argument.partition("=")[2] for argument in arguments if argument.startswith("outputs=")]
    return given[-1] if given else "outputs"


def _plain(arguments: Sequence[str]) -> list[str]:
    """Return arguments without credentials, which are written down nowhere."""
    return [masked(argument) for argument in arguments]

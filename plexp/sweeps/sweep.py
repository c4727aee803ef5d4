"""A sweep: its name, its jobs, and whether it runs now. The same command line is the same sweep, whenever it is started."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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

from plexp.config.compose import escaped
from plexp.config.identity import sweep_identity
from plexp.errors import USAGE, ConfigError, Problem, StoreError, writing
from plexp.execution.resume import GIVE
from plexp.execution.state import list_runs, state_folder
from plexp.files import lock_file, try_lock, try_writing, unused
from plexp.sweeps import launchers
from plexp.sweeps.optuna_sweeper import OptunaSweeper
from plexp.sweeps.signals import interrupted, listen
from plexp.sweeps.status import FILE, is_complete
from plexp.tracking.format import mask_written, masked

GRACE_SECONDS = 3.0
"""Seconds that interrupted jobs have for their last checkpoint; more delay the end of a sweep after Ctrl-C."""


@dataclass
class _Running:
    """The sweep that runs in this process."""

    folder: Path | None = None
    outputs: str = "outputs"
    lock: FileLock | None = None
    interrupt: KeyboardInterrupt | None = None
    """Interrupt that ended it; Ray turns any into a plain KeyboardInterrupt."""


running = _Running()


class SweepRecord(Callback):
    """Records the jobs of a sweep before they begin, and hands an interrupt on to those that run."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a single run in a folder that cannot be written."""
        with _refusals():
            _try_outputs(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _refusals():
            _try_outputs(config)
            self._begin(config)

    def _begin(self, config: DictConfig) -> None:
        launcher: Any = OmegaConf.to_container(config.hydra.launcher, resolve=True)
        choice = str(config.hydra.runtime.choices.get("hydra/launcher"))
        if problem := launchers.problem_of(launcher, choice, config.tracker.uri):
            raise ConfigError(problem)
        arguments = [masked(argument) for argument in json.loads(os.environ["PLEXP_ARGUMENTS"])]
        record = {
            "identity": sweep_identity(arguments),
            "host": platform.node(),
            "arguments": arguments,
            "jobs": _jobs(config),
            "search": _sweeper(config) == OptunaSweeper.__name__,
        }
        folder = _claim(config, record)
        # with these every job is composed, wherever it runs: its folder, and the one that the command was given in
        handed_on = {"hydra.sweep.dir": folder, "++hydra.job.env_set.PLEXP_FOLDER": Path.cwd()}
        with open_dict(config.hydra.overrides):
            config.hydra.overrides.hydra += [f"{key}={_quoted(value)}" for key, value in handed_on.items()]
        launchers.begin(launcher)
        listen(_interrupt)


@contextmanager
def _refusals() -> Iterator[None]:
    """End the command with the error of the block, of which Hydra would make a warning."""
    try:
        yield
    except (ConfigError, StoreError) as error:
        print(error, file=sys.stderr)
        end()
        raise SystemExit(USAGE) from None


def _try_outputs(config: DictConfig) -> None:
    """Raise StoreError if the outputs folder cannot be written, or its disk is full."""
    with writing("outputs", config.outputs, GIVE):
        try_writing(Path(config.outputs).absolute())


def _claim(config: DictConfig, record: Mapping[str, Any]) -> Path:
    """Return the folder of the sweep, with its lock acquired and this record in it.

    It is that of the sweep which the same command has started before, or a new one, whatever other sweeps begin in the same
    second. Raises ConfigError if another process runs this sweep.
    """
    outputs = str(config.outputs)
    root = Path(outputs).absolute() / "sweeps"
    with (
        writing("outputs", outputs, GIVE),
        _locked_sweeps(root),
    ):  # of two that start at once the second sees the first one's record
        name = _earlier(root, record["identity"], outputs, again=bool(config.rerun))
        os.environ["PLEXP_SWEEP"] = name or unused(root / time.strftime("%Y-%m-%d_%H-%M-%S")).name
        folder = Path(config.hydra.sweep.dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        running.folder, running.outputs = folder, outputs
        running.lock = _locked(folder)
        (folder / FILE).write_text(json.dumps(record, indent=1))
    return folder


@contextmanager
def _locked_sweeps(root: Path) -> Iterator[None]:
    """Hold the lock of all sweeps: of two that start at once the second sees the first one's record."""
    root.mkdir(parents=True, exist_ok=True)
    with lock_file(root.parent / ".sweeps.lock"):
        yield


def _earlier(root: Path, identity: str, outputs: str, *, again: bool) -> str | None:
    """Return the name of the sweep that the same command has started before; None if there is none.

    `again`: a sweep that is complete does not count.
    """
    for file in sorted(root.glob(f"*/{FILE}"), reverse=True):
        with suppress(OSError, ValueError):
            if json.loads(file.read_text())["identity"] == identity:
                is_over = again and is_complete(file.parent, list_runs(state_folder(outputs)))
                return None if is_over else file.parent.name
    return None


def _quoted(path: Path) -> str:
    """Return a path as a value of Hydra's command line, whatever characters it has."""
    return QuotedString(escaped(str(path)), Quote.single).with_quotes()


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

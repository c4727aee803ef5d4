"""One job of the command line: what Hydra calls for a single run, and for every job of a sweep.

Importing this needs neither torch nor MLflow.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plexp.config import plain
from plexp.config.compose import resolve
from plexp.config.paths import find_plugins
from plexp.errors import (
    FAILED,
    OK,
    USAGE,
    ConfigError,
    EnvironmentFault,
    Problem,
    Pruned,
    StoreError,
    TrainingError,
    decoration,
    nearest,
    one_line,
)
from plexp.execution import resume
from plexp.execution.job import Job, run_job
from plexp.execution.outcome import Outcome, objective, summary
from plexp.execution.state import Record, RunFolder
from plexp.sweeps.launchers import IN_TURN, problem_of_host
from plexp.sweeps.pruning import trial_job_of
from plexp.sweeps.signals import Preempted, interruptible
from plexp.sweeps.status import sweep_record
from plexp.tracking.format import mask_logs, mask_written, masked, ui_command

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger("plexp")


@dataclass
class JobResult:
    """Result of a job, written to `result.json` in its folder, where the table of a sweep finds it."""

    number: int
    """Number of the job in its sweep; 0 for a single run."""
    overrides: list[str]
    """Overrides as they were typed, without credentials."""
    status: Literal["FINISHED", "KILLED", "PRUNED", "REFUSED", "FAILED"] = "FINISHED"
    """REFUSED: no run was started."""
    exit_status: int = OK
    """Exit status of the command, if the job is a single run."""
    objective: float | None = None
    """Value that a sweeper optimises."""
    error: list[str] = field(default_factory=list)
    """Lines that say why it did not finish."""
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    """Outcome of the run, if there was one; `before` if it had finished before this job."""

    def write(self, folder: Path) -> None:
        """Write the result to `result.json`."""
        content = {"job": self.number, "overrides": self.overrides, "status": self.status, **self.facts}
        content |= {"error": self.error} if self.error else {}
        (folder / "result.json").write_text(json.dumps({**content, "seconds": self.seconds}, indent=1))


def task(cfg: DictConfig) -> float | None:
    """Run a job, report it, and return its objective.

    A job of a sweep raises nothing but an interrupt, so that the sweep goes on without it; a single run that fails
    raises SystemExit.
    """
    hydra_config = HydraConfig.get()
    in_sweep, folder = hydra_config.mode == RunMode.MULTIRUN, Path(hydra_config.runtime.output_dir)
    logging.raiseExceptions = False  # a log file that cannot be written is no reason for a traceback
    mask_logs()
    mask_written(folder)
    _change_folder(Path(os.environ.get("PLEXP_FOLDER") or hydra_config.runtime.cwd))
    overrides = [masked(override) for override in hydra_config.overrides.task]
    result, started = JobResult(hydra_config.job.num if in_sweep else 0, overrides), time.time()
    try:
        with interruptible():
            _run(cfg, result, in_sweep)
    except KeyboardInterrupt as interrupt:
        result.status = "KILLED"
        if isinstance(interrupt, Preempted):
            with suppress(Exception):  # of submitit, where the job may not be queued again; where it is, it ends here
                interrupt.hand_on()
        elif not in_sweep or hydra_config.launcher._target_.endswith(IN_TURN):
            raise
    except Pruned as pruned:
        log.info("%s", pruned)
        result.status, result.error = "PRUNED", [str(pruned)]
        result.facts["steps"] = pruned.steps
    except Exception as error:
        _fail(result, error, cfg, folder, in_sweep)
    finally:
        result.seconds = time.time() - started
        with suppress(OSError):  # on a full disk; the run's own record has it
            result.write(folder)
    if not in_sweep and result.exit_status != OK:
        raise SystemExit(result.exit_status)
    return result.objective


def _run(cfg: DictConfig, result: JobResult, in_sweep: bool) -> None:
    """Do what the configuration says, and note in `result` what came of it."""
    hydra_config = HydraConfig.get()
    sweep_folder = Path(hydra_config.sweep.dir)
    if in_sweep and (problem := problem_of_host(sweep_record(sweep_folder), cfg.outputs, cfg.tracker.uri)):
        raise ConfigError(problem)
    choices: Any = OmegaConf.to_container(hydra_config.runtime.choices)
    sweeper: Any = OmegaConf.to_container(hydra_config.sweeper)
    trial = trial_job_of(sweeper, sweep_folder, choices, in_sweep)
    tags, sweep = trial.tags if trial else {}, sweep_folder.name if in_sweep else ""
    overrides = list(hydra_config.overrides.task)
    if in_sweep and (finished := _finished(cfg, sweep)) is not None:
        folder, record = finished
        job = Job({}, choices, overrides, sweep, result.number, tags)
        result.facts = _skip(job, cfg, folder, record)
    else:
        pruner = trial.pruner() if trial else None
        if pruner and (reason := pruner.pruned()):
            raise Pruned(reason)
        job = Job(resolve(cfg), choices, overrides, sweep, result.number, tags)
        try:
            result.facts = asdict(_train(job, pruner))
        except resume.AlreadyFinished as other:
            result.facts = _skip(job, cfg, other.folder, other.record)
    result.objective = result.facts["objective"]
    if result.objective is None:
        remedy = nearest(cfg.objective, result.facts["logged"])
        raise ConfigError(Problem("objective", cfg.objective, "this run logged no such metric", remedy))


def _train(job: Job, pruner: Any) -> Outcome:
    from rich.console import Console

    console = Console(quiet=bool(job.sweep))
    outcome = run_job(job, console, pruner)
    with decoration("the summary"):
        _print_summary(job, outcome, console)
    return outcome


def _print_summary(job: Job, outcome: Outcome, console: Console) -> None:
    from rich.markup import escape

    if job.sweep:
        log.info("%s: %s", outcome.name, summary(outcome))
    speed = outcome.steps / max(outcome.seconds, 1e-9)
    effort = f"{outcome.steps:,} steps in {outcome.seconds:.1f} s ({speed:,.0f} steps/s)"
    browse = ui_command(job.values["tracker"]["uri"], Path(job.values["outputs"]))
    console.print(f"[bold]{escape(outcome.name)}[/bold]  {effort}", highlight=False)
    console.print(summary(outcome), highlight=False, soft_wrap=True)
    console.print(
        f"MLflow run {outcome.run_id}; browse it with: {browse}", highlight=False, soft_wrap=True, markup=False
    )


def _finished(cfg: DictConfig, sweep: str) -> tuple[RunFolder, Record] | None:
    """Return the finished run that a job of a sweep can skip; None if there is none."""
    with suppress(ConfigError, OmegaConfBaseException, KeyError, TypeError):  # of which `_train` will say more
        return resume.finished(resolve(cfg), sweep)
    return None


def _skip(job: Job, cfg: DictConfig, folder: RunFolder, record: Record) -> dict[str, Any]:
    """Note that a finished run belongs to this sweep too, and return its outcome."""
    assert record.outcome is not None
    outcome = Outcome(**record.outcome)
    log.info("%s is finished (run %s): %s; rerun=true does it again", record.name, record.run_id, summary(outcome))
    if job.sweep not in record.sweeps:
        from plexp.execution.recovery import tag

        tag(Path(cfg.outputs).absolute(), cfg.tracker.uri, str(record.run_id), job.sweep_tags(record))
        folder.change(sweeps={**record.sweeps, job.sweep: job.number})
    value = objective(cfg.objective, record.metrics, outcome.solved_return)
    return {**record.outcome, "objective": value, "logged": sorted(record.metrics), "before": True}


def _change_folder(home: Path) -> None:
    """Go to the folder of the command, where this host has it: for relative paths, and for its plugins and configs."""
    if home != Path.cwd() and home.is_dir():
        os.chdir(home)
        find_plugins()


def _fail(result: JobResult, error: Exception, cfg: DictConfig, folder: Path, in_sweep: bool) -> None:
    """Note the error in the result, and print or log it."""
    result.exit_status, result.error = _explain(error)
    refused = result.exit_status == USAGE and "run_id" not in result.facts
    result.status = "REFUSED" if refused else "FAILED"
    text = "\n".join(result.error)
    if result.exit_status == FAILED:
        text = f"{' '.join(result.error)}{_evidence(error, cfg, folder)}"
    if not in_sweep:
        print(text, file=sys.stderr)
    elif not refused or _is_first(text, folder.parent):  # the table in the end says how many jobs were refused so
        log.error(text)


def _is_first(text: str, sweep: Path) -> bool:
    """Return True if no other job of the sweep has been refused with the same text."""
    try:
        (sweep / f"refused-{zlib.crc32(text.encode()):08x}").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


def _explain(error: Exception) -> tuple[int, list[str]]:
    """Return the exit status of a failed job, and the lines that say why."""
    from plexp.config.hydra_errors import explain

    if isinstance(error, ConfigError | StoreError):
        return USAGE, str(error).splitlines()
    if isinstance(error, OmegaConfBaseException):
        return USAGE, [str(explain(error, []))]
    if isinstance(error, TrainingError):
        return FAILED, [str(error)]
    return FAILED, [masked(f"{type(error).__name__}: {one_line(error)}")]


def _evidence(error: Exception, cfg: DictConfig, folder: Path) -> str:
    """Write the traceback, and the episode of an environment's fault, and return where they are."""
    try:
        file = folder / "traceback.txt"
        file.write_text(masked(traceback.format_exc()))
        if not isinstance(error, EnvironmentFault) or error.episode is None:
            return f" (traceback in {file})"
        fault = folder / "fault.json"
        env: Mapping[str, Any] = OmegaConf.to_container(cfg.env, resolve=True)  # type: ignore[assignment]
        fault.write_text(plain.dumps(error.recorded(dict(env)), indent=1))
        return f" (traceback in {file}; see it again: python -m plexp replay {fault})"
    except OSError as full:
        return f" (no traceback: {full.strerror})"

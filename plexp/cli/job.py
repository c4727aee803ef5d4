"""One job of the command line: compose, build, run, say how it went. Importing this needs neither torch nor mlflow."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plexp.config import registry
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
    nearest,
    one_line,
)
from plexp.execution import resume
from plexp.execution.outcome import Outcome, objective, summary
from plexp.sweeps.launchers import IN_TURN, problem_of_host
from plexp.sweeps.pruning import TrialJob, trial_job_of
from plexp.sweeps.signals import Preempted, interruptible
from plexp.sweeps.status import sweep_record
from plexp.tracking.format import mask_logs, mask_written, masked, ui_command

if TYPE_CHECKING:
    from plexp.execution.experiment import Experiment
    from plexp.execution.state import Record, RunFolder
    from plexp.sweeps.pruning import TrialPruner


log = logging.getLogger("plexp")
status = OK
"""Exit status of the last job in this process."""


def task(cfg: DictConfig) -> float | None:
    """One job: build, run, report. It never raises, but for an interrupt, so that a sweep goes on without it."""
    global status
    hydra_config = HydraConfig.get()
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    folder = Path(hydra_config.runtime.output_dir)
    logging.raiseExceptions = False  # a log file that cannot be written is no reason for a traceback
    mask_logs()
    mask_written(folder)
    if home := os.environ.get("PLEXP_FOLDER"):
        _go_to(Path(home))
    result: dict[str, Any] = {"job": hydra_config.job.num if in_sweep else 0, "overrides": _overrides()}
    started = time.time()
    try:
        with interruptible():
            result |= {"status": "FINISHED", **_job(cfg, in_sweep)}
        if result["objective"] is None:
            remedy = nearest(cfg.objective, result["logged"])
            raise ConfigError(Problem("objective", cfg.objective, "this run logged no such metric", remedy))
    except KeyboardInterrupt as interrupt:
        result |= {"status": "KILLED"}
        if isinstance(interrupt, Preempted):
            with suppress(Exception):  # of submitit, where the job may not be queued again; where it is, it ends here
                interrupt.hand_on()
        elif not in_sweep or hydra_config.launcher._target_.endswith(IN_TURN):
            raise
    except Pruned as pruned:
        log.info("%s", pruned)
        result |= {"status": "PRUNED", "error": [str(pruned)], "steps": pruned.steps}
    except Exception as error:
        status, lines = _say(error)
        refused = status == USAGE and "run_id" not in result
        result |= {"status": "REFUSED" if refused else "FAILED", "error": lines}
        if status == FAILED:
            lines = [f"{' '.join(lines)}{_evidence(error, cfg, folder)}"]
        if in_sweep:
            log.error("\n".join(lines))
        else:
            print("\n".join(lines), file=sys.stderr)
    finally:
        result["seconds"] = time.time() - started
        with suppress(OSError):  # on a full disk; the run's own record has it
            (folder / "result.json").write_text(json.dumps(result, indent=1))
    return result.get("objective")


def _job(cfg: DictConfig, in_sweep: bool) -> dict[str, Any]:
    """Do what is to be done of this job; what came of it."""
    sweep = ""
    if in_sweep:
        place = Path(HydraConfig.get().sweep.dir)
        sweep = place.name
        if problem := problem_of_host(sweep_record(place), cfg.outputs, cfg.tracker.uri):
            raise ConfigError(problem)
    choices: Any = OmegaConf.to_container(HydraConfig.get().runtime.choices)
    registry.check_one_file_each(choices)
    part = _part(choices, in_sweep)
    before = None
    with suppress(OmegaConfBaseException, KeyError, TypeError):  # of which `build` will say more
        before = resume.finished(OmegaConf.to_container(cfg, resolve=True), sweep) if in_sweep else None  # type: ignore[arg-type]
    if before is not None:
        return _finished_before(cfg, *before, sweep, part)
    judge = part.judge() if part else None
    if judge and (why := judge.given_up()):
        raise Pruned(why)
    from plexp.execution.experiment import build

    experiment = build(resolve(cfg))
    folder = resume.claim(experiment.values)
    try:
        return _run(experiment, folder, sweep, part, judge)
    finally:
        if (record := folder.record()) is not None and record.run_id is None:
            shutil.rmtree(folder.path, ignore_errors=True)  # the store refused it: there never was a run
        folder.release()


def _go_to(home: Path) -> None:
    """To the folder of the command, where this host has it: for relative paths, and the plugins and sheets there."""
    if home != Path.cwd() and home.is_dir():
        os.chdir(home)
        find_plugins()


def _part(choices: dict[str, object], in_sweep: bool) -> TrialJob | None:
    hydra_config = HydraConfig.get()
    sheet: Any = OmegaConf.to_container(hydra_config.sweeper)
    return trial_job_of(sheet, Path(hydra_config.sweep.dir), choices, in_sweep)


def _finished_before(
    cfg: DictConfig, folder: RunFolder, record: Record, sweep: str, part: TrialJob | None
) -> dict[str, Any]:
    """Skip a run that is finished, and note that it belongs to this sweep too."""
    assert record.outcome is not None
    outcome = Outcome(**record.outcome)
    log.info("%s is finished (run %s): %s; rerun=true does it again", record.name, record.run_id, summary(outcome))
    if sweep not in record.sweeps:
        from plexp.execution.recovery import tag

        tag(Path(cfg.outputs).absolute(), cfg.tracker.uri, str(record.run_id), _sweep_tags(record, sweep, part))
        folder.change(sweeps={**record.sweeps, sweep: HydraConfig.get().job.num})
    found = objective(cfg.objective, record.metrics, outcome.solved_return)
    return {**record.outcome, "objective": found, "logged": sorted(record.metrics), "before": True}


def _run(
    experiment: Experiment, folder: RunFolder, sweep: str, part: TrialJob | None, judge: TrialPruner | None
) -> dict[str, Any]:
    from dataclasses import asdict

    from rich.console import Console

    from plexp.execution.run import run  # with mlflow, which takes seconds: after what may be refused

    values, record = experiment.values, folder.record()
    sweeps = {**(record.sweeps if record else {}), **({sweep: HydraConfig.get().job.num} if sweep else {})}
    if record is not None and record.run_id is not None:
        log.info("%s goes on in its run %s, which %s", record.name, record.run_id, _end_of(record))
    tags = {"group": _group(experiment.group), **_choices(), **(_sweep_tags(record, sweep, part) if sweep else {})}
    named = {"identity": folder.path.name.partition("-")[0], "name": experiment.name, "overrides": _overrides()}
    folder.begin(**named, store=resume.store_of(values), sweeps=sweeps)
    console = Console(quiet=bool(sweep))
    try:
        outcome = run(experiment, tags, console, folder, judge)
    except StoreError:
        if record is not None:  # the store does not answer: as if it had not been started again
            folder.write(record)
        raise
    speed = outcome.steps / max(outcome.seconds, 1e-9)
    if sweep:
        log.info("%s: %s", outcome.name, summary(outcome))
    effort = f"{outcome.steps:,} steps in {outcome.seconds:.1f} s ({speed:,.0f} steps/s)"
    console.print(f"[bold]{outcome.name}[/bold]  {effort}", highlight=False)
    console.print(f"{summary(outcome)}", highlight=False, soft_wrap=True)
    browse = ui_command(experiment.values["tracker"]["uri"], Path(experiment.values["outputs"]))
    console.print(
        f"MLflow run {outcome.run_id}; browse it with: {browse}", highlight=False, soft_wrap=True, markup=False
    )
    return asdict(outcome)


def _end_of(record: Record) -> str:
    return {"RUNNING": "was killed without a word", "KILLED": "was interrupted"}.get(record.status, "failed")


def _sweep_tags(record: Record | None, sweep: str, part: TrialJob | None) -> dict[str, str]:
    """The first sweep of a run is its tag `sweep`; each further one is a tag of its own. With what it is in a search."""
    first = next(iter(record.sweeps), sweep) if record else sweep
    tags = {"sweep": sweep} if first == sweep else {f"sweep.{sweep}": "true"}
    return tags | (part.tags if part else {})


def _overrides() -> list[str]:
    """As given on the command line, without credentials."""
    return [masked(override) for override in HydraConfig.get().overrides.task]


def _group(name: str) -> str:
    """What charts average over: the run's name without its seed, and whatever else was changed."""
    named = ["seed", "algo", "net", "net.layers", "net.width", "advantage", "env", "search"]
    named += ["outputs", "resume", "rerun"]
    aside = ("tracker.", "checkpoint.", "evaluation.film")
    changed = [(o.lstrip("+").partition("=")[0], o) for o in _overrides()]
    return " ".join([name, *sorted(o for key, o in changed if key not in named and not key.startswith(aside))])


def _choices() -> dict[str, str]:
    """The sheet chosen in each config group, such as `choice.env` = cartpole, whatever it changed."""
    choices = HydraConfig.get().runtime.choices
    return {
        f"choice.{group.partition('@')[0] if group.endswith('_global_') else group}": choice
        for group, choice in choices.items()
        if isinstance(choice, str) and group != "tuned" and not str(group).startswith("hydra/")
    }


def _say(error: Exception) -> tuple[int, list[str]]:
    """The exit status of a failed job and the lines that say why."""
    from plexp.config.hydra_errors import explain

    if isinstance(error, ConfigError | StoreError):
        return USAGE, str(error).splitlines()
    if isinstance(error, OmegaConfBaseException):
        return USAGE, [str(explain(error, []))]
    if isinstance(error, TrainingError):
        return FAILED, [str(error)]
    return FAILED, [masked(f"{type(error).__name__}: {one_line(error)}")]


def _evidence(error: Exception, cfg: DictConfig, folder: Path) -> str:
    """Write what shows the fault, and say where it is."""
    try:
        file = folder / "traceback.txt"
        file.write_text(masked(traceback.format_exc()))
        shown = f" (traceback in {file})"
        if isinstance(error, EnvironmentFault) and error.episode is not None:
            fault = folder / "fault.json"
            fault.write_text(json.dumps(error.recorded(OmegaConf.to_container(cfg.env, resolve=True)), indent=1))
            shown = f"{shown[:-1]}; see it again: python -m plexp replay {fault})"
        return shown
    except OSError as full:
        return f" (no traceback: {full.strerror})"

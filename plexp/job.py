"""One job of the command line: compose, build, run, say how it went. Importing this needs neither torch nor mlflow."""

from __future__ import annotations

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

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from plexp.errors import ConfigError, Problem, StoreError, TrainingError, nearest, one_line

log = logging.getLogger("plexp")
OK, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
status = OK
"""Exit status of the last job in this process."""


class Terminated(KeyboardInterrupt):
    """SIGTERM."""


def task(cfg: DictConfig) -> float | None:
    """One job: build, run, report. It never raises, but for an interrupt, so that a sweep goes on without it."""
    global status
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
        if result["objective"] is None:
            remedy = nearest(cfg.objective, result["logged"])
            raise ConfigError(Problem("objective", cfg.objective, "this run logged no such metric", remedy))
    except KeyboardInterrupt:
        result |= {"status": "KILLED"}
        raise
    except Exception as error:
        status, lines = _say(error)
        refused = status == USAGE and "run_id" not in result
        result |= {"status": "REFUSED" if refused else "FAILED", "error": lines}
        if status == FAILED:
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
    return result.get("objective")


def _run(cfg: DictConfig, in_sweep: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from rich.console import Console

    from plexp.experiment import build

    experiment = build(cfg)
    from plexp.run import run, verdict  # with mlflow, which takes seconds: after what may be refused

    tags = {"group": _group(experiment.group), **_choices()}
    tags |= {"sweep": os.environ["PLEXP_SWEEP"]} if in_sweep else {}
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
    from plexp.explain import explain

    if isinstance(error, ConfigError | StoreError):
        return USAGE, str(error).splitlines()
    if isinstance(error, OmegaConfBaseException):
        return USAGE, [str(explain(error, []))]
    if isinstance(error, TrainingError):
        return FAILED, [str(error)]
    return FAILED, [f"{type(error).__name__}: {one_line(error)}"]


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

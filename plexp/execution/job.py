"""One job: from a resolved configuration to a finished run. Importing this needs neither torch nor MLflow."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plexp.config import config_files, registry
from plexp.errors import ConfigError, Problem, StoreError, nearest, writing
from plexp.execution import resume
from plexp.execution.outcome import Outcome, problem_of_objective
from plexp.tracking.format import masked

if TYPE_CHECKING:
    from rich.console import Console

    from plexp.execution.callbacks.evaluator import PruningRule
    from plexp.execution.experiment import Experiment
    from plexp.execution.state import Record, RunFolder

log = logging.getLogger("plexp")

GROUPS = ("algo", "net", "advantage", "env")
"""Groups whose plugins a run's name shows."""
NAMED = ("seed", "net.layers", "net.width", "search", "outputs", "resume", "rerun")
"""Keys that a run's name shows already, or that change nothing of what is learnt."""
UNNAMED_PREFIXES = ("tracker.", "checkpoint.", "evaluation.film")


@dataclass(frozen=True)
class Job:
    """Description of a run to be made."""

    values: dict[str, Any]
    """The resolved configuration."""
    choices: Mapping[str, object]
    """Config chosen in each group, such as `env`: `cartpole`; recorded as tags."""
    overrides: Sequence[str]
    """Overrides that led to it, as they were typed."""
    sweep: str = ""
    """Name of the sweep that it belongs to; empty: none."""
    number: int = 0
    """Number of the job in the sweep."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Further tags of the run, such as those of a search."""

    @property
    def masked_overrides(self) -> list[str]:
        """Overrides without credentials."""
        return [masked(override) for override in self.overrides]

    def sweep_tags(self, record: Record | None) -> dict[str, str]:
        """Return the tags of its sweep: `sweep` for the first one of a run, `sweep.NAME` for each further one."""
        if not self.sweep:
            return {}
        first = next(iter(record.sweeps), self.sweep) if record else self.sweep
        tags = {"sweep": self.sweep} if first == self.sweep else {f"sweep.{self.sweep}": "true"}
        return {**tags, **self.tags}


def run_job(job: Job, console: Console, pruning: PruningRule | None = None) -> Outcome:
    """Run a job to its end, in a new run, or in that of the same configuration that was interrupted or failed.

    Args:
        job: what to run.
        console: gets the progress bar.
        pruning: rule of the search that the job belongs to; a run that it ends raises Pruned.

    Raises ConfigError or StoreError, before any run exists, for what cannot be run; AlreadyFinished for a job of a sweep
    that another process has just finished; TrainingError if the training fails; KeyboardInterrupt, with the run closed as
    KILLED and its checkpoint written.
    """
    registry.check_choices(job.choices)
    if problem := problem_of_objective(job.values):
        raise ConfigError(problem)
    if tuned := _tuned(job):
        log.info("tuned=%s applies: its values override those of algo and env; tuned=none switches it off", tuned)
    from plexp.execution.experiment import build

    algo = job.choices.get("algo")
    experiment = build(job.values, algo if isinstance(algo, str) else None)
    try:
        folder = resume.claim(experiment.values, job.sweep)
    except BaseException:
        experiment.close()
        raise
    try:
        return _run(job, experiment, folder, console, pruning)
    finally:
        if (record := folder.record()) is not None and record.run_id is None:
            shutil.rmtree(folder.path, ignore_errors=True)  # the store refused it: there never was a run
        folder.release()


def _run(job: Job, experiment: Experiment, folder: RunFolder, console: Console, pruning: PruningRule | None) -> Outcome:
    from plexp.execution.run import run  # with MLflow, which takes seconds: after whatever may be refused

    values, record = experiment.values, folder.record()
    if (
        record is not None
        and record.run_id is not None
        and not resume.lost([(folder, record)], values["tracker"]["uri"])
    ):
        log.info("%s resumes its run %s, which %s", record.name, record.run_id, _end_of(record))
    sweeps = {**(record.sweeps if record else {}), **({job.sweep: job.number} if job.sweep else {})}
    with writing("outputs", values["outputs"], resume.GIVE):
        folder.begin(
            identity=folder.path.name.partition("-")[0],
            name=experiment.name,
            overrides=job.masked_overrides,
            store=resume.store_of(values),
            sweeps=sweeps,
        )
    tags = {
        "group": _group(experiment.group, job),
        **_choice_tags(job.choices),
        **job.sweep_tags(record),
    }
    try:
        return run(experiment, tags, console, folder, pruning)
    except StoreError:
        if record is not None:  # the store does not answer: as if the run had not been started again
            with suppress(OSError):  # nor can it be written; it is settled later
                folder.write(record)
        raise


def _tuned(job: Job) -> str | None:
    """Return the tuned config that applies; None if there is none for this algorithm and environment.

    Raises ConfigError if one was asked for that does not exist; Hydra leaves it out without a word, as it is optional.
    """
    name, options = job.choices.get("tuned"), config_files.options("tuned")
    if name not in options and any(override.startswith("tuned=") for override in job.overrides):
        raise ConfigError(Problem("tuned", name, "there is no such option", nearest(str(name), options)))
    return str(name) if name in options and name != "none" else None


def _end_of(record: Record) -> str:
    return {"RUNNING": "was killed", "KILLED": "was interrupted"}.get(record.status, "failed")


def _group(name: str, job: Job) -> str:
    """Return what charts average over: the run's name without its seed, and whatever else was changed.

    A config of a group that the name says is left out; `net=mlp_relu`, whose plugin is `mlp`, is not.
    """
    named = {"none", job.values["net"]["plugin"], *name.replace("_", "").split("-")}
    shown = []
    for text in job.masked_overrides:
        key, _, value = text.lstrip("+").partition("=")
        is_named = value.replace("_", "") in named if key in GROUPS else key in NAMED
        if not is_named and not key.startswith(UNNAMED_PREFIXES):
            shown.append(text)
    return " ".join([name, *sorted(shown)])


def _choice_tags(choices: Mapping[str, object]) -> dict[str, str]:
    """Return the config chosen in each group as tags, such as `choice.env` = cartpole."""
    return {
        f"choice.{group.partition('@')[0] if group.endswith('_global_') else group}": choice
        for group, choice in choices.items()
        if isinstance(choice, str) and group != "tuned" and not str(group).startswith("hydra/")
    }

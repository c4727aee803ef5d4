"""Which runs a comparison is about, and which of them cannot be compared, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from plexp.errors import ConfigError, Problem, nearest
from plexp.numbers import parsed
from plexp.tracking_history import RecordedRun

CHOICE = "choice."
"""Prefix of the tags that hold the sheet chosen in each config group."""
ABSENT = "–"
"""Shown for a param that a run does not have."""


def select(
    runs: Sequence[RecordedRun], *, env: str | None, where: Mapping[str, Sequence[str]], sweep: str | None
) -> list[RecordedRun]:
    """The runs of an environment, of a sweep, with params (or groups, or tags) of one of the given values.

    Raises ConfigError if there are none, or where a key or value is that of no run.
    """
    chosen = list(runs)
    if env is not None:
        known = sorted({name for run in chosen for name in _environment_names(run)})
        chosen = [run for run in chosen if env in _environment_names(run)]
        _some(chosen, "--env", env, known)
    if sweep is not None:
        known = sorted({run.tags["sweep"] for run in chosen if "sweep" in run.tags})
        chosen = [run for run in chosen if run.tags.get("sweep") == sweep or f"sweep.{sweep}" in run.tags]
        _some(chosen, "--sweep", sweep, known[-5:])
    for key, values in where.items():
        check_key("--where", key, chosen)
        known = sorted({setting(run, key) for run in chosen})
        chosen = [run for run in chosen if setting(run, key) in values]
        _some(chosen, f"--where {key}", ",".join(values), known)
    return chosen


def setting(run: RecordedRun, key: str) -> str:
    """The value of a param, of a config group such as `algo` (its sheet, or its plugin), or of a tag."""
    found = run.params.get(key) or run.tags.get(CHOICE + key) or run.params.get(f"{key}.plugin")
    return found or run.tags.get(key, ABSENT)


def usable(runs: Sequence[RecordedRun]) -> tuple[list[RecordedRun], list[str]]:
    """Finished runs whose curves are whole and finite, and a note for the others."""
    causes: dict[str, list[RecordedRun]] = defaultdict(list)
    chosen = []
    for run in runs:
        if why := _why_unusable(run):
            causes[why].append(run)
        else:
            chosen.append(run)
    notes = []
    for why, those in causes.items():
        names = ", ".join(f"{run.name} ({run.run_id[:8]})" for run in those)
        notes.append(f"left out, {why}: {names}.")
    if any(why.startswith(("FAILED", "its evaluation")) for why in causes):
        notes.append("A group that loses runs because they failed looks better and steadier than it is.")
    if not chosen:
        cause = "; ".join(f"{len(those)} {why}" for why, those in causes.items()) or "there is none"
        raise ConfigError(
            Problem("runs", len(runs), f"none can be compared ({cause})", "start some with: python -m plexp -m")
        )
    return chosen, notes


def _why_unusable(run: RecordedRun) -> str:
    if "pruned" in run.tags:
        return "pruned by a search"
    if run.status != "FINISHED":
        return f"{run.status}" + (" (still running, or killed without warning)" if run.status == "RUNNING" else "")
    if len(run.curve.steps) < 2:
        return "without a learning curve (evaluation.every=null, or longer than the run)"
    if not np.isfinite(run.curve.returns).all():
        return "its evaluations are not all finite"
    every, total = (parsed(run.params.get(key)) for key in ("evaluation.every", "total_timesteps"))
    due = int(total // every) + 1 if every and total else 0
    if len(run.curve.steps) >= due or run.params.get("total_episodes", "null") != "null":
        return ""
    if run.params.get("evaluation.stop_when_solved") == "true":
        return "ended when solved (evaluation.stop_when_solved=true), so the rest of its curve is unknown"
    if stopped := run.tags.get("stopped"):
        return f"ended by {stopped.partition(' ')[0]}, so the rest of its curve is unknown"
    return f"evaluations are missing ({len(run.curve.steps)} of {due})"


def check_environment(runs: Sequence[RecordedRun], by: Sequence[str]) -> None:
    """Raise ConfigError if the runs are of several problems, unless these are what is compared."""
    keys = [key for key in params_of(runs) if (key == "env.id" or key.startswith("env.kwargs")) and key not in by]
    kinds = {tuple(setting(run, key) for key in keys) for run in runs}
    if len(kinds) > 1:
        names = sorted({run.experiment for run in runs})
        cause = f"the runs are of {len(kinds)} environments, whose returns cannot be compared"
        raise ConfigError(Problem("--env", ..., cause, f"choose one: --env {' | '.join(names)}"))


def _environment_names(run: RecordedRun) -> set[str]:
    names = {run.experiment, run.tags.get(f"{CHOICE}env", ""), run.params.get("env.id", "")}
    return names - {"", "gymnasium"}


def check_key(option: str, key: str, runs: Sequence[RecordedRun]) -> None:
    """Raise ConfigError for what is a param, group or tag of no run."""
    if all(setting(run, key) == ABSENT for run in runs):
        groups = {tag.removeprefix(CHOICE) for run in runs for tag in run.tags if tag.startswith(CHOICE)}
        remedy = nearest(key, sorted({*params_of(runs), *groups}))
        raise ConfigError(Problem(option, key, "no run has such a param, group or tag", remedy))


def _some(chosen: Sequence[RecordedRun], option: str, value: str, known: Sequence[str]) -> None:
    if not chosen:
        remedy = nearest(value, list(known)) if known else "start one with: python -m plexp"
        raise ConfigError(Problem(option, value, "there are no such runs", remedy))


def params_of(runs: Iterable[RecordedRun]) -> list[str]:
    """The names of all their params."""
    return sorted({key for run in runs for key in run.params})

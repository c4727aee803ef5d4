"""Selects runs, and groups those that differ in nothing but the seed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from plexp.analysis.formatting import natural, parsed
from plexp.config.registry import REQUIRED_GROUPS
from plexp.errors import ConfigError, Problem, nearest
from plexp.tracking.history import RecordedRun

CHOICE = "choice."
"""Prefix of the tags with the config chosen in each group."""
ABSENT = "–"
"""Shown for a param that a run does not have."""


def select(
    runs: Sequence[RecordedRun], *, env: str | None, where: Mapping[str, Sequence[str]], sweep: str | None
) -> list[RecordedRun]:
    """Return the runs of an environment, of a sweep, with params (or groups, or tags) of one of the given values.

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
        _some(chosen, "--sweep", sweep, known[-5:], "start one with: python -m plexp -m")
    for key, values in where.items():
        check_key("--where", key, chosen)
        known = sorted({setting(run, key) for run in chosen})
        chosen = [run for run in chosen if setting(run, key) in values]
        _some(chosen, f"--where {key}", ",".join(values), known)
    return chosen


def setting(run: RecordedRun, key: str) -> str:
    """Return the value of a param, of a config group such as `algo` (its config, or its plugin), or of a tag."""
    value = run.params.get(key) or run.tags.get(CHOICE + key) or run.params.get(f"{key}.plugin")
    return value or run.tags.get(key, ABSENT)


def usable(runs: Sequence[RecordedRun]) -> tuple[list[RecordedRun], list[str]]:
    """Return finished runs whose curves are whole and finite, and notes on the others."""
    causes: dict[str, list[RecordedRun]] = defaultdict(list)
    chosen = []
    for run in runs:
        if reason := _why_unusable(run):
            causes[reason].append(run)
        else:
            chosen.append(run)
    notes = []
    for reason, unusable in causes.items():
        names = ", ".join(f"{run.name} ({run.run_id[:8]})" for run in unusable)
        notes.append(f"left out, {reason}: {names}.")
    if any(reason.startswith(("FAILED", "its evaluation")) for reason in causes):
        notes.append("A group that loses runs because they failed looks better and more stable than it is.")
    if not chosen:
        cause = "; ".join(f"{len(unusable)} {reason}" for reason, unusable in causes.items()) or "there is none"
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
        cause = f"the runs are of {len(kinds)} environments, whose returns cannot be compared"
        names = sorted({run.experiment for run in runs})
        options = [f"--env {name}" for name in names]
        named = [[run for run in runs if name in _environment_names(run)] for name in names]
        if any(len({tuple(setting(run, key) for key in keys) for run in those}) > 1 for those in named):
            key = next(key for key in ("env.plugin", *keys) if len({setting(run, key) for run in runs}) > 1)
            options = [f"--where {key}={value}" for value in sorted({setting(run, key) for run in runs} - {ABSENT})]
        raise ConfigError(Problem("--env", ..., cause, f"choose one: {' | '.join(options)}"))


def _environment_names(run: RecordedRun) -> set[str]:
    names = {run.experiment, run.tags.get(f"{CHOICE}env", ""), run.params.get("env.id", "")}
    return names - {"", "gymnasium"}


def check_key(option: str, key: str, runs: Sequence[RecordedRun]) -> None:
    """Raise ConfigError for what is a param, group or tag of no run."""
    if all(setting(run, key) == ABSENT for run in runs):
        groups = {tag.removeprefix(CHOICE) for run in runs for tag in run.tags if tag.startswith(CHOICE)}
        remedy = _nearest(key, sorted({*params_of(runs), *groups}), ": python -m plexp --cfg job")
        raise ConfigError(Problem(option, key, "no run has such a param, group or tag", remedy))


def _nearest(word: str, known: Sequence[str], where: str = "") -> str:
    """Return the remedy for a misspelt word, with ten of those that are known; `where` says how to see all."""
    remedy = nearest(word, list(known))
    if len(known) <= 10 or remedy.startswith("did you mean"):
        return remedy
    return f"there are {', '.join(known[:10])} … ({len(known)} in all{where})"


def _some(
    chosen: Sequence[RecordedRun],
    option: str,
    value: str,
    known: Sequence[str],
    none: str = "start one with: python -m plexp",
) -> None:
    if not chosen:
        remedy = _nearest(value, known) if known else none
        raise ConfigError(Problem(option, value, "there are no such runs", remedy))


def params_of(runs: Iterable[RecordedRun]) -> list[str]:
    """Return the names of all params of the runs."""
    return sorted({key for run in runs for key in run.params})


IGNORED_KEYS = ("seed", "outputs", "objective", "compile", "torch_threads", "device")
"""Params that change nothing that is learnt, or that groups are made over."""
IGNORED_SECTIONS = (
    *("tracker.", "evaluation.every", "evaluation.film", "evaluation.final_"),
    *("env.solved_", "env.random_", "env.evaluation_"),
)


@dataclass(frozen=True)
class RunGroup:
    """Runs that are to be seen as one thing."""

    label: str
    settings: Mapping[str, str]
    """Values of the keys that the groups are made by."""
    runs: Sequence[RecordedRun]


@dataclass(frozen=True)
class Grouping:
    """Runs in groups, with everything a reader must know about how that came about."""

    keys: Sequence[str]
    groups: Sequence[RunGroup]
    grid: npt.NDArray[np.int64]
    """Steps at which every run was evaluated."""
    notes: Sequence[str]


def group_runs(runs: Sequence[RecordedRun], by: Sequence[str] | None) -> Grouping:
    """Group runs, with their curves, by every param in which they differ, or by the keys in `by`.

    Raises ConfigError if nothing is left to compare.
    """
    for key in by or ():
        check_key("--by", key, runs)
    chosen, notes = usable(runs)
    check_environment(chosen, by or ())
    differing = [
        key for key in params_of(chosen) if not _is_aside(key) and len({setting(run, key) for run in chosen}) > 1
    ]
    chosen, repeated = _newest(chosen, differing)
    keys = list(by) if by is not None else _enough(chosen, differing)
    parts: dict[tuple[str, ...], list[RecordedRun]] = defaultdict(list)
    for run in chosen:
        parts[tuple(setting(run, key) for key in keys)].append(run)
    ordered = sorted(parts, key=lambda values: [natural(value) for value in values])
    settings = [dict(zip(keys, values, strict=True)) for values in ordered]
    groups = [
        RunGroup(label, each, parts[values])
        for label, each, values in zip(labels(settings, _words(chosen)), settings, ordered, strict=True)
    ]
    notes += repeated + _varying(groups, differing, keys) + _commits(chosen)
    grid, shorter = _common_grid(chosen)
    return Grouping(keys, groups, grid, notes + shorter)


def labels(settings: Sequence[Mapping[str, str]], words: Container[str] = ()) -> list[str]:
    """Return a label for each group, such as `ppo net.layers=2`; of three or more keys only what most don't share.

    `words` are keys that are config groups, whose values are names and stand alone.
    """
    usual = {}
    for key in settings[0] if settings else ():
        value, count = Counter(each[key] for each in settings).most_common(1)[0]
        if len(settings[0]) > 2 and count > len(settings) / 2:
            usual[key] = value
    texts = []
    for each in settings:
        unusual = {key: value for key, value in each.items() if usual.get(key) != value}
        shown = [
            value if key in words and value != ABSENT else f"{_short(key)}={value}" for key, value in unusual.items()
        ]
        texts.append(" ".join(shown) or ("as the others usually are" if each else "all runs"))
    return texts


def _words(runs: Sequence[RecordedRun]) -> set[str]:
    """Return the keys whose values are names: the config groups."""
    chosen = {tag.removeprefix(CHOICE) for run in runs for tag in run.tags if tag.startswith(CHOICE)}
    return chosen | {name for group in REQUIRED_GROUPS for name in (group, f"{group}.plugin")}


def _newest(runs: Sequence[RecordedRun], differing: Sequence[str]) -> tuple[list[RecordedRun], list[str]]:
    """Return the run that was started last of those with the same configuration and seed, and notes on the others."""
    latest: dict[tuple[str, ...], RecordedRun] = {}
    older = []
    for run in sorted(runs, key=lambda run: run.start_time):
        key = (setting(run, "seed"), *(setting(run, each) for each in differing))
        older += [latest[key]] if key in latest else []
        latest[key] = run
    names = ", ".join(f"{run.name} ({run.run_id[:8]})" for run in older)
    notes = [f"left out, the same configuration and seed was run again later: {names}."] if older else []
    return list(latest.values()), notes


def _enough(runs: Sequence[RecordedRun], differing: Sequence[str]) -> list[str]:
    """Return a smallest set of params that tells all configurations apart: plugins first, then params at the root."""
    plugins = [f"{group}.plugin" for group in REQUIRED_GROUPS]
    order = sorted(differing, key=lambda key: (plugins.index(key) if key in plugins else 9, key.count("."), key))
    whole = len({tuple(setting(run, key) for key in order) for run in runs})
    keys: list[str] = []
    for key in order:
        before = len({tuple(setting(run, each) for each in keys) for run in runs})
        if before == whole:
            break
        if len({tuple(setting(run, each) for each in [*keys, key]) for run in runs}) > before:
            keys.append(key)
    return keys


def _varying(groups: Sequence[RunGroup], differing: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Params that differ between the runs of one group, and not only between groups."""
    found = {}
    for key in differing:
        if key not in keys and any(len({setting(run, key) for run in group.runs}) > 1 for group in groups):
            found[key] = sorted({setting(run, key) for group in groups for run in group.runs}, key=natural)
    if not found:
        return []
    shown = "; ".join(f"{_short(key)} ({', '.join(values)})" for key, values in list(found.items())[:8])
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return [f"differs within groups, so that its effect is in their spread: {shown}{more}."]


def _commits(runs: Sequence[RecordedRun]) -> list[str]:
    commits = sorted({run.tags.get("git.commit", "")[:8] for run in runs} - {""})
    if len(commits) < 2:
        return []
    return [
        f"the runs come from {len(commits)} commits of the code: {', '.join(commits[:6])}{' …' if commits[6:] else ''}."
    ]


def _common_grid(runs: Sequence[RecordedRun]) -> tuple[npt.NDArray[np.int64], list[str]]:
    grid = runs[0].curve.steps
    for run in runs[1:]:
        grid = np.intersect1d(grid, run.curve.steps)
    if len(grid) < 2:
        cause = "their evaluations have fewer than two steps in common"
        raise ConfigError(
            Problem("evaluation.every", ..., cause, "choose runs that were evaluated at the same steps: --where")
        )
    ends = sorted({int(run.curve.steps[-1]) for run in runs})
    if len(ends) == 1:
        return grid, []
    budgets = ", ".join(f"{end:,}" for end in ends[:6]) + (" …" if ends[6:] else "")
    note = f"budgets differ ({budgets} steps): compared over the first {int(grid[-1]):,}"
    anneals = any(run.params.get("algo.anneal_learning_rate") == "true" for run in runs)
    return grid, [
        f"{note}; learning rates fall with a run's own budget, so the longer runs were not yet so far in it."
        if anneals
        else f"{note}."
    ]


def cut_to(run: RecordedRun, grid: npt.NDArray[np.int64]) -> RecordedRun:
    """Return the run with its curve at the steps of the grid alone."""
    at = np.searchsorted(run.curve.steps, grid)
    curve = run.curve
    return replace(run, curve=type(curve)(grid, curve.returns[at], curve.seconds[at]))


def _is_aside(key: str) -> bool:
    return key in IGNORED_KEYS or key.startswith(IGNORED_SECTIONS)


def _short(key: str) -> str:
    return key.removesuffix(".plugin")

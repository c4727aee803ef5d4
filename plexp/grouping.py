"""Which runs are one group: the same in everything but the seed, and what tells the groups apart."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from plexp.errors import ConfigError, Problem
from plexp.numbers import natural
from plexp.registry import PARTS
from plexp.selection import ABSENT, CHOICE, check_environment, check_key, params_of, setting, usable
from plexp.tracking_history import RecordedRun

ASIDE = ("seed", "outputs", "objective", "compile", "torch_threads", "device")
"""Params that change nothing that is learnt, or that groups are made over."""
ASIDE_SECTIONS = (
    *("tracker.", "evaluation.every", "evaluation.film", "evaluation.final_"),
    *("env.solved_", "env.random_", "env.evaluation_"),
)


@dataclass(frozen=True)
class RunGroup:
    """Runs that are to be seen as one thing."""

    label: str
    settings: Mapping[str, str]
    """Of the keys that the groups are made by."""
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
    """Runs with their curves, grouped by every param in which they differ, or by the keys in `by`.

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
    """`ppo net.layers=2` for each group; of three or more keys only what most of the groups do not share.

    words: keys that are config groups, whose values are names and stand alone.
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
    """Keys whose values are names: the config groups."""
    chosen = {tag.removeprefix(CHOICE) for run in runs for tag in run.tags if tag.startswith(CHOICE)}
    return chosen | {name for group in PARTS for name in (group, f"{group}.plugin")}


def _newest(runs: Sequence[RecordedRun], differing: Sequence[str]) -> tuple[list[RecordedRun], list[str]]:
    """Of runs with the same configuration and seed the one that was started last."""
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
    """As few of the params as tell all configurations apart: plugins first, then what stands at the root."""
    plugins = [f"{group}.plugin" for group in PARTS]
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
    """The run with its curve at the steps of the grid alone."""
    at = np.searchsorted(run.curve.steps, grid)
    curve = run.curve
    return replace(run, curve=type(curve)(grid, curve.returns[at], curve.seconds[at]))


def _is_aside(key: str) -> bool:
    return key in ASIDE or key.startswith(ASIDE_SECTIONS)


def _short(key: str) -> str:
    return key.removesuffix(".plugin")

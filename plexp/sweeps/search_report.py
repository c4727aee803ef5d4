"""The result of a search, as facts for a file and as lines for a reader. It needs neither Hydra nor MLflow."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plexp.analysis.statistics import Interval, mean_interval, welch
from plexp.analysis.verdicts import ALPHA, FEWEST_SEEDS
from plexp.tracking.format import masked

if TYPE_CHECKING:
    from rich.console import Console

    from plexp.sweeps.trials import Search


SHOWN = 5
"""Trials that the table of the best has."""


def report(
    search: Search,
    values: Mapping[str, Any],
    fixed: Sequence[str],
    folder: Path,
    confirmed: Mapping[str, Sequence[float | None]],
    is_done: bool,
) -> dict[str, Any]:
    """Return the content of `search.json` so far.

    values: the untuned configuration. fixed: its overrides. confirmed: the objective on the fresh seeds, None where a run
    failed, of `confirmation` (the best trial) and `baseline` (the untuned configuration).
    """
    from plexp.sweeps.pruning import PRUNED
    from plexp.sweeps.trials import ERROR, VALUES

    settings, best = search.settings, search.best()
    seeds, fresh = settings["seeds_per_trial"], settings["confirmation_seeds"]
    trials = [
        {
            "number": each.number,
            "status": {"COMPLETE": "FINISHED", "FAIL": "FAILED"}.get(each.state.name, each.state.name),
            "params": each.params,
            "value": each.value if VALUES in each.user_attrs else None,
            "values": each.user_attrs.get(VALUES),
            "why": each.user_attrs.get(PRUNED) or each.user_attrs.get(ERROR),
        }
        for each in search.study.get_trials()
    ]
    facts: dict[str, Any] = {
        "objective": values["objective"],
        "direction": settings["direction"],
        "seeds": [values["seed"] + index for index in range(seeds)],
        "fresh_seeds": [values["seed"] + seeds + index for index in range(fresh)],
        "trials": trials,
        "ranked": [each.number for each in search.ranked()],
        "best": None if best is None else best.number,
        "is_done": is_done,
        "steps": steps_of(folder, trials, values["total_timesteps"], seeds),
        "confirmation": None if not confirmed else {**confirmed, **verdict(confirmed, settings["direction"])},
    }
    if best is not None:
        kept = [masked(each) for each in fixed if not each.startswith("search=")]
        facts["command"] = f"python -m plexp {shlex.join([*kept, *shown(best.params).split(' ')])}"
    return facts


def verdict(confirmed: Mapping[str, Sequence[float | None]], direction: str) -> dict[str, Any]:
    """Means with their 95 % intervals, and whether the best trial is better than the untuned configuration.

    By Welch's test, with as many seeds at least as a comparison asks for.
    """
    known = {
        role: np.array([value for value in found if value is not None and math.isfinite(value)])
        for role, found in confirmed.items()
    }
    intervals = {role: mean_interval(found) for role, found in known.items() if len(found)}
    facts: dict[str, Any] = {f"{role}_mean": [each.value, each.low, each.high] for role, each in intervals.items()}
    if "baseline" not in confirmed:
        return facts | {"verdict": "it is the untuned configuration"}
    if min(map(len, known.values())) < FEWEST_SEEDS:
        return facts | {"verdict": f"no verdict on fewer than {FEWEST_SEEDS} seeds"}
    difference, p = welch(known["confirmation"], known["baseline"])
    facts |= {"difference": [difference.value, difference.low, difference.high], "p": p}
    if not p < ALPHA:
        return facts | {"verdict": "not distinguishable"}
    is_better = (difference.value > 0) == (direction == "maximize")
    return facts | {"verdict": "better" if is_better else "worse"}


def steps_of(folder: Path, trials: Sequence[Mapping[str, Any]], total: int, seeds: int) -> dict[str, int]:
    """Return the environment steps that the trials would have taken, and those that they took; each point counts once."""
    points = {json.dumps(each["params"], sort_keys=True) for each in trials}
    taken = 0
    for number in range(len(trials) * seeds):
        with suppress(OSError, ValueError):
            taken += json.loads((folder / str(number) / "result.json").read_text()).get("steps") or 0
    return {"planned": len(points) * seeds * total, "taken": taken}


def show(facts: Mapping[str, Any], console: Console) -> None:
    """Print a table of the best trials, and lines on the search."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    best = [facts["trials"][number] for number in facts["ranked"][:SHOWN]]
    if best:
        table = Table(box=box.SIMPLE)
        for name in ("trial", *(str(each["number"]) for each in best)):
            table.add_column(name, justify="left" if name == "trial" else "right")
        for key in best[0]["params"]:
            table.add_row(key, *(Text(str(each["params"][key])) for each in best))
        for at, seed in enumerate(facts["seeds"]):
            table.add_row(f"seed {seed}", *(f"{each['values'][at]:.4g}" for each in best))
        table.add_row("mean", *(f"{each['value']:.4g}" for each in best))
        console.print(table)
    for line in lines(facts):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def lines(facts: Mapping[str, Any]) -> list[str]:
    """Return lines on the number of trials, what pruning saved, and the best trial with its verdict."""
    trials = facts["trials"]
    counts = Counter(trial["status"] for trial in trials)
    ends = ", ".join(
        f"{counts[status]} {status.lower()}" for status in ("FINISHED", "PRUNED", "FAILED") if counts[status]
    )
    planned, taken = facts["steps"]["planned"], facts["steps"]["taken"]
    texts = [f"{len(trials)} trials of {len(facts['seeds'])} seeds: {ends}"]
    if counts["PRUNED"]:
        texts[0] += f"; pruning saved {max(0.0, 1 - taken / planned):.0%} of {planned:,} steps"
    texts += [f"trial {trial['number']} failed: {trial['why']}" for trial in trials if trial["status"] == "FAILED"]
    if facts["best"] is None:
        return [*texts, "no trial is finished, so there is no best one"]
    best = trials[facts["best"]]
    text = (
        f"best trial {best['number']}: {shown(best['params'])}: {best['value']:.4g} on its {len(best['values'])} seeds"
    )
    if runs := facts["confirmation"]:
        fresh = len(runs["confirmation"])
        text += f"; on {fresh} fresh seeds {_interval(runs, 'confirmation')}"
        text += f", untuned {_interval(runs, 'baseline')}" if "baseline" in runs else ""
        text += f": {runs['verdict']}"
        if failed := sum(value is None for role in ("confirmation", "baseline") for value in runs.get(role, [])):
            text += f" ({failed} of these runs failed)"
    return [*texts, text, facts["command"]]


def shown(params: Mapping[str, Any]) -> str:
    """Return parameters as overrides, such as `algo.learning_rate=0.003 net.layers=2`."""
    return " ".join(f"{key}={value}" for key, value in params.items())


def _interval(found: Mapping[str, Any], role: str) -> str:
    if f"{role}_mean" not in found:
        return "none"
    each = Interval(*found[f"{role}_mean"])
    return f"{each.value:.4g} [{each.low:.4g}, {each.high:.4g}]"

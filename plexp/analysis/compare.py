"""Compares recorded runs: the whole of `python -m plexp compare` except reading the runs and drawing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from plexp.analysis.curves import curve_figures
from plexp.analysis.formatting import parsed
from plexp.analysis.grouping import ABSENT, RunGroup, cut_to, group_runs, setting
from plexp.analysis.model import Comparison, Group, Member, Summary, figures_of
from plexp.analysis.statistics import (
    bootstrap_interval,
    cvar,
    interquartile_mean,
    iqr,
    mean_interval,
    median_survival,
    proportion_interval,
)
from plexp.analysis.verdicts import FEW_SEEDS, FEWEST_SEEDS, PAIRWISE_GROUPS, contrasts, measures, verdicts
from plexp.errors import ConfigError, Problem, nearest
from plexp.tracking.history import RecordedRun


def compare(
    runs: Sequence[RecordedRun],
    *,
    by: Sequence[str] | None = None,
    baseline: str | None = None,
    threshold: float | None = None,
) -> Comparison:
    """Compare runs, with their curves, group by group.

    Args:
        runs: the runs.
        by: params or config groups that make the groups; None: all that differ.
        baseline: group that the others are compared with; None: every pair, or the best with the rest.
        threshold: mean return that counts as solved; None: the environment's `solved_return`.

    Raises ConfigError if there is nothing to compare, or no group is the baseline.
    """
    grouping = group_runs(runs, by)
    everyone = [run for group in grouping.groups for run in group.runs]
    solved = _shared(everyone, "env.solved_return")
    mark = solved if threshold is None else threshold
    notes = list(grouping.notes)
    if threshold is None and solved is None:
        notes.append("there is no threshold (env.solved_return is null or differs): give one with --threshold.")
    groups = [
        _group(group, grouping.grid, mark, solved, _shared(everyone, "env.random_return")) for group in grouping.groups
    ]
    reference = _baseline(groups, baseline)
    figures = measures(groups, mark, int(grouping.grid[-1]))
    tested = contrasts(groups, figures, reference) if len(groups) > 1 else []
    if mark is not None and not figures[0].steps:
        reached = sum(np.isfinite(group.values("steps_to_threshold")).sum() for group in groups)
        share = "no run" if not reached else f"only {reached} of {len(everyone)} runs"
        notes.append(f"{share} reached {mark:g}: speed is compared by the mean return while learning.")
    if len(groups) == 1:
        runs_of_it = f"{len(everyone)} run{'s' if len(everyone) > 1 else ''}"
        answer = [f"there is one group only, of {runs_of_it}: nothing to compare it with"]
    else:
        answer = verdicts(groups, figures, tested, ranked=reference is None and len(groups) > PAIRWISE_GROUPS)
    if any(len(group.members) < FEW_SEEDS for group in groups):
        notes.append(
            f"under {FEW_SEEDS} seeds a bootstrap of the mean is too narrow: read Student's t beside it; "
            f"under {FEWEST_SEEDS} no verdict."
        )
    environment = _environment(everyone)
    title = f"{environment} by {', '.join(grouping.keys)}" if grouping.keys else environment
    return Comparison(title, environment, grouping.grid, mark, grouping.keys, groups, tested, answer, notes)


def _group(
    group: RunGroup, grid: np.ndarray, threshold: float | None, solved: float | None, random_return: float | None
) -> Group:
    members = []
    for run in sorted(
        (cut_to(run, grid) for run in group.runs), key=lambda run: (parsed(setting(run, "seed")) or 0, run.run_id)
    ):
        curve = run.curve
        figures = curve_figures(
            curve.steps,
            curve.returns,
            curve.seconds,
            threshold=threshold,
            random_return=random_return,
            solved_return=solved,
        )
        members.append(Member(run.run_id, setting(run, "seed"), curve.returns, curve.seconds, figures))
    return Group(group.label, group.settings, members, _summary(members, float(grid[-1]), threshold))


def _summary(members: Sequence[Member], budget: float, threshold: float | None) -> Summary:
    values = partial(figures_of, members)
    final, steps, seconds = values("final_return"), values("steps_to_threshold"), values("seconds_to_threshold")
    limits = np.array([member.seconds[-1] for member in members])
    scores, runs = values("normalised_score"), len(members)
    timed = np.isfinite(limits).all() and np.array_equal(np.isfinite(steps), np.isfinite(seconds))
    return Summary(
        mean=bootstrap_interval(final, np.mean),
        mean_t=mean_interval(final) if runs < FEW_SEEDS else None,
        iqm=bootstrap_interval(final, interquartile_mean),
        median=bootstrap_interval(final, np.median),
        auc=bootstrap_interval(values("auc_return"), interquartile_mean),
        dispersion_runs=iqr(final),
        cvar_runs=cvar(final),
        solved=None if threshold is None else proportion_interval(int(np.isfinite(steps).sum()), runs),
        collapsed=proportion_interval(int(values("collapsed").sum()), runs),
        median_steps=median_survival(steps, budget),
        median_seconds=median_survival(seconds, limits) if timed else None,
        max_drawdown=float(np.median(values("max_drawdown"))),
        dispersion_time=float(np.median(values("dispersion_time"))),
        normalised_score=float(scores.mean()) if np.isfinite(scores).all() else None,
    )


def _shared(runs: Sequence[RecordedRun], key: str) -> float | None:
    """Return the number that all runs have for a key; None if they differ."""
    values = {setting(run, key) for run in runs}
    return parsed(values.pop()) if len(values) == 1 else None


def _baseline(groups: Sequence[Group], name: str | None) -> int | None:
    if name is None:
        return None
    wanted = set(name.replace(",", " ").split())
    texts = [
        {text for key, value in group.settings.items() for text in (f"{key.removesuffix('.plugin')}={value}", value)}
        for group in groups
    ]
    exact = [i for i, group in enumerate(groups) if group.label == name]
    matches = exact or [i for i, text in enumerate(texts) if wanted <= text]
    if len(matches) != 1:
        labels = [group.label for group in groups]
        cause = "there is no such group" if not matches else f"{len(matches)} groups are like that"
        raise ConfigError(Problem("--baseline", name, cause, nearest(name, labels)))
    return matches[0]


def _environment(runs: Sequence[RecordedRun]) -> str:
    names = {setting(run, "choice.env") for run in runs} - {ABSENT, "gymnasium"}
    return names.pop() if len(names) == 1 else ", ".join(sorted({run.experiment for run in runs}))

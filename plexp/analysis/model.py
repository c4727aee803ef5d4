"""The result of a comparison, as data: groups, their figures, contrasts and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from plexp.analysis.curves import CurveFigures
from plexp.analysis.statistics import Interval

Floats = npt.NDArray[np.float64]
Question = Literal["speed", "stability", "final"]


@dataclass(frozen=True)
class Member:
    """One run of a group, on the common grid of environment steps."""

    run_id: str
    seed: str
    returns: Floats
    """[E] mean greedy return of each evaluation."""
    seconds: Floats
    """[E] of training until each evaluation; NaN where it was not logged."""
    figures: CurveFigures


def figures_of(members: Sequence[Member], figure: str) -> Floats:
    """Return one figure of each member, [S]; NaN where it is None."""
    values = [getattr(member.figures, figure) for member in members]
    return np.array([np.nan if value is None else value for value in values], float)


@dataclass(frozen=True)
class Summary:
    """Figures of a group over its seeds, with intervals of 95 %."""

    mean: Interval
    """Mean `final_return`, with a BCa bootstrap interval."""
    mean_t: Interval | None
    """Mean `final_return`, with Student's t interval, under 20 seeds, where the bootstrap is too narrow; else None."""
    iqm: Interval
    """Interquartile mean of `final_return`, by a BCa bootstrap."""
    median: Interval
    """Median `final_return`, with a BCa bootstrap interval."""
    auc: Interval
    """Interquartile mean of `auc_return`, by a BCa bootstrap."""
    dispersion_runs: float
    """Interquartile range of `final_return` over the seeds."""
    cvar_runs: float
    """Mean `final_return` of the worst quarter of the seeds."""
    solved: Interval | None
    """Share of runs that reached the threshold (Wilson); None: there is no threshold."""
    collapsed: Interval
    """Share of runs whose end lies below half of their own peak (Wilson)."""
    median_steps: float | None
    """Kaplan–Meier median of the steps to the threshold; None: half of the runs do not get there, or there is none."""
    median_seconds: float | None
    """Kaplan–Meier median of the seconds of training to the threshold."""
    max_drawdown: float
    """Median over the seeds of the greatest fall below the best so far, as a share of the range."""
    dispersion_time: float
    """Median over the seeds of the spread of changes between evaluations."""
    normalised_score: float | None
    """Mean over the seeds of (final − random)/(solved − random); None if either is unknown."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds alone."""

    label: str
    """Name that sets it apart, such as `net.layers=2`."""
    settings: Mapping[str, str]
    """The params it is grouped by."""
    members: Sequence[Member]
    summary: Summary

    def values(self, figure: str) -> Floats:
        """Return one figure of every member, such as `final_return`, [S]; NaN where it is None."""
        return figures_of(self.members, figure)

    @property
    def curves(self) -> Floats:
        """Mean returns of all members at all evaluations, [S, E]."""
        return np.stack([member.returns for member in self.members])


@dataclass(frozen=True)
class Contrast:
    """Two groups under one question: `group` against `reference`."""

    question: Question
    group: str
    reference: str
    measure: str
    """Name of the figure that was compared, such as `steps to 475`."""
    difference: Interval
    """group − reference, Welch's 95 % interval."""
    p: float
    p_holm: float
    """Corrected for all contrasts of the comparison."""
    improvement: Interval
    """Probability that a run of `group` is better than one of `reference`."""
    distinct: bool | None
    """True if the groups are called different; None: too few seeds for a verdict."""
    sentence: str


@dataclass(frozen=True)
class Comparison:
    """A comparison of groups of runs: everything that a table or a report shows."""

    title: str
    environment: str
    grid: npt.NDArray[np.int64]
    """[E] environment steps of the common evaluations."""
    threshold: float | None
    by: Sequence[str]
    """Params whose values make the groups."""
    groups: Sequence[Group]
    contrasts: Sequence[Contrast]
    verdicts: Sequence[str]
    """Sentences, the answer to the question."""
    notes: Sequence[str]
    """Sentences on runs left out and why, different budgets, params that vary within groups."""

"""Which group of runs learns faster, which is steadier, which ends higher, and whether it is more than luck."""

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
    """[S] one figure of each; NaN where it is None."""
    found = [getattr(member.figures, figure) for member in members]
    return np.array([np.nan if each is None else each for each in found], float)


@dataclass(frozen=True)
class Summary:
    """A group over its seeds. Intervals are of 95 %."""

    mean: Interval
    """Of `final_return`, by a BCa bootstrap."""
    mean_t: Interval | None
    """The same by Student's t, under 20 seeds, where the bootstrap is too narrow; None from 20 on."""
    iqm: Interval
    """Interquartile mean of `final_return`, by a BCa bootstrap."""
    median: Interval
    """Of `final_return`, by a BCa bootstrap."""
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
    """The same of the seconds of training."""
    max_drawdown: float
    """Median over the seeds."""
    dispersion_time: float
    """Median over the seeds."""
    normalised_score: float | None
    """Mean over the seeds; None without a random return or a solved mark."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds alone."""

    label: str
    """What sets it apart, e.g. `net.layers=2`."""
    settings: Mapping[str, str]
    """The params it is grouped by."""
    members: Sequence[Member]
    summary: Summary

    def values(self, figure: str) -> Floats:
        """[S] one figure of every member, such as `final_return`; NaN where it is None."""
        return figures_of(self.members, figure)

    @property
    def curves(self) -> Floats:
        """[S, E]"""
        return np.stack([member.returns for member in self.members])


@dataclass(frozen=True)
class Contrast:
    """Two groups under one question: `group` against `reference`."""

    question: Question
    group: str
    reference: str
    measure: str
    """What was compared, e.g. `steps to 475`."""
    difference: Interval
    """group − reference, Welch's 95 % interval."""
    p: float
    p_holm: float
    """Corrected for all contrasts of the comparison."""
    improvement: Interval
    """Probability that a run of `group` is better than one of `reference`."""
    distinct: bool | None
    """Whether it is called different; None: too few seeds for a verdict."""
    sentence: str


@dataclass(frozen=True)
class Comparison:
    """Everything that a table or a report shows."""

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
    """What the reader has to know: runs left out and why, different budgets, params that vary within groups."""

    def __str__(self) -> str:
        from plexp.analysis.report import text

        return text(self)

    def _repr_html_(self) -> str:
        from plexp.analysis.report import html_fragment

        return html_fragment(self)

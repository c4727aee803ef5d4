"""Tests whether a group is faster, more stable or better in the end than another, and says so in sentences."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from plexp.analysis.formatting import number
from plexp.analysis.model import Contrast, Group, Question
from plexp.analysis.statistics import Interval, holm, probability_of_improvement, seeds_needed, welch

Floats = npt.NDArray[np.float64]
ALPHA = 0.05
"""Probability that chance alone calls any contrast of a comparison different; smaller: fewer false alarms, more misses."""
FEWEST_SEEDS = 5
"""Seeds of the smaller group from which there is a verdict; with fewer, a single seed decides it."""
FEW_SEEDS = 20
"""Seeds from which the bootstrap of the mean covers as often as Student's t; plexp/analysis/README.md has the figures."""
PAIRWISE_GROUPS = 3
"""Groups up to which every pair gets a sentence; of more, each question gets one."""
NAMED_GROUPS = 6
"""Groups that a sentence lists by name; of more it gives the number."""
VERBS: dict[Question, tuple[str, str]] = {
    "speed": ("learns faster than", "learns more slowly than"),
    "stability": ("is steadier than", "is less steady than"),
    "final": ("ends higher than", "ends lower than"),
}
ASPECTS: dict[Question, str] = {"speed": "learning speed", "stability": "stability", "final": "final return"}
MOST: dict[Question, str] = {"speed": "learns fastest", "stability": "is steadiest", "final": "ends highest"}


@dataclass(frozen=True)
class Measure:
    """A figure that answers a question."""

    question: Question
    name: str
    """Name with the unit, as it stands in a sentence after a number."""
    values: Sequence[Floats]
    """Values of each group's seeds, [S]."""
    lower_is_better: bool
    steps: bool = False


def measures(groups: Sequence[Group], threshold: float | None, budget: int) -> list[Measure]:
    """Return the measure of each question.

    Speed is min(steps to the threshold, budget), whose mean is the restricted mean of the Kaplan–Meier curve (all
    censoring is at the budget), if half of all runs or more get there; else the mean return while learning.
    """
    reached = [np.isfinite(group.values("steps_to_threshold")) for group in groups]
    if threshold is not None and np.concatenate(reached).mean() >= 0.5:
        steps = [np.nan_to_num(group.values("steps_to_threshold"), nan=float(budget)) for group in groups]
        speed = Measure("speed", f"steps to {threshold:g}", steps, True, True)
    else:
        speed = Measure("speed", "mean return while learning", [group.values("auc_return") for group in groups], False)
    drawdown = [100 * group.values("max_drawdown") for group in groups]
    return [
        speed,
        Measure("stability", "% of the range lost at worst", drawdown, True),
        Measure("final", "final return", [group.values("final_return") for group in groups], False),
    ]


def contrasts(groups: Sequence[Group], figures: Sequence[Measure], baseline: int | None) -> list[Contrast]:
    """Contrast each group with the baseline, or all pairs, under each measure, with Holm's correction over all of them.

    Without a baseline, the better group of a pair comes first.
    """
    pairs = (
        [(i, baseline) for i in range(len(groups)) if i != baseline]
        if baseline is not None
        else list(combinations(range(len(groups)), 2))
    )
    ordered, tests = [], []
    for i, j in pairs:
        for measure in figures:
            a, b = measure.values[i], measure.values[j]
            worse = (a.mean() > b.mean()) == measure.lower_is_better and a.mean() != b.mean()
            ordered.append((measure, j, i) if baseline is None and worse else (measure, i, j))
            measure, first, second = ordered[-1]
            tests.append(welch(measure.values[first], measure.values[second]))
    enough = [min(len(groups[i].members), len(groups[j].members)) >= FEWEST_SEEDS for _, i, j in ordered]
    p_values = np.array([p if counts else math.nan for (_, p), counts in zip(tests, enough, strict=True)])
    return [
        _contrast(groups, measure, i, j, difference, p, corrected)
        for (measure, i, j), (difference, p), corrected in zip(ordered, tests, holm(p_values), strict=True)
    ]


def _contrast(
    groups: Sequence[Group], measure: Measure, i: int, j: int, difference: Interval, p: float, corrected: float
) -> Contrast:
    a, b = measure.values[i], measure.values[j]
    sign = -1.0 if measure.lower_is_better else 1.0
    distinct = None if math.isnan(corrected) else bool(corrected < ALPHA)
    label, reference, aspect = groups[i].label, groups[j].label, ASPECTS[measure.question]
    if distinct is None:
        sentence = f"{label} and {reference}: exploratory: no verdict; {_more_seeds([measure], i, j)}"
    elif distinct:
        verb = VERBS[measure.question][sign * difference.value < 0]
        sentence = f"{label} {verb} {reference} ({_difference(difference, measure)}, {_seeds(a, b)})"
    else:
        sentence = f"{label} and {reference}, {aspect}: not distinguishable ({_seeds(a, b)})"
    better = probability_of_improvement(sign * a, sign * b)
    return Contrast(
        measure.question, label, reference, measure.name, difference, p, corrected, better, distinct, sentence
    )


def verdicts(
    groups: Sequence[Group], figures: Sequence[Measure], tested: Sequence[Contrast], ranked: bool
) -> list[str]:
    """Return the answer in sentences: first what differs, then the pairs that do not, or that have too few seeds.

    With `ranked` there is one sentence for each question: the best group, and which groups it beats.
    """
    if ranked:
        return [_ranking(groups, measure, tested) for measure in figures]
    indices = {group.label: index for index, group in enumerate(groups)}
    same: dict[tuple[str, str], list[str]] = defaultdict(list)
    exploratory = []
    for pair in dict.fromkeys(frozenset((contrast.group, contrast.reference)) for contrast in tested):
        of_pair = [contrast for contrast in tested if {contrast.group, contrast.reference} == pair]
        reference = of_pair[0].reference
        i, j = sorted((indices[label] for label in pair), key=lambda index: groups[index].label == reference)
        if alike := [ASPECTS[contrast.question] for contrast in of_pair if contrast.distinct is False]:
            seeds = _seeds(figures[0].values[i], figures[0].values[j])
            same[groups[j].label, f"{_joined(alike, 'or')} ({seeds})"].append(groups[i].label)
        if of_pair[0].distinct is None:
            names = f"{groups[i].label} and {groups[j].label}"
            exploratory.append(f"{names}: exploratory: no verdict; {_more_seeds(figures, i, j)}")
    differing = [contrast.sentence for contrast in tested if contrast.distinct]
    equal = [
        f"{_joined(names, 'and')}: not distinguishable from {other} in {how}" for (other, how), names in same.items()
    ]
    return differing + equal + exploratory


def _ranking(groups: Sequence[Group], measure: Measure, tested: Sequence[Contrast]) -> str:
    """Return one sentence on a question.

    Such as `a learns fastest (on average 12.5k steps to 475): distinguishable from b and c; not distinguishable from d`.
    """
    means = [float(values.mean()) for values in measure.values]
    best, second = sorted(range(len(groups)), key=means.__getitem__, reverse=not measure.lower_is_better)[:2]
    label = groups[best].label
    own = [c for c in tested if c.question == measure.question and label in (c.group, c.reference)]
    others = {c.reference if c.group == label else c.group: c.distinct for c in own}
    beaten = [name for name, distinct in others.items() if distinct]
    equal = [name for name, distinct in others.items() if distinct is False]
    unknown = [name for name, distinct in others.items() if distinct is None]
    mean = f"on average {_amount(means[best], measure)} {measure.name}"
    ahead = f"{label} is ahead ({mean})"
    fewest = f"no verdict on {_listed(unknown, 'and')}, under {FEWEST_SEEDS} seeds" if unknown else ""
    if not beaten and groups[second].label in unknown:
        more = f"to tell it from {groups[second].label}, {_more_seeds([measure], best, second)}"
        return f"exploratory: no verdict on {ASPECTS[measure.question]}; {ahead}; {more}"
    if not beaten:
        text = f"not distinguishable in {ASPECTS[measure.question]}: {ahead}, but it may be luck"
        return "; ".join([text, fewest]) if fewest else text
    parts = [f"distinguishable from {_listed(beaten, 'and')}"]
    parts += [f"not distinguishable from {_listed(equal, 'and')}"] if equal else []
    parts += [fewest] if fewest else []
    return f"{label} {MOST[measure.question]} ({mean}): {'; '.join(parts)}"


def _difference(difference: Interval, measure: Measure) -> str:
    low, high = (_amount(bound, measure, signed=True) for bound in (difference.low, difference.high))
    return f"{_amount(difference.value, measure, signed=True)} {measure.name}, 95 % CI {low}…{high}"


def _amount(value: float, measure: Measure, signed: bool = False) -> str:
    return ("+" if signed and value > 0 else "") + number(value, steps=measure.steps)


def _seeds(a: Floats, b: Floats) -> str:
    return f"{len(a)} seeds each" if len(a) == len(b) else f"{len(a)} and {len(b)} seeds"


def _more_seeds(figures: Sequence[Measure], i: int, j: int) -> str:
    """Return how many seeds are missing, never fewer than a verdict needs.

    Such as `7 more seeds each for an effect of this size in learning speed, 20 in stability`.
    """
    here = min(len(figures[0].values[i]), len(figures[0].values[j]))
    needs = []
    for measure in figures:
        a, b = measure.values[i], measure.values[j]
        needed = seeds_needed(a, b) if here > 1 else None
        if needed is not None:
            needs.append((max(needed, FEWEST_SEEDS) - here, ASPECTS[measure.question]))
    if not needs:
        return f"{FEWEST_SEEDS - here} more seeds each to begin with"
    (first, aspect), rest = needs[0], needs[1:]
    text = f"{first} more seed{'s' if first > 1 else ''} each for an effect of this size in {aspect}"
    return ", ".join([text, *(f"{more} in {aspect}" for more, aspect in rest)])


def _listed(names: Sequence[str], word: str) -> str:
    return f"{len(names)} others" if len(names) > NAMED_GROUPS else _joined(names, word)


def _joined(names: Sequence[str], word: str) -> str:
    return f" {word} ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]

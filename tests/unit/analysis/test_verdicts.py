"""Tests of verdicts: which differences are reported, in which words, and how often chance alone is called one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from plexp.analysis.compare import compare
from plexp.analysis.model import Comparison
from plexp.errors import ConfigError
from plexp.tracking.history import RecordedRun
from tests.support.stores import curve_of_learning, recorded

Curves = list[list[float]]


def runs(groups: dict[str, Curves]) -> list[RecordedRun]:
    return [recorded(curve, seed=s, kind=kind) for kind, curves in groups.items() for s, curve in enumerate(curves)]


def climbs(at: list[int], top: float = 500.0) -> Curves:
    """Return curves of ten evaluations: 0 before each given evaluation, `top` from it on."""
    return [[0.0] * n + [top] * (10 - n) for n in at]


def compared(baseline: str | None = None, threshold: float | None = None, **groups: Curves) -> Comparison:
    return compare(runs(groups), by=["kind"], baseline=baseline, threshold=threshold)


def test_a_faster_group_is_called_faster_in_one_sentence_with_its_interval() -> None:
    fast, slow = climbs([1, 2, 1, 2, 1, 2]), climbs([6, 7, 6, 7, 6, 7])
    found = compared(slow=slow, fast=fast)
    welch = stats.ttest_ind([1000, 2000] * 3, [6000, 7000] * 3, equal_var=False)
    low, high = welch.confidence_interval()
    assert found.verdicts[0] == (
        "kind=fast learns faster than kind=slow "
        f"(−5k steps to 475, 95 % CI −{-low / 1000:.3g}k…−{-high / 1000:.3g}k, 6 seeds each)"
    )
    assert found.verdicts[1:] == [
        "kind=fast: not distinguishable from kind=slow in stability or final return (6 seeds each)"
    ]
    (speed,) = [each for each in found.contrasts if each.question == "speed"]
    assert speed.p == pytest.approx(welch.pvalue) and speed.p_holm == pytest.approx(3 * welch.pvalue)
    assert speed.improvement.value == 1 and speed.distinct


def test_with_a_baseline_every_group_is_compared_with_it_and_may_be_worse() -> None:
    usual, slow, same = climbs([1, 2] * 4), climbs([6, 7] * 4), climbs([2, 1] * 4)
    found = compared(baseline="kind=usual", usual=usual, slow=slow, same=same)
    assert {each.reference for each in found.contrasts} == {"kind=usual"} and len(found.contrasts) == 6
    assert found.verdicts[0].startswith("kind=slow learns more slowly than kind=usual (+5k steps to 475, 95 % CI ")
    assert found.verdicts[1:] == [
        "kind=same: not distinguishable from kind=usual in learning speed, stability or final return (8 seeds each)",
        "kind=slow: not distinguishable from kind=usual in stability or final return (8 seeds each)",
    ]
    twins = compared(baseline="usual", usual=usual, **{name: same for name in "abcdefgh"}).verdicts
    assert twins == [
        "kind=a, kind=b, kind=c, kind=d, kind=e, kind=f, kind=g and kind=h: not distinguishable from kind=usual "
        "in learning speed, stability or final return (8 seeds each)"
    ]
    assert compared(baseline="usual", usual=usual, slow=slow, same=same).verdicts == found.verdicts


def test_a_group_may_be_steadier_and_end_higher() -> None:
    rng = np.random.default_rng(0)
    calm = [[0, *(300 + rng.normal(0, 1, 9))] for _ in range(6)]
    wild = [[0, 300, 20 + rng.normal(0, 5), *(200 + rng.normal(0, 1, 7))] for _ in range(6)]
    found = compared(calm=calm, wild=wild)
    assert any(s.startswith("kind=calm is steadier than kind=wild (−9") for s in found.verdicts), found.verdicts
    assert any(s.startswith("kind=calm ends higher than kind=wild (+") for s in found.verdicts)


def test_speed_is_the_area_if_fewer_than_half_reach_the_threshold() -> None:
    few = climbs([1, 2, 3]) + climbs([1, 1, 1, 1], top=400)
    found = compared(a=few, b=climbs([5] * 7, top=400))
    assert {each.measure for each in found.contrasts if each.question == "speed"} == {"mean return while learning"}
    assert "only 3 of 14 runs reached 475: speed is compared by the mean return while learning." in found.notes
    half = compared(a=climbs([1] * 6) + climbs([1], top=400), b=climbs([5]) + climbs([5] * 6, top=400))
    assert {each.measure for each in half.contrasts if each.question == "speed"} == {"steps to 475"}
    assert not any("speed is compared" in note for note in half.notes)
    less = compared(a=climbs([1] * 6) + climbs([1], top=400), b=climbs([5] * 7, top=400))
    assert any("only 6 of 14 runs reached 475" in note for note in less.notes)
    nobody = compared(a=few, b=few, threshold=501)
    assert nobody.threshold == 501
    assert "no run reached 501: speed is compared by the mean return while learning." in nobody.notes


def test_a_run_that_misses_the_threshold_counts_with_its_whole_budget() -> None:
    found = compared(a=climbs([1, 1, 1, 1, 10, 10]), b=climbs([1, 1, 1, 1, 1, 1]))
    (speed,) = [each for each in found.contrasts if each.question == "speed"]
    assert abs(speed.difference.value) == pytest.approx(2 * (9000 - 1000) / 6)
    assert found.groups[0].summary.solved is not None and found.groups[0].summary.solved.value == pytest.approx(4 / 6)


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_under_five_seeds_there_is_never_a_verdict(seeds: int) -> None:
    found = compared(fast=climbs([1, 2, 1, 2][:seeds]), slow=climbs([8, 9, 8, 9, 8, 9, 8]))
    assert all(each.distinct is None for each in found.contrasts)
    (sentence,) = found.verdicts
    assert sentence.startswith("kind=fast and kind=slow: exploratory: no verdict; ")
    needed = 5 - seeds
    assert (
        f"; {needed} more seed{'s' if needed > 1 else ''} each for an effect of this size in learning speed" in sentence
    )


def test_the_missing_seeds_are_those_for_a_power_of_80_percent() -> None:
    a, b = climbs([1, 2, 4]), climbs([2, 3, 4])
    effect = abs(np.mean([1, 2, 4]) - 3) / np.sqrt((np.var([1, 2, 4], ddof=1) + 1) / 2)

    def power(n: int) -> float:
        edge, shift = stats.t.ppf(0.975, 2 * n - 2), effect * np.sqrt(n / 2)
        return float(stats.nct.sf(edge, 2 * n - 2, shift) + stats.nct.cdf(-edge, 2 * n - 2, shift))

    wanted = next(n for n in range(2, 1000) if power(n) >= 0.8)
    assert (
        f"no verdict; {wanted - 3} more seeds each for an effect of this size in learning speed"
        in compared(a=a, b=b).verdicts[0]
    )


def test_one_seed_against_one_gives_no_effect_size() -> None:
    assert compared(a=climbs([1]), b=climbs([2])).verdicts == [
        "kind=a and kind=b: exploratory: no verdict; 4 more seeds each to begin with"
    ]


def test_with_more_than_three_groups_each_question_gets_one_sentence() -> None:
    groups = {name: climbs([n, n + 1] * 3) for name, n in (("a", 1), ("b", 1), ("c", 5), ("d", 6))}
    found = compared(**groups)
    assert len(found.verdicts) == 3 and len(found.contrasts) == 18
    assert found.verdicts[0] == (
        "kind=a learns fastest (on average 1.5k steps to 475): distinguishable from kind=c and kind=d; "
        "not distinguishable from kind=b"
    )
    three = compared(**{name: groups[name] for name in "abc"}).verdicts
    assert [sentence.partition(" (")[0] for sentence in three] == [
        "kind=a learns faster than kind=c",
        "kind=b learns faster than kind=c",
        "kind=a: not distinguishable from kind=b in learning speed, stability or final return",
        "kind=a and kind=b: not distinguishable from kind=c in stability or final return",
    ]
    assert found.verdicts[1].startswith(
        "not distinguishable in stability: kind=a is ahead (on average 0 % of the range lost"
    )
    assert found.verdicts[1].endswith(", but it may be luck")
    many = compared(**{f"g{i}": climbs([1, 2] * 3) for i in range(9)}, slow=climbs([7, 8] * 3))
    assert many.verdicts[0].endswith(": distinguishable from kind=slow; not distinguishable from 8 others")
    few = compared(**{name: curves[: 6 - 2 * (name == "c")] for name, curves in groups.items()})
    assert few.verdicts[0].endswith("not distinguishable from kind=b; no verdict on kind=c, under 5 seeds")
    alike = {name: climbs([1, 2] * 3) for name in "abc"}
    mixed = compared(**alike, d=climbs([2, 2, 2])).verdicts[0]
    assert mixed.endswith(", but it may be luck; no verdict on kind=d, under 5 seeds") and "more seed" not in mixed
    fewer = compared(**{name: curves[:3] for name, curves in groups.items()})
    assert fewer.verdicts[0] == (
        "exploratory: no verdict on learning speed; kind=a is ahead (on average 1.33k steps to 475); "
        "to tell it from kind=b, 2 more seeds each to begin with"
    )


def test_one_group_is_compared_with_nothing() -> None:
    found = compared(a=climbs([1, 2, 3]))
    assert found.contrasts == [] and found.verdicts == [
        "there is one group only, of 3 runs: nothing to compare it with"
    ]
    assert compared(a=climbs([1])).verdicts[0].startswith("there is one group only, of 1 run: ")


@pytest.mark.parametrize(
    ("name", "message"),
    [("depth=3", "there is no such group; there are kind=a, kind=b"), ("", "2 groups are like that")],
)
def test_a_baseline_must_be_one_group(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compared(baseline=name, a=climbs([1]), b=climbs([2]))


def test_chance_alone_is_called_different_about_as_often_as_promised() -> None:
    """Compare ten seeds with ten others of one distribution 800 times: 2 to 8 % of comparisons find a difference."""
    rng = np.random.default_rng(5)
    called = [
        any(compared_quickly(*([curve_of_learning(rng) for _ in range(10)] for _ in range(2)))) for _ in range(800)
    ]
    assert 0.02 <= np.mean(called) <= 0.08, np.mean(called)


def compared_quickly(a: Curves, b: Curves) -> list[bool | None]:
    """Return what `compare` finds distinct, without the bootstraps, which no verdict uses."""
    from plexp.analysis.curves import curve_figures
    from plexp.analysis.model import Group, Member
    from plexp.analysis.verdicts import contrasts, measures

    groups = []
    for label, curves in (("a", a), ("b", b)):
        steps = 1000 * np.arange(len(curves[0]))
        members = [
            Member("", "", np.array(curve), steps / 1.0, curve_figures(steps, np.array(curve), threshold=475))
            for curve in curves
        ]
        groups.append(Group(label, {}, members, None))  # type: ignore[arg-type]
    return [each.distinct for each in contrasts(groups, measures(groups, 475, int(steps[-1])), None)]


def test_the_quick_comparison_of_the_test_above_agrees_with_compare() -> None:
    rng = np.random.default_rng(1)
    a, b = ([curve_of_learning(rng, slowness) for _ in range(6)] for slowness in (1, 2))
    assert compared_quickly(a, b) == [each.distinct for each in compared(a=a, b=b).contrasts]


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(0)
    found = [
        compared_quickly(*([curve_of_learning(rng, slowness) for _ in range(10)] for slowness in (1, 2.5)))[0]
        for _ in range(40)
    ]
    assert np.mean([each is True for each in found]) > 0.8

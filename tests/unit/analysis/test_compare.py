"""Tests of comparing recorded runs: every figure of a group is right, and computed from the right runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from plexp.analysis.compare import compare
from plexp.analysis.statistics import interquartile_mean
from tests.support.stores import recorded

FINALS = [100.0, 200.0, 300.0, 400.0, 500.0, 500.0, 500.0, 500.0, 500.0, 500.0]


def test_the_figures_of_a_group_worked_out_by_hand() -> None:
    runs = [recorded([0, final / 2, final], seed=s) for s, final in reversed([*enumerate(FINALS)])]
    found = compare(runs)
    (group,) = found.groups
    summary = group.summary
    assert [member.seed for member in group.members] == [str(s) for s in range(10)]
    assert list(group.values("final_return")) == FINALS and group.curves.shape == (10, 3)
    assert summary.mean.value == 400 and summary.median.value == 500
    assert summary.iqm.value == pytest.approx(np.mean(sorted(FINALS)[2:8]))
    assert summary.auc.value == pytest.approx(np.mean(sorted(FINALS)[2:8]) / 2)
    assert summary.dispersion_runs == pytest.approx(500 - 325) and summary.cvar_runs == 200
    assert summary.solved is not None and summary.solved.value == 0.6  # six of ten reach 475
    assert summary.median_steps == 2000 and summary.median_seconds == 20
    assert summary.max_drawdown == 0 and summary.collapsed.value == 0
    assert summary.dispersion_time == pytest.approx(0)
    assert summary.normalised_score == pytest.approx((400 - 25) / (475 - 25))
    assert (found.title, found.environment, list(found.grid), found.threshold) == (
        "cartpole",
        "cartpole",
        [0, 1000, 2000],
        475,
    )


def test_under_twenty_seeds_students_t_is_shown_as_well_and_a_note_says_why() -> None:
    found = compare([recorded([0, final], seed=s) for s, final in enumerate(FINALS[:5])])
    (group,) = found.groups
    low, high = stats.t.interval(0.95, 4, loc=300, scale=stats.sem(FINALS[:5]))
    assert group.summary.mean_t is not None
    assert (group.summary.mean_t.low, group.summary.mean_t.high) == pytest.approx((low, high))
    assert group.summary.mean.low > low and group.summary.mean.high < high
    assert any("under 20 seeds a bootstrap of the mean is too narrow" in note for note in found.notes)


def test_from_twenty_seeds_on_only_the_bootstrap_is_shown() -> None:
    found = compare([recorded([0, final], seed=s) for s, final in enumerate(2 * FINALS)])
    assert found.groups[0].summary.mean_t is None and not any("Student" in note for note in found.notes)


def test_one_collapsed_seed_of_ten_moves_the_worst_quarter_and_hardly_the_iqm() -> None:
    rng = np.random.default_rng(0)
    curves = [[0, 400, *(500 + rng.normal(0, 3, 18))] for _ in range(10)]
    broken = [*curves[:9], [*curves[9][:10], *[20.0] * 10]]
    whole, hurt = (
        compare([recorded(curve, seed=s) for s, curve in enumerate(each)]).groups[0].summary
        for each in (curves, broken)
    )
    assert whole.collapsed.value == 0 and hurt.collapsed.value == 0.1
    assert whole.cvar_runs - hurt.cvar_runs > 150
    assert abs(whole.iqm.value - hurt.iqm.value) < 1


def test_there_is_no_median_if_most_runs_miss_the_threshold() -> None:
    runs = [recorded([0, 500, 500] if s < 2 else [0, 10, 20], seed=s) for s in range(5)]
    summary = compare(runs).groups[0].summary
    assert summary.median_steps is None and summary.median_seconds is None
    assert compare(runs, threshold=15).groups[0].summary.median_steps == 2000


def test_without_logged_seconds_there_is_no_time_to_the_threshold() -> None:
    runs = [recorded([0, 500, 500], seed=s) for s in range(3)]
    for run in runs:
        run.curve.seconds[:] = math.nan
    summary = compare(runs).groups[0].summary
    assert summary.median_steps == 1000 and summary.median_seconds is None
    old = recorded([0, 500, 500], seed=3)
    old.curve.seconds[1] = math.nan  # logged at the end but not at the threshold
    assert compare([recorded([0, 500, 500], seed=s) for s in range(3)]).groups[0].summary.median_seconds == 10
    assert compare([*(recorded([0, 500, 500], seed=s) for s in range(3)), old]).groups[0].summary.median_seconds is None


def test_without_a_solved_return_there_is_no_threshold_and_a_note_explains_it() -> None:
    for solved_returns in (("null", "null"), ("475", "400")):
        found = compare(
            [recorded(seed=s, env__solved_return=solved_return) for s, solved_return in enumerate(solved_returns)]
        )
        assert found.threshold is None and found.groups[0].summary.solved is None
        assert found.groups[0].summary.normalised_score is None
        assert any("give one with --threshold" in note for note in found.notes)
    given = compare([recorded(seed=s, env__solved_return="null") for s in range(2)], threshold=300)
    assert given.threshold == 300 and not any("--threshold" in note for note in given.notes)


def test_runs_are_compared_over_their_common_steps_only() -> None:
    short, long = recorded([0, 100, 200], seed=0), recorded([0, 100, 200, 900, 900], seed=1)
    (group,) = compare([short, long], by=["seed"]).groups[1:]
    assert list(group.values("final_return")) == [200]
    assert interquartile_mean(group.curves, axis=0).tolist() == [0, 100, 200]

"""Tests of the figures of a learning curve, most against values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from plexp.analysis.curves import as_metrics, curve_figures, dispersion_time, has_collapsed, late, max_drawdown

STEPS = np.arange(5) * 100
RETURNS = np.array([10.0, 60.0, 30.0, 110.0, 100.0])
SECONDS = np.array([0.0, 2.0, 4.0, 6.5, 8.0])


def test_the_figures_of_a_curve_worked_out_by_hand() -> None:
    figures = curve_figures(STEPS, RETURNS, SECONDS, threshold=100, random_return=10, solved_return=110)
    assert figures.final_return == 100  # a tenth of five evaluations, rounded up, is the last one
    assert figures.auc_return == pytest.approx((35 + 45 + 70 + 105) / 4)  # trapezia over four intervals
    assert (figures.steps_to_threshold, figures.seconds_to_threshold) == (300, 6.5)
    assert figures.max_drawdown == pytest.approx((60 - 30) / (110 - 10))
    # changes 50, −30, 80, −10: sorted −30 −10 50 80, quartiles −15 and 57.5
    assert figures.dispersion_time == pytest.approx(57.5 + 15)
    assert not figures.collapsed and figures.normalised_score == pytest.approx(0.9)


def test_curves_may_miss_the_threshold_or_have_no_reference_returns() -> None:
    figures = curve_figures(STEPS, RETURNS, SECONDS, threshold=111)
    assert figures.steps_to_threshold is None and figures.seconds_to_threshold is None
    assert figures.normalised_score is None
    assert curve_figures(STEPS, RETURNS).steps_to_threshold is None
    assert curve_figures(STEPS, RETURNS, threshold=110).steps_to_threshold == 300  # reaching it is enough
    lucky = np.array([500.0, 20.0, 30.0, 500.0, 500.0])  # above the threshold before any training
    assert curve_figures(STEPS, lucky, threshold=475).steps_to_threshold == 300
    assert curve_figures(STEPS, RETURNS, np.full(5, math.nan), threshold=60).seconds_to_threshold is None
    assert curve_figures(STEPS, RETURNS, random_return=5, solved_return=5).normalised_score is None


@pytest.mark.parametrize(("evaluations", "expected"), [(2, 1), (10, 1), (11, 2), (40, 4), (41, 5)])
def test_the_final_return_is_the_mean_of_the_last_tenth_rounded_up(evaluations: int, expected: int) -> None:
    assert late(evaluations) == expected
    returns = np.arange(evaluations, dtype=float)
    last = curve_figures(np.arange(evaluations), returns).final_return
    assert last == pytest.approx(returns[-expected:].mean())


def test_the_area_over_unequal_steps_is_that_under_the_interpolated_curve() -> None:
    steps, returns = np.array([0, 10, 100]), np.array([0.0, 10.0, 10.0])
    fine = np.interp(np.linspace(0, 100, 100_001), steps, returns).mean()
    assert curve_figures(steps, returns).auc_return == pytest.approx(fine, abs=1e-3)


def test_a_drawdown_is_the_deepest_fall_from_any_earlier_evaluation() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        curve = rng.normal(size=12)
        deepest = max(curve[i] - curve[j] for i in range(12) for j in range(i, 12))
        assert max_drawdown(curve) == pytest.approx(deepest / (curve.max() - curve.min()))
    assert max_drawdown(np.ones(4)) == 0 and max_drawdown(np.arange(4.0)) == 0 and max_drawdown(-np.arange(4.0)) == 1


def test_drawdown_and_collapse_do_not_depend_on_scale_and_offset() -> None:
    curve = np.array([-200.0, 150.0, 20.0, -60.0])
    assert max_drawdown(curve) == pytest.approx(max_drawdown(3 * curve + 1000))
    for final, lost in ((-26, True), (-24, False)):
        assert has_collapsed(curve, final) is lost  # the middle between −200 and 150 is −25
        assert has_collapsed(3 * curve + 1000, 3 * final + 1000) is lost


def test_dispersion_over_time_ignores_a_steady_climb() -> None:
    climb = np.linspace(0, 500, 30)
    assert dispersion_time(climb) == pytest.approx(0, abs=1e-9)
    noise = np.random.default_rng(0).normal(size=30)
    assert dispersion_time(climb + noise) == pytest.approx(dispersion_time(noise))


@pytest.mark.parametrize(
    ("steps", "returns"),
    [([0], [1.0]), ([0, 1], [1.0, math.nan]), ([0, 1], [1.0, math.inf]), ([0, 0], [1.0, 2.0]), ([0, 1], [1.0])],
)
def test_invalid_curves_are_refused(steps: list[int], returns: list[float]) -> None:
    with pytest.raises(ValueError, match="two or more finite evaluations"):
        curve_figures(np.array(steps), np.array(returns))


def test_metrics_leave_out_unknown_figures_and_the_final_return() -> None:
    figures = curve_figures(STEPS, RETURNS, SECONDS, threshold=100, random_return=10, solved_return=110)
    metrics = as_metrics(figures)
    assert metrics["speed/steps_to_threshold"] == 300 and metrics["stability/collapsed"] == 0.0
    assert set(metrics) == {
        *("speed/auc_return", "speed/steps_to_threshold", "speed/seconds_to_threshold"),
        *("stability/max_drawdown", "stability/dispersion_time", "stability/collapsed", "eval/normalised_score"),
    }
    without = as_metrics(replace(figures, steps_to_threshold=None, seconds_to_threshold=None, normalised_score=None))
    assert set(metrics) - set(without) == {
        *("speed/steps_to_threshold", "speed/seconds_to_threshold", "eval/normalised_score"),
    }

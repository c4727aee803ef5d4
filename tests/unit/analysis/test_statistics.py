"""Tests of the statistics against other ways to compute them, and of the coverage that their docstrings state."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats  # type: ignore[import-untyped]

from plexp.analysis import statistics
from plexp.analysis.statistics import Interval

Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]
Z = NormalDist().inv_cdf(0.975)
NAN = math.nan


def array(*numbers: float) -> Floats:
    return np.array(numbers, float)


def with_effect(d: float) -> tuple[Floats, Floats]:
    """Return two samples of variance 1 whose means differ by `d`."""
    a = array(-1, 1) / math.sqrt(2)
    return a + d, a


def bounds(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([7], 7),
        ([1, 2, 9], 4),  # a quarter of 3 is less than one seed: nothing is cut
        ([9, 1, 2, 4], 3),  # (2 + 4)/2
        ([5, 1, 2, 3, 90], 10 / 3),  # one from either end: (2 + 3 + 5)/3
        ([0, 0, 3, 4, 5, 6, 7, 8, 99, 99], 5.5),  # two of ten from either end: (3 + … + 8)/6
        ([-50, 1, 1, 2, 3, 9, 9, 70], 3.75),  # two of eight: (1 + 2 + 3 + 9)/4
    ],
)
def test_interquartile_mean_by_hand(numbers: list[float], expected: float) -> None:
    assert statistics.interquartile_mean(array(*numbers)) == pytest.approx(expected)
    assert statistics.interquartile_mean(array(*numbers[::-1])) == pytest.approx(expected)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_interquartile_mean_is_the_trimmed_mean_of_scipy(axis: int) -> None:
    x = np.random.default_rng(0).normal(size=(11, 14, 6))
    np.testing.assert_allclose(statistics.interquartile_mean(x, axis), stats.trim_mean(x, 0.25, axis=axis), rtol=1e-12)


def test_mean_interval_matches_the_t_table() -> None:
    """x̄ = 5, s² = 10, s/√5 = √2, t₀.₉₇₅(4) = 2.776445."""
    interval = statistics.mean_interval(array(1, 3, 5, 7, 9))
    assert interval.value == 5
    assert bounds(interval) == pytest.approx((5 - 2.776445 * math.sqrt(2), 5 + 2.776445 * math.sqrt(2)), abs=1e-5)


@pytest.mark.parametrize("interval", [statistics.mean_interval, lambda x: statistics.bootstrap_interval(x, np.mean)])
def test_one_seed_has_no_interval_and_constant_seeds_have_one_of_width_zero(
    interval: Callable[[Floats], Interval],
) -> None:
    assert interval(array(3)).value == 3
    assert np.isnan(bounds(interval(array(3)))).all()
    assert interval(array(500, 500, 500)) == Interval(500, 500, 500)
    assert interval(array(0, 0)) == Interval(0, 0, 0)
    assert bounds(interval(array(0.3, 0.1 + 0.2, 0.3))) == pytest.approx((0.3, 0.3), abs=1e-12)


def plain_bca(x: list[float], statistic: Callable[[list[float]], float], resamples: int) -> tuple[float, float]:
    """Return the BCa interval of Efron and Tibshirani (1993), equations 14.9, 14.10, 14.14 and 14.15."""
    normal, draw = NormalDist(), random.Random(1)
    found = sorted(statistic(draw.choices(x, k=len(x))) for _ in range(resamples))
    bias = normal.inv_cdf(sum(each < statistic(x) for each in found) / resamples)
    left_out = [statistic(x[:i] + x[i + 1 :]) for i in range(len(x))]
    gaps = [sum(left_out) / len(x) - each for each in left_out]
    acceleration = sum(gap**3 for gap in gaps) / (6 * sum(gap**2 for gap in gaps) ** 1.5)
    levels = [normal.cdf(bias + (bias + z) / (1 - acceleration * (bias + z))) for z in (-Z, Z)]
    return found[int(levels[0] * resamples)], found[int(levels[1] * resamples)]


def test_bootstrap_interval_matches_bca_in_plain_python() -> None:
    x = np.random.default_rng(0).exponential(size=12)
    interval = statistics.bootstrap_interval(x, np.mean)
    expected = plain_bca(x.tolist(), lambda sample: sum(sample) / len(sample), 20_000)
    error = float(np.std(x)) / math.sqrt(12)
    percentile = stats.bootstrap((x,), np.mean, method="percentile", random_state=np.random.default_rng(0))
    assert interval.value == pytest.approx(np.mean(x))
    assert bounds(interval) == pytest.approx(expected, abs=0.12 * error)
    assert min(np.subtract(bounds(interval), percentile.confidence_interval)) > 0.2 * error, "the sample is too tame"


@pytest.mark.parametrize("statistic", [np.mean, np.median, statistics.interquartile_mean])
def test_the_same_seeds_in_any_order_give_the_same_bootstrap_interval(statistic: Callable[..., Floats]) -> None:
    for x in (np.random.default_rng(1).normal(size=9), array(0.1, 0.7, 0.3)):
        first = statistics.bootstrap_interval(x, statistic)
        assert first == statistics.bootstrap_interval(x, statistic) == statistics.bootstrap_interval(x[::-1], statistic)
        assert first.low < first.value < first.high


def test_bootstrap_interval_shifts_and_scales_with_the_data() -> None:
    x = np.random.default_rng(2).normal(size=8)
    interval = statistics.bootstrap_interval(x, np.median)
    moved = statistics.bootstrap_interval(100 + 3 * x, np.median)
    assert bounds(moved) == pytest.approx(100 + 3 * np.array(bounds(interval)))


def test_resamples_of_the_same_seeds_count_as_equal_in_any_order() -> None:
    """Sums of integers are exact in any order, those of tenths are not; 2 in 9 resamples of 3 seeds hold all three."""
    for x in itertools.combinations(range(1, 8), 3):
        whole = statistics.bootstrap_interval(array(*x), np.mean)
        assert bounds(statistics.bootstrap_interval(array(*x) / 10, np.mean)) == pytest.approx(
            np.divide(bounds(whole), 10)
        )


def test_bootstrap_interval_is_the_percentile_one_without_an_acceleration() -> None:
    """The data are nine 0 and a 5: the IQM is 0 whichever seed is left out, so the acceleration is 0/0."""
    x = array(*[0.0] * 9, 5)
    resamples = np.sort(np.random.default_rng(7).choice(x, (20_000, 10)))[:, 2:8].mean(1)
    interval = statistics.bootstrap_interval(x, statistics.interquartile_mean)
    assert bounds(interval) == tuple(np.percentile(resamples, [2.5, 97.5]))
    assert interval.value == interval.low == 0 < interval.high


def test_proportion_interval_is_wilsons_closed_form() -> None:
    for total in (1, 5, 20):
        for successes in range(total + 1):
            share, weight = successes / total, 1 + Z**2 / total
            half = Z * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
            interval = statistics.proportion_interval(successes, total)
            assert interval.value == share
            low, high = (share + Z**2 / (2 * total) - half) / weight, (share + Z**2 / (2 * total) + half) / weight
            assert bounds(interval) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize(("successes", "total"), [(-1, 3), (4, 3), (0, 0)])
def test_a_proportion_of_nothing_or_beyond_its_total_is_refused(successes: int, total: int) -> None:
    with pytest.raises(ValueError, match=f"^{successes} of {total} is not a share$"):
        statistics.proportion_interval(successes, total)


def test_iqr_by_hand() -> None:
    assert statistics.iqr(array(5, 1, 4, 2, 3)) == 2  # 4 − 2
    assert statistics.iqr(array(0, 10, 20, 40)) == 17.5  # (20 + ¼·20) − (0 + ¾·10)
    assert statistics.iqr(array(8)) == 0


@pytest.mark.parametrize(
    ("numbers", "share", "expected"),
    [
        ([4, 3, 2, 1], 0.25, 1),
        ([5, 4, 3, 2, 1], 0.25, 1.5),  # ⌈1.25⌉ = 2 seeds
        ([9], 0.25, 9),
        ([1, 2, 6], 1, 3),
        (list(range(100)), 0.07, 3),  # 0.07·100 is 7.000000000000001: seven seeds, not eight
    ],
)
def test_cvar_is_the_mean_of_the_worst_seeds(numbers: list[float], share: float, expected: float) -> None:
    assert statistics.cvar(array(*numbers), share) == pytest.approx(expected)


@pytest.mark.parametrize("share", [0, -0.5, 1.5, NAN])
def test_cvar_refuses_a_share_outside_zero_to_one(share: float) -> None:
    with pytest.raises(ValueError, match="is not in"):
        statistics.cvar(array(1, 2), share)


def test_survival_is_the_kaplan_meier_estimate() -> None:
    """One of six arrives at 2 (5/6 left), two of five at 4 (·3/5); one is lost at 5; one of two arrives at 7 (·½)."""
    times, limits = array(7, NAN, 2, 4, NAN, 4), array(9, 5, 9, 9, 9, 9)
    steps, share, low, high = statistics.survival(times, limits)
    assert steps.tolist() == [0, 2, 4, 5, 7, 9]
    assert share.tolist() == pytest.approx([1, 5 / 6, 1 / 2, 1 / 2, 1 / 4, 1 / 4])
    greenwood = np.cumsum([1 / (6 * 5), 2 / (5 * 3), 0, 1 / (2 * 1), 0])
    log = np.log(share[1:])
    for bound, sign in ((low, 1), (high, -1)):
        np.testing.assert_allclose(bound[1:], np.exp(log * np.exp(sign * Z * np.sqrt(greenwood) / -log)), rtol=1e-9)
        assert bound[0] == 1
    assert statistics.median_survival(times, limits) == 4


def test_survival_without_censoring_is_the_share_of_seeds_and_ends_at_zero() -> None:
    steps, share, low, high = statistics.survival(array(30, 10, 20, 10), 50)
    assert steps.tolist() == [0, 10, 20, 30]
    assert share.tolist() == pytest.approx([1, 0.5, 0.25, 0])
    assert (low[-1], high[-1]) == (0, high[-2]) and 0.25 < high[-1] < 1


def test_survival_if_no_seed_arrives_and_of_a_single_seed_that_does() -> None:
    for curve, expected in (
        (statistics.survival(array(NAN, NAN), 7), ([0, 7], [1, 1], [1, 1], [1, 1])),
        (statistics.survival(array(3), 7), ([0, 3], [1, 0], [1, 0], [1, 1])),
    ):
        assert tuple(part.tolist() for part in curve) == expected


def test_a_time_at_its_limit_counts_and_one_beyond_does_not() -> None:
    assert statistics.survival(array(5, 5), 5)[1].tolist() == [1, 0]
    assert statistics.survival(array(5, 6), array(5, 5))[1].tolist() == [1, 0.5]


def test_median_survival_is_none_unless_half_of_the_seeds_arrive() -> None:
    assert statistics.median_survival(array(1, 2, NAN, NAN, NAN), 9) is None
    assert statistics.median_survival(array(1, 2, 3, NAN, NAN), 9) == 3
    assert statistics.median_survival(array(NAN), 9) is None
    for seeds in range(2, 60, 2):  # the product rounds to above ½ for some
        times = np.array([*range(1, seeds), NAN])
        assert statistics.median_survival(times, 99) == seeds / 2


@pytest.mark.parametrize(
    ("times", "limits"), [([], 5), ([math.inf], 5), ([1, 2], math.inf), ([1, 2], NAN), ([1, 2], [5, NAN])]
)
def test_survival_refuses_no_seeds_and_infinite_times(times: list[float], limits: float | list[float]) -> None:
    for function in (statistics.survival, statistics.median_survival):
        with pytest.raises(ValueError, match=r"^times to a threshold need one or more seeds and finite limits$"):
            function(array(*times), np.array(limits) if isinstance(limits, list) else limits)


def test_welch_follows_the_formulas_of_t_and_its_degrees_of_freedom() -> None:
    a, b = array(27.5, 21, 19, 23.6, 17), array(27.1, 22, 20.8, 23.4, 23.4, 23.5, 25.8)
    interval, p = statistics.welch(a, b)
    parts = [sum((x - sum(s) / len(s)) ** 2 for x in s) / (len(s) - 1) / len(s) for s in (a.tolist(), b.tolist())]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 4 + parts[1] ** 2 / 6)
    difference, error = sum(a) / 5 - sum(b) / 7, math.sqrt(sum(parts))
    half = stats.t(freedom).ppf(0.975) * error
    assert interval.value == pytest.approx(difference)
    assert bounds(interval) == pytest.approx((difference - half, difference + half))
    assert p == pytest.approx(2 * stats.t(freedom).cdf(-abs(difference) / error))


def test_welch_changes_sign_if_the_groups_are_swapped() -> None:
    a, b = np.random.default_rng(0).normal(size=6), np.random.default_rng(1).normal(size=9)
    (one, p), (other, q) = statistics.welch(a, b), statistics.welch(b, a)
    assert (one.value, one.low, one.high, p) == pytest.approx((-other.value, -other.high, -other.low, q))


def test_welch_of_constant_groups_and_of_single_seeds() -> None:
    assert statistics.welch(array(2, 2), array(2, 2, 2)) == (Interval(0, 0, 0), 1)
    assert statistics.welch(array(5, 5), array(2, 2, 2)) == (Interval(3, 3, 3), 0)
    assert statistics.welch(array(0.3, 0.3), array(0.1 + 0.2, 0.3))[1] == 1
    for a, b in ((array(5), array(1, 2)), (array(1, 2), array(5)), (array(5), array(5, 5))):
        interval, p = statistics.welch(a, b)
        assert interval.value == np.mean(a) - np.mean(b) and np.isnan([interval.low, interval.high, p]).all()


def test_welch_of_one_constant_group_has_the_spread_of_the_other() -> None:
    """s/√n of 1, 2, 3 is 1/√3, with 2 degrees of freedom: t₀.₉₇₅(2) = 4.302653."""
    interval, _ = statistics.welch(array(500, 500, 500), array(1, 2, 3))
    half = 4.302653 / math.sqrt(3)
    assert bounds(interval) == pytest.approx((498 - half, 498 + half), abs=1e-5)


def test_holm_by_hand() -> None:
    """The sorted p-values .005 .01 .03 .04 times 4 3 2 1 are .02 .03 .06 .04; none may be below an earlier one."""
    assert statistics.holm(array(0.01, 0.04, 0.03, 0.005)).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm(array(0.4, 0.7, 0.02)).tolist() == pytest.approx([0.8, 0.8, 0.06])
    assert statistics.holm(array(0.6, 0.9)).tolist() == [1, 1]


def test_holm_ignores_nan_and_does_not_change_its_argument() -> None:
    p = array(NAN, 0.02, NAN, 0.04)
    np.testing.assert_allclose(statistics.holm(p), [NAN, 0.04, NAN, 0.04])
    np.testing.assert_array_equal(p, [NAN, 0.02, NAN, 0.04])
    assert np.isnan(statistics.holm(array(NAN, NAN))).all() and statistics.holm(array()).tolist() == []


def test_holm_rejects_the_same_as_the_step_down_procedure() -> None:
    for p in np.random.default_rng(0).beta(0.3, 3, size=(200, 5)):
        rejected, order = set(), sorted(range(5), key=lambda i: p[i])
        for step, i in enumerate(order):
            if p[i] > 0.05 / (5 - step):
                break
            rejected.add(i)
        assert {i for i in range(5) if statistics.holm(p)[i] <= 0.05} == rejected


@pytest.mark.parametrize("p", [-0.1, 1.1, math.inf])
def test_holm_refuses_values_that_are_not_probabilities(p: float) -> None:
    with pytest.raises(ValueError, match=r"^p-values lie in \[0, 1\]$"):
        statistics.holm(array(0.5, p, NAN))


def integers(seed: int, size: int, high: int = 6) -> Floats:
    return np.random.default_rng(seed).integers(0, high, size).astype(float)


def test_probability_of_improvement_counts_pairs_and_half_the_ties() -> None:
    a, b = integers(0, 7), integers(1, 5)
    wins = sum((x > y) + 0.5 * (x == y) for x in a for y in b)
    assert statistics.probability_of_improvement(a, b).value == pytest.approx(wins / 35)
    assert wins == stats.mannwhitneyu(a, b).statistic and any(x == y for x in a for y in b)


def test_the_bounds_of_the_probability_of_improvement_solve_the_score_equation() -> None:
    for m, n in ((3, 3), (7, 5), (10, 20)):
        interval = statistics.probability_of_improvement(integers(m, m) + 1, integers(n, n))
        for theta in bounds(interval):
            exceed = (1 - theta) / (2 - theta) + theta / (1 + theta)
            variance = theta * (1 - theta) * (1 + ((m + n) / 2 - 1) * exceed) / (m * n)
            assert (interval.value - theta) ** 2 == pytest.approx(Z**2 * variance)
        assert 0 < interval.low < interval.value < interval.high < 1


def test_the_probability_that_a_beats_b_and_that_b_beats_a_add_up_to_one() -> None:
    for m, n in itertools.product((1, 4, 9), repeat=2):
        one = statistics.probability_of_improvement(integers(m, m), integers(n + 10, n))
        other = statistics.probability_of_improvement(integers(n + 10, n), integers(m, m))
        assert (one.value, one.low, one.high) == pytest.approx((1 - other.value, 1 - other.high, 1 - other.low))


def test_the_probability_of_improvement_of_disjoint_groups_is_one() -> None:
    for seeds in (1, 3, 10):
        interval = statistics.probability_of_improvement(np.arange(seeds) + 100.0, np.arange(seeds) + 0.0)
        assert interval.value == interval.high == 1 and 0 < interval.low < 1
        assert statistics.probability_of_improvement(np.zeros(seeds), np.ones(seeds)).low == 0
    single = statistics.probability_of_improvement(array(1), array(0))
    assert single.low == pytest.approx(1 / (1 + Z**2)), "of one pair: Wilson's bound of 1 of 1"


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 64), (0.8, 26), (1, 17), (0.2, 394)])
def test_seeds_needed_matches_cohens_table(effect: float, seeds: int) -> None:
    """Cohen (1988), table 2.4.1 (two-sided α = .05, power .80), has 393, 64, 26, 17; exact for 0.2 is 394."""
    assert statistics.seeds_needed(*with_effect(effect)) == seeds
    assert statistics.seeds_needed(*with_effect(-effect)) == seeds
    a, b = with_effect(effect)
    assert statistics.seeds_needed(70 + 40 * a, 70 + 40 * b) == seeds


def test_seeds_needed_give_the_power_and_one_fewer_does_not() -> None:
    """Estimate the power by simulation, with scipy's t test."""
    a, b = with_effect(1.7)
    seeds = statistics.seeds_needed(a, b, power=0.9, alpha=0.01)
    assert seeds is not None
    power = []
    for n in (seeds - 1, seeds):
        draws = np.random.default_rng(n).normal(size=(2, 40_000, n))
        power.append(np.mean(stats.ttest_ind(draws[0] + 1.7, draws[1], axis=1).pvalue < 0.01))
    assert power[0] < 0.9 + 0.003 and power[1] > 0.9 - 0.003 and power[0] < power[1]


def test_seeds_needed_of_unequal_spread_uses_the_mean_variance() -> None:
    a, b = array(-1, 1) / math.sqrt(2), array(-1, 1) * math.sqrt(7 / 2)
    assert statistics.seeds_needed(a + 1, b) == statistics.seeds_needed(*with_effect(0.5)) == 64  # √((1 + 7)/2) = 2


def test_seeds_needed_is_at_least_two_and_none_where_there_is_no_answer() -> None:
    assert statistics.seeds_needed(*with_effect(50)) == statistics.seeds_needed(*with_effect(1e6)) == 2
    assert statistics.seeds_needed(*with_effect(0)) is None
    assert statistics.seeds_needed(*with_effect(0.12)) is None, "1091 per group"
    assert statistics.seeds_needed(*with_effect(0.13)) == 930
    assert statistics.seeds_needed(array(5, 5), array(2, 2)) is None
    assert statistics.seeds_needed(array(5), array(2, 3)) is None


def test_iqm_band_is_the_percentile_bootstrap_of_each_evaluation() -> None:
    curves = np.random.default_rng(0).normal(size=(20, 7)) * np.arange(1, 8) + 10
    middle, low, high = statistics.iqm_band(curves)
    np.testing.assert_allclose(middle, stats.trim_mean(curves, 0.25, axis=0))
    for point, column in enumerate(curves.T):
        picks = np.random.default_rng(point).choice(column, (20_000, 20))
        expected = np.percentile(stats.trim_mean(picks, 0.25, axis=1), [2.5, 97.5])
        assert (low[point], high[point]) == pytest.approx(expected, abs=0.06 * (expected[1] - expected[0]))


def test_iqm_band_of_a_long_curve_interpolates_between_200_evaluations() -> None:
    curves = np.random.default_rng(0).normal(size=(6, 1000))
    middle, *band = statistics.iqm_band(curves)
    np.testing.assert_allclose(middle, stats.trim_mean(curves, 0.25, axis=0))
    points = np.linspace(0, 999, 200).round().astype(int)
    for bound, exact in zip(band, statistics.iqm_band(curves[:, points])[1:], strict=True):
        np.testing.assert_array_equal(bound[points], exact)
        np.testing.assert_allclose(bound, np.interp(np.arange(1000), points, exact))


def test_iqm_band_ignores_the_order_of_seeds_and_is_nan_for_one_seed() -> None:
    curves = np.random.default_rng(0).normal(size=(15, 12))
    np.testing.assert_array_equal(statistics.iqm_band(curves), statistics.iqm_band(curves[::-1]))
    middle, low, high = statistics.iqm_band(curves[:1])
    assert middle.tolist() == curves[0].tolist() and np.isnan([low, high]).all()
    for part in statistics.iqm_band(np.full((4, 3), 9.0)):
        assert part.tolist() == [9, 9, 9]


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    x, fine = array(1, bad, 3), array(1, 2, 4)
    calls: list[Callable[[], object]] = [
        lambda: statistics.interquartile_mean(x),
        lambda: statistics.mean_interval(x),
        lambda: statistics.bootstrap_interval(x, np.mean),
        lambda: statistics.iqr(x),
        lambda: statistics.cvar(x),
        lambda: statistics.iqm_band(x[:, None]),
        lambda: statistics.mean_interval(array()),
    ]
    for function in (statistics.welch, statistics.probability_of_improvement, statistics.seeds_needed):
        calls += [lambda f=function: f(x, fine), lambda f=function: f(fine, x)]  # type: ignore[misc]
    for call in calls:
        with pytest.raises(ValueError, match=r"^a statistic needs one or more values, all of them finite$"):
            call()


REPETITIONS = 400
SEEDS = (3, 5, 10, 20)


def bimodal(rng: np.random.Generator, n: int, collapsed: float = 0.2) -> Floats:
    return np.where(rng.random(n) < collapsed, rng.normal(20, 5, n), rng.normal(480, 20, n))


DISTRIBUTIONS: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "bimodal": bimodal,
}
MEANS = {"normal": 0.0, "exponential": 1.0, "bimodal": 0.2 * 20 + 0.8 * 480}


def middle_half(distribution: str) -> tuple[float, float]:
    """Return the interquartile mean and the median of a distribution, from its quantiles."""
    levels = 0.25 + (np.arange(5000) + 0.5) / 10_000
    if distribution == "bimodal":
        grid = np.linspace(-20, 700, 200_001)
        mixture = 0.2 * stats.norm.cdf(grid, 20, 5) + 0.8 * stats.norm.cdf(grid, 480, 20)
        levels = np.interp(levels, mixture, grid)
    else:
        levels = {"normal": stats.norm, "exponential": stats.expon}[distribution].ppf(levels)
    return float(np.mean(levels)), float(np.median(levels))


def stated(function: Callable[..., object], table: int = 0) -> dict[str, dict[int, float]]:
    """Return a coverage table of a docstring: three distributions or shares, each at 3, 5, 10 and 20 seeds."""
    rows = re.findall(r"(normal|exponential|bimodal|0\.\d):?\s+(\d+) (\d+) (\d+) (\d+)", function.__doc__ or "")
    return {
        name: {n: int(figure) / 100 for n, figure in zip(SEEDS, figures, strict=True)}
        for name, *figures in rows[3 * table : 3 * table + 3]
    }


def check_coverage(
    stated_coverage: float, truth: float, interval: Callable[[np.random.Generator], Interval], seed: int, slack: float
) -> None:
    """Assert that intervals cover the truth as often as stated, within three standard errors, rounding and slack."""
    rng = np.random.default_rng(seed)
    covered = np.mean([low <= truth <= high for low, high in (bounds(interval(rng)) for _ in range(REPETITIONS))])
    error = math.sqrt(stated_coverage * (1 - stated_coverage) / REPETITIONS)
    assert covered == pytest.approx(stated_coverage, abs=3 * error + 0.005 + slack)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("n", [3, 10])
def test_the_t_interval_covers_the_mean_as_often_as_stated(distribution: str, n: int) -> None:
    def interval(rng: np.random.Generator) -> Interval:
        return statistics.mean_interval(DISTRIBUTIONS[distribution](rng, n))

    check_coverage(stated(statistics.mean_interval)[distribution][n], MEANS[distribution], interval, 40 + n, 0)


@pytest.mark.parametrize(
    ("distribution", "statistic", "n"),
    [
        *((distribution, statistic, 10) for distribution in DISTRIBUTIONS for statistic in ("mean", "IQM")),
        ("bimodal", "median", 20),
        ("normal", "mean", 3),
    ],
)
def test_the_bootstrap_covers_as_often_as_stated(distribution: str, statistic: str, n: int) -> None:
    """Use 999 resamples instead of 9999, with a point of slack for that."""
    table, function = {
        "mean": (0, np.mean),
        "IQM": (1, statistics.interquartile_mean),
        "median": (2, np.median),
    }[statistic]
    truth = (MEANS[distribution], *middle_half(distribution))[table]

    def interval(rng: np.random.Generator) -> Interval:
        return statistics.bootstrap_interval(DISTRIBUTIONS[distribution](rng, n), function, resamples=999)

    check_coverage(stated(statistics.bootstrap_interval, table)[distribution][n], truth, interval, 60 + n, 0.01)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_welch_covers_the_difference_as_often_as_stated(distribution: str) -> None:
    def interval(rng: np.random.Generator) -> Interval:
        return statistics.welch(DISTRIBUTIONS[distribution](rng, 10), 2 * DISTRIBUTIONS[distribution](rng, 10))[0]

    check_coverage(stated(statistics.welch)[distribution][10], -MEANS[distribution], interval, 80, 0)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("n", SEEDS)
def test_the_probability_of_improvement_is_covered_as_often_as_stated(distribution: str, n: int) -> None:
    pairs: dict[str, tuple[Draw, Draw, float]] = {
        "normal": (
            lambda rng, n: 1 + rng.normal(size=n),
            DISTRIBUTIONS[distribution],
            NormalDist().cdf(1 / math.sqrt(2)),
        ),
        "exponential": (lambda rng, n: 2 * rng.exponential(size=n), DISTRIBUTIONS[distribution], 2 / 3),
        "bimodal": (bimodal, lambda rng, n: bimodal(rng, n, 0.5), 0.8 * 0.5 + 0.5 * (0.8 * 0.5 + 0.2 * 0.5)),
    }
    better, worse, theta = pairs[distribution]

    def interval(rng: np.random.Generator) -> Interval:
        return statistics.probability_of_improvement(better(rng, n), worse(rng, n))

    check_coverage(stated(statistics.probability_of_improvement)[distribution][n], theta, interval, 90 + n, 0)


def test_wilson_coverage_is_exactly_as_stated() -> None:
    table = stated(statistics.proportion_interval)
    assert list(table) == ["0.2", "0.5", "0.9"]
    for share, figures in table.items():
        for n, figure in figures.items():
            inside = [
                low <= float(share) <= high
                for low, high in (bounds(statistics.proportion_interval(k, n)) for k in range(n + 1))
            ]
            exact = sum(
                math.comb(n, k) * float(share) ** k * (1 - float(share)) ** (n - k) for k in range(n + 1) if inside[k]
            )
            assert figure == pytest.approx(exact, abs=0.0051)

"""Tests of figures: they show the groups' own numbers, for any number of groups and seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plexp.analysis.curves import curve_figures
from plexp.analysis.figures import (
    GREY,
    OKABE_ITO,
    distributions,
    figures,
    heat_map,
    learning_curves,
    speed_stability,
    survival,
)
from plexp.analysis.formatting import number
from plexp.analysis.model import Comparison, Contrast, Floats, Group, Member, Summary
from plexp.analysis.statistics import Interval


def make_group(
    settings: Mapping[str, str], curves: Floats, grid: npt.NDArray[np.int64], threshold: float | None
) -> Group:
    """Return a group of these curves [S, E], its summary computed with plain numpy."""
    members = [
        Member(f"run-{seed}-{'-'.join(settings.values())}", str(seed), curve, grid / 100, found)
        for seed, curve in enumerate(curves)
        for found in [curve_figures(grid, curve, grid / 100, threshold=threshold)]
    ]

    def of(name: str) -> Floats:
        return np.array([np.nan if (x := getattr(m.figures, name)) is None else x for m in members], float)

    def interval(name: str, shift: float = 0) -> Interval:
        """Return mean ± standard deviation, shifted so that no two figures of a summary are the same."""
        middle, half = shift + float(np.mean(of(name))), float(np.std(of(name))) if len(members) > 1 else np.nan
        return Interval(middle, middle - half, middle + half)

    times = of("steps_to_threshold")
    never = np.isnan(times)
    median = float(np.median(times[~never])) if never.mean() < 0.5 else None
    solved = None if threshold is None else Interval(1 - float(never.mean()), 0.1, 0.9)
    summary = Summary(
        mean=interval("final_return"),
        mean_t=interval("final_return", 2) if len(members) < 10 else None,
        iqm=interval("final_return", 4),
        median=interval("final_return", 6),
        auc=interval("auc_return"),
        dispersion_runs=float(np.std(of("final_return"))),
        cvar_runs=float(np.min(of("final_return"))),
        solved=solved,
        collapsed=Interval(float(np.mean(of("collapsed"))), 0.0, 0.5),
        median_steps=median,
        median_seconds=None if median is None else median / 100,
        max_drawdown=float(np.median(of("max_drawdown"))),
        dispersion_time=float(np.median(of("dispersion_time"))),
        normalised_score=None,
    )
    label = " ".join(f"{key}={value}" for key, value in settings.items()) or "all runs"
    return Group(label, settings, members, summary)


def make_comparison(
    settings: Sequence[Mapping[str, str]],
    seeds: int = 8,
    threshold: float | None = 475,
    evaluations: int = 40,
    shift: float = 0,
) -> Comparison:
    """Return a comparison of noisy climbs to 500 (+ shift), each group slower than the last, with occasional drops."""
    rng = np.random.default_rng(0)
    grid = np.arange(1, evaluations + 1, dtype=np.int64) * 2500
    groups = []
    for index, each in enumerate(settings):
        rate = rng.uniform(0.6, 1.6, (seeds, 1)) / (0.25 + 0.06 * index) / grid[-1]
        curves = 520 * (1 - np.exp(-rate * grid)) * rng.uniform(0.85, 1.02, (seeds, evaluations))
        curves[rng.uniform(size=curves.shape) < 0.03] *= 0.5
        groups.append(make_group(each, np.clip(curves, 9, 500) + shift, grid, threshold))
    contrasts = [contrast(group, groups[0]) for group in groups[1:]]
    verdicts = [each.sentence for each in contrasts]
    notes = ["2 runs left out: they were KILLED", "net.width varies within groups: 64, 128"]
    by = list(settings[0])
    return Comparison("two sweeps", "CartPole-v1", grid, threshold, by, groups, contrasts, verdicts, notes)


def contrast(group: Group, reference: Group) -> Contrast:
    difference = group.summary.iqm.value - reference.summary.iqm.value
    sentence = f"{group.label} ends lower than {reference.label}: {difference:.1f} (p = 0.004)."
    return Contrast(
        question="final",
        group=group.label,
        reference=reference.label,
        measure="final return",
        difference=Interval(difference, difference - 9.5, difference + 9.5),
        p=0.0001,
        p_holm=0.0004,
        improvement=Interval(0.125, 0.03, 0.4),
        distinct=True,
        sentence=sentence,
    )


def labelled(number: int) -> list[dict[str, str]]:
    """Return the settings of this many groups, with long names."""
    layers = [{"algo": "actor_critic", "advantage": "q_baseline", "net.layers": str(n)} for n in range(1, number + 1)]
    return layers[:number]


def gridded(rows: Sequence[str], columns: Sequence[str]) -> list[dict[str, str]]:
    return [{"net.layers": row, "net.width": column} for row in rows for column in columns]


def iqm(curves: Floats) -> Floats:
    """Return the mean of the middle four of 8 seeds, at each evaluation."""
    assert len(curves) == 8
    return np.asarray(np.sort(curves, axis=0)[2:6].mean(axis=0))


def saved(figure: Figure) -> bytes:
    """Return a figure as PNG; drawing it must not warn."""
    figure.savefig(buffer := BytesIO(), format="png")
    return buffer.getvalue()


def lines(axes: Axes, color: str) -> list[Floats]:
    """Return the values of all lines of a colour."""
    return [np.asarray(line.get_ydata(), float) for line in axes.lines if line.get_color() == color]


@pytest.mark.parametrize(
    ("value", "steps", "text"),
    [
        (500.0, False, "500"),
        (47.31, False, "47.3"),
        (0.0834, False, "0.083"),
        (-198.49, False, "−198.5"),
        (-0.0, False, "0"),
        (0.00004, False, "4e−05"),
        (1234.5, False, "1,234"),
        (37_500, True, "37.5k"),
        (1_234_000, True, "1.23M"),
        (999_990, True, "1M"),
        (-12_000, True, "−12k"),
        (500, True, "500"),
        (None, False, "—"),
        (np.nan, True, "—"),
    ],
)
def test_the_digits_of_a_number_depend_on_its_size(value: float | None, steps: bool, text: str) -> None:
    assert number(value, steps) == text


def test_a_number_beside_a_larger_one_has_as_many_decimals_as_that() -> None:
    assert [number(each, beside=20) for each in (-9.04, 0.464, -0.01, 20.0)] == ["−9", "0.5", "0", "20"]


def test_learning_curves_of_a_few_groups_share_one_axes() -> None:
    comparison = make_comparison(labelled(3))
    (axes,) = (figure := learning_curves(comparison)).axes
    for group, color in zip(comparison.groups, OKABE_ITO, strict=False):
        *seeds, middle = lines(axes, color)
        np.testing.assert_array_equal(seeds, group.curves)
        np.testing.assert_allclose(middle, iqm(group.curves))
    assert np.array(lines(axes, "black")).tolist() == [[475, 475]]
    assert len(axes.collections) == 3, "bands"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [group.label for group in comparison.groups]


def test_a_band_contains_the_interquartile_mean_and_lies_within_the_seeds() -> None:
    comparison = make_comparison(labelled(1))
    (axes,) = learning_curves(comparison).axes
    (band,) = axes.collections
    edge = band.get_paths()[0].vertices
    for step, middle, low, high in zip(
        comparison.grid,
        iqm(comparison.groups[0].curves),
        comparison.groups[0].curves.min(axis=0),
        comparison.groups[0].curves.max(axis=0),
        strict=True,
    ):
        heights = np.asarray(edge)[np.asarray(edge)[:, 0] == step, 1]
        assert low - 1e-9 <= heights.min() <= middle <= heights.max() <= high + 1e-9


@pytest.mark.parametrize("number_of_groups", [6, 8])
def test_many_groups_have_a_panel_each_with_the_others_in_the_background(number_of_groups: int) -> None:
    comparison = make_comparison(labelled(number_of_groups))
    panels = learning_curves(comparison).axes
    assert len(panels) == number_of_groups, "no empty panels"
    for panel, group in zip(panels, comparison.groups, strict=True):
        assert panel.get_title().replace("\n", " ") == group.label
        *seeds, middle = lines(panel, OKABE_ITO[0])
        np.testing.assert_array_equal(seeds, group.curves)
        np.testing.assert_allclose(middle, iqm(group.curves))
        others = [iqm(other.curves) for other in comparison.groups if other is not group]
        np.testing.assert_allclose(lines(panel, GREY), others)


@pytest.mark.parametrize("number_of_groups", [3, 7])
def test_survival_ends_at_the_share_of_seeds_that_reached_the_threshold(number_of_groups: int) -> None:
    comparison = make_comparison(labelled(number_of_groups))
    figure = survival(comparison)
    assert figure is not None
    together = number_of_groups == 3
    for index, group in enumerate(comparison.groups):
        axes = figure.axes[0 if together else index]
        times = group.values("steps_to_threshold")
        line = next(line for line in axes.lines if line.get_color() == OKABE_ITO[index if together else 0])
        steps, share = (np.asarray(each, float) for each in (line.get_xdata(), line.get_ydata()))
        assert line.get_drawstyle() == "steps-post"
        assert (steps[0], share[0], steps[-1]) == (0, 0, 100_000)
        for step in comparison.grid:
            assert share[steps <= step][-1] == pytest.approx(np.mean(times <= step))
        text = figure.legends[0].get_texts()[index].get_text() if together else axes.get_title()
        reached = f"{np.isfinite(times).sum()}/8"
        assert text.replace("\n", " ") == f"{group.label}: {reached} reached"
    assert {float(np.isfinite(group.values("steps_to_threshold")).mean()) for group in comparison.groups} != {1.0}


def test_speed_is_the_steps_to_the_threshold_if_most_reach_it() -> None:
    comparison = make_comparison(labelled(2))
    assert np.isnan(comparison.groups[0].values("steps_to_threshold")).sum() == 1, "one seed must not reach it"
    (axes,) = speed_stability(comparison).axes
    assert "steps" in axes.get_xlabel() and axes.get_xlabel().startswith("← faster")
    for group, seeds, middle in zip(comparison.groups, axes.collections, axes.lines, strict=True):
        times = group.values("steps_to_threshold")
        points = np.column_stack([np.nan_to_num(times, nan=100_000), group.values("max_drawdown")])
        np.testing.assert_array_equal(np.asarray(seeds.get_offsets()), points)
        hollow = np.asarray(seeds.get_facecolor())[:, 3] == 0
        np.testing.assert_array_equal(hollow, np.isnan(times))
        assert middle.get_xdata() == group.summary.median_steps
        assert middle.get_ydata() == group.summary.max_drawdown


@pytest.mark.parametrize("threshold", [None, 600], ids=["no threshold", "too high for most"])
def test_speed_is_the_area_under_the_curve_otherwise(threshold: float | None) -> None:
    comparison = make_comparison(labelled(2), threshold=threshold)
    (axes,) = speed_stability(comparison).axes
    assert axes.get_xlabel().endswith("faster →")
    for group, seeds, middle in zip(comparison.groups, axes.collections, axes.lines, strict=True):
        np.testing.assert_array_equal(np.asarray(seeds.get_offsets())[:, 0], group.values("auc_return"))
        assert (np.asarray(seeds.get_facecolor())[:, 3] > 0).all()
        assert middle.get_xdata() == group.summary.auc.value


@pytest.mark.parametrize("number_of_groups", [2, 7])
def test_distributions_show_every_seed_and_the_interval_of_its_group(number_of_groups: int) -> None:
    comparison = make_comparison(labelled(number_of_groups))
    panels = distributions(comparison).axes
    labels = [label.get_text().replace("\n", " ") for label in panels[0].get_yticklabels()]
    assert labels == [group.label for group in comparison.groups]
    for panel, name in zip(panels, ("final_return", "auc_return", "max_drawdown"), strict=True):
        for row, (group, dots) in enumerate(zip(comparison.groups, panel.collections, strict=True)):
            points = np.asarray(dots.get_offsets())
            np.testing.assert_array_equal(points[:, 0], group.values(name))
            assert np.round(points[:, 1]).tolist() == [row] * 8
            bar, mark = panel.lines[2 * row : 2 * row + 2]
            found = {
                "final_return": group.summary.iqm,
                "auc_return": group.summary.auc,
                "max_drawdown": Interval(group.summary.max_drawdown, np.nan, np.nan),
            }[name]
            np.testing.assert_array_equal(np.asarray(bar.get_xdata()), [found.low, found.high])
            assert (mark.get_xdata(), mark.get_ydata()) == ([found.value], [row])


def test_a_heat_map_has_each_group_in_its_cell_and_numbers_in_order() -> None:
    comparison = make_comparison(gridded(["10", "2", "4"], ["64", "256", "128"])[:-1])
    figure = heat_map(comparison)
    assert figure is not None
    panels = figure.axes
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["2", "4", "10"]
    for panel, name in zip(panels, ("iqm", "auc"), strict=True):
        assert [label.get_text() for label in panel.get_xticklabels()] == ["64", "128", "256"]
        expected = np.full((3, 3), np.nan)
        texts = {}
        for group in comparison.groups:
            cell = (
                ["2", "4", "10"].index(group.settings["net.layers"]),
                ["64", "128", "256"].index(group.settings["net.width"]),
            )
            expected[cell] = getattr(group.summary, name).value
            texts[cell] = number(expected[cell])
        array = panel.images[0].get_array()
        assert array is not None
        np.testing.assert_array_equal(np.ma.filled(array, np.nan), expected)
        positions = [text.get_position() for text in panel.texts]
        assert {(y, x): text.get_text() for (x, y), text in zip(positions, panel.texts, strict=True)} == texts
        ink = {
            float(expected[int(y), int(x)]): text.get_color()
            for (x, y), text in zip(positions, panel.texts, strict=True)
        }
        assert (ink[min(ink)], ink[max(ink)]) == ("white", "black")
    saved(figure)


def test_a_heat_map_has_the_param_with_more_values_as_its_rows() -> None:
    figure = heat_map(make_comparison(gridded(["1", "2"], ["a", "b", "c"]), seeds=2))
    assert figure is not None
    left, _ = figure.axes
    assert (left.get_ylabel(), left.get_xlabel()) == ("net.width", "net.layers")
    assert [label.get_text() for label in left.get_yticklabels()] == ["a", "b", "c"]


@pytest.mark.parametrize("settings", [gridded(["1"], ["64", "128"]), [{"x": "1"}, {"x": "2"}], labelled(4)])
def test_a_heat_map_needs_two_params_with_two_values_each(settings: list[dict[str, str]]) -> None:
    assert heat_map(make_comparison(settings, seeds=2)) is None


@pytest.mark.parametrize(
    ("groups", "seeds", "threshold", "evaluations"),
    [(1, 1, None, 2), (1, 1, -100.0, 2), (7, 1, None, 5), (2, 12, -1e9, 5)],
)
def test_every_picture_can_be_drawn(groups: int, seeds: int, threshold: float | None, evaluations: int) -> None:
    """Draw few and many groups and seeds, negative returns, and thresholds that none or all reach."""
    drawn = figures(make_comparison(labelled(groups), seeds, threshold, evaluations, shift=-700))
    assert list(drawn) == [
        "learning_curves",
        *(["survival"] if threshold is not None else []),
        "speed_stability",
        "distributions",
    ]
    for figure in drawn.values():
        assert saved(figure).startswith(b"\x89PNG")


def test_figures_of_a_summary_may_be_nan() -> None:
    comparison = make_comparison(gridded(["1", "2"], ["a", "b"]), seeds=2, evaluations=5)
    nothing = Interval(np.nan, np.nan, np.nan)
    groups = [
        replace(group, summary=replace(group.summary, iqm=nothing, auc=nothing, max_drawdown=np.nan, median_steps=None))
        for group in comparison.groups
    ]
    for figure in figures(replace(comparison, groups=groups)).values():
        saved(figure)


@pytest.mark.parametrize("picture", [learning_curves, speed_stability, distributions])
@pytest.mark.parametrize("number_of_groups", [2, 5, 12])
def test_long_labels_neither_overlap_nor_leave_the_picture(
    picture: Callable[[Comparison], Figure], number_of_groups: int
) -> None:
    figure = picture(make_comparison(labelled(number_of_groups), seeds=2, evaluations=5))
    saved(figure)
    texts = [text for legend in figure.legends for text in legend.get_texts()]
    if picture is distributions:
        texts += figure.axes[0].get_yticklabels()
    else:
        texts += [axes.title for axes in figure.axes if axes.get_title()]
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) == number_of_groups
    for index, box in enumerate(boxes):
        assert min(box.x0, box.y0) >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:index])


def test_dollar_signs_in_a_label_are_not_typeset_as_math() -> None:
    comparison = make_comparison([{"env.id": "$x^$"}, {"env.id": r"$\nothing$"}], seeds=2, evaluations=5)
    for figure in figures(comparison).values():
        saved(figure)

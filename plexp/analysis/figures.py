"""Pictures of a comparison. Each says the same in colour and in shape, so that it can be read in grey."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
import numpy.typing as npt

from plexp.analysis import statistics
from plexp.analysis.drawing import Axes, Figure, MaxNLocator, colormaps
from plexp.analysis.formatting import natural, number
from plexp.analysis.model import Comparison, Floats, Group
from plexp.analysis.statistics import Interval, interquartile_mean, iqm_band
from plexp.errors import decoration


def learning_curve(name: str, curve: Sequence[tuple[int, float]], solved_return: float | None) -> Figure:
    """Mean return of the greedy evaluations (step, return) over environment steps, with the mark for solved."""
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    steps, returns = [step for step, _ in curve], [value for _, value in curve]
    axes.plot(steps, returns, color="#0072B2", marker="o", markersize=3)
    if solved_return is not None:
        axes.axhline(solved_return, color="#D55E00", linestyle="--", label=f"solved: {solved_return:g}")
        axes.legend(loc="lower right", frameon=False)
    axes.set(title=name, xlabel="environment steps", ylabel="mean return, greedy")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


Style = dict[str, Any]
Points = Sequence[npt.NDArray[Any]]
WIDTH, DPI = 8, 150
TOGETHER = 5  # groups that share one axes; of more each has a panel
GREY = "#767676"
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
MARKERS = "osD^v"
LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), "-.", (0, (4, 1, 1, 1, 1, 1)))


def figures(comparison: Comparison) -> dict[str, Figure]:
    """Return every picture that the data allow, by name; `survival` needs a threshold, `heat_map` a grid of two params.

    One that fails is left out, with a warning.
    """
    drawn: dict[str, Figure] = {}
    for maker in (learning_curves, survival, speed_stability, distributions, heat_map):
        with decoration(f"the picture {maker.__name__}"):
            if (figure := maker(comparison)) is not None:
                drawn[maker.__name__] = figure
    return drawn


def learning_curves(comparison: Comparison) -> Figure:
    """Draw returns over environment steps: the interquartile mean over seeds, its 95 % band, a thin line for each seed."""
    grid, threshold = comparison.grid, comparison.threshold

    def around(axes: Axes, group: Group, style: Style) -> None:
        _, low, high = iqm_band(group.curves)
        axes.plot(grid, group.curves.T, color=style["color"], linewidth=0.6, alpha=0.3)
        axes.fill_between(grid, low, high, color=style["color"], alpha=0.2, linewidth=0)

    look, words = {"markevery": max(1, len(grid) // 8), "markersize": 4.5}, ("environment steps", "mean return, greedy")
    figure = _drawn(comparison, lambda each: (grid, interquartile_mean(each.curves, axis=0)), around, words, look)
    figure.axes[0].set_xlim(0, grid[-1])
    if threshold is not None:
        for axes in figure.axes:
            axes.axhline(threshold, color="black", linestyle="--", linewidth=0.9)
        below: Style = {"xytext": (0, -3), "textcoords": "offset points", "va": "top", "fontsize": 9}
        figure.axes[0].annotate(f"threshold {number(threshold)}", (0.01 * grid[-1], threshold), **below)
    return figure


def survival(comparison: Comparison) -> Figure | None:
    """Share of the seeds that have reached the threshold, 1 − Kaplan–Meier, over environment steps."""
    if comparison.threshold is None:
        return None
    budget = float(comparison.grid[-1])
    shaded = len(comparison.groups) != TOGETHER  # so many bands in one axes hide each other

    def reached(group: Group) -> list[Floats]:
        times, *shares = statistics.survival(group.values("steps_to_threshold"), budget)
        return [np.append(times, budget), *(1 - np.append(share, share[-1]) for share in shares)]

    def around(axes: Axes, group: Group, style: Style) -> None:
        times, _, low, high = reached(group)
        if shaded:
            axes.fill_between(times, low, high, step="post", color=style["color"], alpha=0.12, linewidth=0)

    def reading(group: Group) -> str:
        return f"{group.label}: {np.isfinite(group.values('steps_to_threshold')).sum()}/{len(group.members)} reached"

    words = ("environment steps", f"share of seeds that reached {number(comparison.threshold)}")
    look = {"drawstyle": "steps-post", "clip_on": False, "markersize": 4.5}
    figure = _drawn(comparison, lambda group: reached(group)[:2], around, words, look, reading)
    figure.axes[0].set(ylim=(0, 1.02), xlim=(0, budget))
    return figure


def speed_stability(comparison: Comparison) -> Figure:
    """Speed against stability: a pale point for each seed, a large one for the group; hollow: never got there.

    Speed is the steps to the threshold where at least half of the runs of every group got there (the large point is the
    Kaplan–Meier median, hollow points lie at the budget), else the area under the curve (interquartile mean).
    """
    by_steps = all(group.summary.median_steps is not None for group in comparison.groups)

    def middle(group: Group) -> Points:
        x = group.summary.median_steps if by_steps else group.summary.auc.value
        return np.array([x], float), np.array([group.summary.max_drawdown])

    def around(axes: Axes, group: Group, style: Style) -> None:
        x, y = group.values("steps_to_threshold" if by_steps else "auc_return"), group.values("max_drawdown")
        never = np.isnan(x) & by_steps
        fill, edge = [(style["color"], 0 if each else 0.4) for each in never], (style["color"], 0.6)
        point = {"marker": style["marker"], "s": 26, "linewidth": 1, "clip_on": False}
        axes.scatter(np.where(never, comparison.grid[-1], x), y, facecolor=fill, edgecolor=edge, **point)

    auc = "mean return while learning (area under the curve)   faster →"
    speed = f"← faster   environment steps to {number(comparison.threshold)}" if by_steps else auc
    words, look = (speed, "← steadier   max drawdown, share of the range"), {"linestyle": "", "markersize": 11}
    figure = _drawn(comparison, middle, around, words, look)
    figure.axes[0].set_ylim(bottom=0)
    return figure


def distributions(comparison: Comparison) -> Figure:
    """Draw a row for each group: every seed a dot; the large mark is the interquartile mean with its 95 % interval.

    Of the drawdown it is the median, which has no interval.
    """
    groups = comparison.groups
    labels = [_wrapped(group.label, 26) for group in groups]
    drawdowns = [Interval(group.summary.max_drawdown, math.nan, math.nan) for group in groups]
    lines = sum(max(1.6, 1.1 * (label.count("\n") + 1)) for label in labels)
    figure = Figure(figsize=(WIDTH, 1.2 + 0.21 * lines), dpi=DPI, layout="constrained")
    measures = (
        ("final_return", "final return", [group.summary.iqm for group in groups]),
        ("auc_return", "mean return\nwhile learning", [group.summary.auc for group in groups]),
        ("max_drawdown", "max drawdown\n(lower is steadier)", drawdowns),
    )
    panels = figure.subplots(1, 3, sharey=True, squeeze=False).ravel()
    for axes, (name, title, middles) in zip(panels, measures, strict=True):
        for row, group in enumerate(groups):
            axes.axhspan(row - 0.5, row + 0.5, color="black", alpha=0.04 * (row % 2), linewidth=0, zorder=0)
            style, seeds = _style(row, len(groups)), len(group.members)
            offsets = row + (np.arange(seeds) - (seeds - 1) / 2) * 0.5 / seeds
            axes.scatter(group.values(name), offsets, s=18, alpha=0.4, color=style["color"], linewidth=0)
            axes.plot([middles[row].low, middles[row].high], [row, row], color="black", linewidth=2)
            axes.plot(middles[row].value, row, color=style["color"], marker=style["marker"], markersize=8, mec="black")
        axes.set(xlabel=title, ylim=(len(groups) - 0.5, -0.5))
        axes.set_yticks(range(len(groups)), labels)
        _plain(axes, ticks=3)
    return figure


def heat_map(comparison: Comparison) -> Figure | None:
    """Draw two params as rows and columns, the interquartile mean over seeds in the cells; a blank: no such group."""
    if len(comparison.by) != 2:
        return None
    values = {
        name: sorted({group.settings[name] for group in comparison.groups}, key=natural) for name in comparison.by
    }
    down, across = sorted(comparison.by, key=lambda name: -len(values[name]))
    rows, columns = values[down], values[across]
    if len(columns) < 2:
        return None
    figure = Figure(figsize=(WIDTH, 0.9 + max(0.36 * len(rows), 1.6)), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True, squeeze=False).ravel()
    for axes, title in zip(panels, ("final return", "mean return while learning"), strict=True):
        cells = np.full((len(rows), len(columns)), np.nan)
        for group in comparison.groups:
            found = group.summary.iqm if axes is panels[0] else group.summary.auc
            cells[rows.index(group.settings[down]), columns.index(group.settings[across])] = found.value
        image = axes.imshow(np.ma.masked_invalid(cells), cmap=colormaps["viridis"], aspect="auto")
        for (row, column), value in np.ndenumerate(cells):
            if np.isfinite(value):
                ink, size = _ink(image.cmap(image.norm(value))), 10 if len(columns) <= 5 else 7
                axes.text(column, row, number(value), ha="center", va="center", color=ink, fontsize=size)
        axes.set(title=f"{title}, IQM", xlabel=across, ylabel=down if axes is panels[0] else "")
        axes.set_xticks(range(len(columns)), [_wrapped(each, max(4, 40 // len(columns))) for each in columns])
        axes.set_yticks(range(len(rows)), [_wrapped(each, 26) for each in rows])
    return figure


def _drawn(
    comparison: Comparison,
    middle: Callable[[Group], Points],
    around: Callable[[Axes, Group, Style], None],
    words: tuple[str, str],
    look: Style,
    reading: Callable[[Group], str] = lambda group: group.label,
) -> Figure:
    """The middle of each group and what lies around it: its seeds, its band. `words`: under and beside the axes.

    A few groups share one axes with a legend; of more each has a panel, with the middles of all others in grey behind.
    """
    groups, middles = comparison.groups, [middle(group) for group in comparison.groups]
    together = len(groups) <= TOGETHER
    rows, columns = (1, 1) if together else (math.ceil(len(groups) / 3), 3)
    height = 4.4 + 0.2 * len(groups) if together else 0.8 + 1.9 * rows
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for index, group in enumerate(groups):
        axes, style = panels[0 if together else index], _style(index, len(groups))
        for other in () if together else [each for at, each in enumerate(middles) if at != index]:
            pale = {"color": GREY, "alpha": 0.6, "marker": "o" if "linestyle" in look else "", "markersize": 4}
            axes.plot(*other, linewidth=0.6, **{**look, **pale})
        around(axes, group, style)
        axes.plot(*middles[index], label=_wrapped(reading(group), 90), linewidth=1.8, zorder=4, **{**style, **look})
        _plain(axes, ticks=9 if together else 4)
        if not together:
            axes.set_title(_wrapped(reading(group), 33), fontsize=9, y=1)  # else it is looked for at every drawing
    if together:
        panels[0].set(xlabel=words[0], ylabel=words[1])
        across = min(len(groups), max(1, 96 // (max(len(reading(group)) for group in groups) + 8)))
        figure.legend(loc="outside lower center", ncols=across, frameon=False, handlelength=3)
        return figure
    for spare, above in zip(panels[len(groups) :], panels[len(groups) - columns :], strict=False):
        above.tick_params(labelbottom=True)
        spare.remove()
    figure.supxlabel(words[0], fontsize=10)
    figure.supylabel(words[1], fontsize=10)
    return figure


def _style(index: int, groups: int) -> Style:
    """Colour, marker and line of a group; where each has a row or panel of its own, all look the same."""
    index = index if groups <= TOGETHER else 0
    return {"color": OKABE_ITO[index], "marker": MARKERS[index], "linestyle": LINES[index]}


def _plain(axes: Axes, ticks: int) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda x, _: number(x, steps=True))


def _wrapped(label: str, width: int) -> str:
    """Return a label in lines of at most `width`, with $ escaped, which matplotlib reads as the start of an equation."""
    return "\n".join(wrap(label, width, break_on_hyphens=False)).replace("$", r"\$")


def _ink(colour: Sequence[float]) -> str:
    """White on dark, black on light, by relative luminance."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3])
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "white"

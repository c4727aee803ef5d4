"""Pictures of one run."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure


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

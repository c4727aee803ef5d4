"""Speed and stability of one run, from its learning curve. Pure functions of numpy arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
LATE = 0.1
"""Share of the evaluations that make up the final return; a larger one: less noise, further from the end."""


@dataclass(frozen=True)
class CurveFigures:
    """Figures of one run's learning curve, in the environment's own returns and in environment steps."""

    final_return: float
    """Mean of the last 10 % of the evaluations."""
    auc_return: float
    """Area under the curve divided by the budget: the mean return while learning."""
    steps_to_threshold: float | None
    """Steps until the first evaluation that reached the threshold; None: none did (censored at the budget)."""
    seconds_to_threshold: float | None
    """Seconds of training until that evaluation."""
    max_drawdown: float
    """Greatest fall below the running best, as a share of the curve's range, 0…1."""
    dispersion_time: float
    """Interquartile range of the changes from evaluation to evaluation."""
    collapsed: bool
    """The final return lies below half of the way from the curve's lowest value to its peak."""
    normalised_score: float | None
    """(final − random) / (solved − random): 0 is a random policy, 1 the solved mark."""


def curve_figures(
    steps: npt.NDArray[np.int64],
    returns: Floats,
    seconds: Floats | None = None,
    *,
    threshold: float | None = None,
    random_return: float | None = None,
    solved_return: float | None = None,
) -> CurveFigures:
    """Return the figures of a learning curve of at least two evaluations.

    Args:
        steps: environment steps of the evaluations, [E], increasing.
        returns: mean return of each evaluation, [E], finite.
        seconds: seconds of training until each evaluation, [E].
        threshold: return that counts as solved; None: none does.
        random_return, solved_return: returns of a random policy and of a solved problem, for the normalised score.

    Raises ValueError for another curve.
    """
    if len(returns) < 2 or len(returns) != len(steps) or not np.isfinite(returns).all() or (np.diff(steps) <= 0).any():
        raise ValueError("a learning curve needs two or more finite evaluations at increasing steps")
    final = float(np.mean(returns[-late(len(returns)) :]))
    reached = np.flatnonzero((returns >= threshold) & (steps > 0)) if threshold is not None else np.array([], int)
    first = int(reached[0]) if len(reached) else None
    known = random_return is not None and solved_return is not None and solved_return != random_return
    return CurveFigures(
        final_return=final,
        auc_return=float(np.trapezoid(returns, steps) / (steps[-1] - steps[0])),
        steps_to_threshold=None if first is None else float(steps[first]),
        seconds_to_threshold=None if first is None or seconds is None else _finite(seconds[first]),
        max_drawdown=max_drawdown(returns),
        dispersion_time=dispersion_time(returns),
        collapsed=has_collapsed(returns, final),
        normalised_score=(final - random_return) / (solved_return - random_return) if known else None,  # type: ignore[operator]
    )


def as_metrics(figures: CurveFigures) -> dict[str, float]:
    """Return the figures under the names of MLflow's metrics, without those that are None.

    `final_return` is left out: a run logs its own, of 100 episodes.
    """
    names = {
        "speed": ("auc_return", "steps_to_threshold", "seconds_to_threshold"),
        "stability": ("max_drawdown", "dispersion_time", "collapsed"),
        "eval": ("normalised_score",),
    }
    found = {f"{section}/{name}": getattr(figures, name) for section, those in names.items() for name in those}
    return {name: float(value) for name, value in found.items() if value is not None}


def late(number: int) -> int:
    """Return the number of evaluations that make up the final return: a tenth of them, rounded up."""
    return math.ceil(LATE * number)


def max_drawdown(returns: Floats) -> float:
    """max_t (max_{s ≤ t} R_s − R_t) / (max R − min R), 0…1; 0 for a flat curve. Larger: unlearnt more, at some time."""
    span = float(np.ptp(returns))
    return float(np.max(np.maximum.accumulate(returns) - returns)) / span if span > 0 else 0.0


def dispersion_time(returns: Floats) -> float:
    """Interquartile range of R_t − R_{t−1} (Chan et al. 2020, section 3.1, over the whole curve). Larger: shakier."""
    low, high = np.percentile(np.diff(returns), [25, 75])
    return float(high - low)


def has_collapsed(returns: Floats, final: float) -> bool:
    """final < lowest + ½ (peak − lowest): half of what was learnt is lost. For returns from 0 up: half of the peak."""
    lowest, peak = float(np.min(returns)), float(np.max(returns))
    return final < lowest + (peak - lowest) / 2


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

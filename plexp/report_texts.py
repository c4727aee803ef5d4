"""The words of a comparison's report: what each figure is, how each picture is read, how it was computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

CSS = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 0 1rem 3rem; overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #8886; }
figure { margin: 0; } img { width: 100%; max-width: 1000px; background: white; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.85rem; }
th, td { padding: 0.3rem 0.7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8884; }
th.words, td.words { text-align: left; white-space: pre-line; min-width: 13rem; font-weight: normal; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: 0.2rem 1rem; font-size: 0.9rem; }
dt { font-weight: bold; } dd { margin: 0; }
"""


class Column(NamedTuple):
    """A figure of a group: its name, what it is, the field of `Summary`; `printed` also on the terminal."""

    title: str
    meaning: str
    field: str
    printed: bool = True


TABLES: Mapping[str, Sequence[Column]] = {
    "Speed": (
        Column("reached", "runs that reached the threshold, of all [95 % of the share]", "solved"),
        Column("median steps", "until half of the runs had reached it, in environment steps", "median_steps"),
        Column("median seconds", "of training until half of the runs had reached it", "median_seconds", False),
        Column("area", "mean return while learning, IQM over the seeds [95 %]", "auc"),
    ),
    "Stability (lower is steadier)": (
        Column("drawdown", "greatest fall below a run's best, share of its range, median", "max_drawdown"),
        Column("over time", "spread of the changes between evaluations, in return, median", "dispersion_time"),
        Column("over runs", "spread of the final return over the seeds, in return", "dispersion_runs"),
        Column("collapsed", "runs that lost half of what they had learnt [95 % of the share]", "collapsed"),
    ),
    "Final return": (
        Column("seeds", "runs of the group", "seeds"),
        Column("IQM", "mean of the middle half of the seeds [95 %]", "iqm"),
        Column("mean, t", "mean [95 %, Student's t], for less than 20 seeds", "mean_t"),
        Column("mean", "mean [95 %, bootstrap]", "mean", False),
        Column("median", "over the seeds [95 %]", "median", False),
        Column("worst quarter", "mean of the worst quarter of the seeds", "cvar_runs"),
        Column("normalised", "0: as a random policy, 1: solved; mean over the seeds", "normalised_score", False),
    ),
}
CONTRASTS = ("question", "group − reference", "difference", "p (Holm)", "P(better)", "p", "different")
PICTURES = {
    "learning_curves": "Learning curves. A thick line is the interquartile mean over the seeds, its band the 95 % interval, "
    "a thin line one seed. Higher is better, a narrow band means that the seeds agree.",
    "survival": "Reaching the threshold. The share of the seeds that had got there by then, with a 95 % band: further left "
    "is faster. A line that ends below 1 has seeds that did not get there.",
    "speed_stability": "Speed against stability. Small points are seeds, the large one is their group; the arrows on the "
    "axes point to the better side. A hollow point never reached the threshold and lies at the budget.",
    "distributions": "Every seed. A dot is a seed; the large mark is the interquartile mean with its 95 % interval, of the "
    "drawdown the median. Dots far from their mark are seeds that went another way.",
    "heat_map": "Two params at once. A cell is the interquartile mean over the seeds of a group; brighter is higher. A blank "
    "was not run.",
}
METHOD = {
    "Final return": "Mean of the last 10 % of a run's greedy evaluations.",
    "Area": "Area under a run's learning curve divided by the budget: the mean return while learning.",
    "IQM": "Interquartile mean: the mean of the middle half of the seeds, hardly moved by a single one.",
    "Intervals": "Of 95 %. Means, IQM and medians: BCa bootstrap over the seeds. Shares: Wilson. Bands: percentile bootstrap.",
    "Student's t": "Under 20 seeds a bootstrap interval of the mean is too narrow; then the mean has Student's interval too.",
    "Differences": "Welch's interval and test, which let the groups scatter differently.",
    "p (Holm)": "The p of a contrast after Holm's correction for all contrasts of this comparison.",
    "P(better)": "Probability of improvement: that a run of the group is better than one of the reference, ties counted "
    "half, with Newcombe's interval.",
    "Kaplan–Meier": "A run that did not reach the threshold is censored: it is known only to need more than the budget. "
    "Median steps and the share that got there count such runs; a mean of the others would leave them out.",
    "Max drawdown": "Greatest fall below the best so far, as a share of the curve's range: 0 never fell, 1 lost everything.",
    "Dispersion": "Interquartile range: over time of the changes from evaluation to evaluation (median over the seeds), "
    "over runs of the final return.",
    "Worst quarter": "Mean final return of the worst quarter of the seeds (CVaR).",
    "Collapsed": "The final return is below half of the way from the curve's lowest value to its peak.",
    "Normalised": "(final − random) / (solved − random), where both are known.",
}

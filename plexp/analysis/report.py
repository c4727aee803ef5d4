"""A comparison as tables on a terminal, and as one HTML page that holds everything."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from plexp.analysis.curves import CurveFigures
from plexp.analysis.figures import figures
from plexp.analysis.formatting import number
from plexp.analysis.model import Comparison, Contrast, Group, Member
from plexp.analysis.statistics import Interval

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

WIDE = 120  # columns of a terminal from which on an interval stands beside its value, not below it
MOST = 12  # contrasts that are printed; of more the first distinct ones
RUNS = ("group", "run", "seed", *CurveFigures.__dataclass_fields__)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Figures of all groups, a table for each question; what was contrasted; the verdicts and the notes."""
    _say(console, comparison.title, "bold")
    _say(console, _facts(comparison))
    for title, columns in TABLES.items():
        shown = [column for column in _filled(columns, comparison) if column.printed]
        _table(console, title, *_figures(shown, comparison), words=1)
        for column in shown:
            _say(console, f"  {column.title}: {column.meaning}", "dim")
    every = comparison.contrasts
    contrasts = every if len(every) <= MOST else [contrast for contrast in every if contrast.distinct][:MOST]
    if contrasts:
        _table(console, "Contrasts", CONTRASTS[:5], [_contrast(each)[:5] for each in contrasts], words=2)
        _say(console, "  difference: group − reference [95 %, Welch]; p: corrected for all contrasts", "dim")
        _say(console, "  P(better): that a run of the group is better than one of the reference [95 %]", "dim")
    if len(contrasts) < len(every):
        distinct = sum(bool(each.distinct) for each in every) - sum(bool(each.distinct) for each in contrasts)
        _say(
            console,
            f"{len(every) - len(contrasts)} more contrasts, {distinct or 'none'} of them distinct, are in the report",
        )
    for heading, sentences in (("Verdict", comparison.verdicts), ("Notes", comparison.notes)):
        for line in (f"\n{heading}", *(f"- {sentence}" for sentence in sentences)) if sentences else ():
            _say(console, line)


def html(comparison: Comparison, pictures: Mapping[str, bytes]) -> str:
    """One page, with the PNG `pictures` (name → bytes) inside; it needs no other file."""
    title, labels = escape(comparison.title), escape(", ".join(group.label for group in comparison.groups))
    parts = [f"<h1>{title}</h1>\n<p>{escape(_facts(comparison))}</p>"]
    for heading, sentences in (("Verdict", comparison.verdicts), ("Notes", comparison.notes)):
        items = "".join(f"<li>{escape(sentence)}</li>\n" for sentence in sentences)
        parts += [f"<h2>{heading}</h2>\n<ul>{items}</ul>"] if sentences else []
    for name, picture in pictures.items():
        heading, _, reading = PICTURES.get(name, name).partition(". ")
        source = f"data:image/png;base64,{b64encode(picture).decode()}"
        image = f'<figure><img src="{source}" alt="{escape(heading)} of {labels}"></figure>'
        parts.append(f"<h2>{escape(heading)}</h2>\n<p>{escape(reading)}</p>\n{image}")
    for heading, columns in TABLES.items():
        shown = _filled(columns, comparison)
        parts.append(_html_table(heading, *_figures(shown, comparison), words=1))
        parts.append(_definitions({column.title: column.meaning for column in shown}))
    if comparison.contrasts:
        parts.append(_html_table("All contrasts", CONTRASTS, list(map(_contrast, comparison.contrasts)), words=2))
    parts.append(_html_table("All runs", [name.replace("_", " ") for name in RUNS], _runs(comparison), words=2))
    parts.append("<h2>How this was computed</h2>\n" + _definitions(METHOD))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = "\n".join(["<body><main>", *parts, "</main></body></html>\n"])
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{CSS}</style></head>\n{body}'


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write `report.html` and each picture as PNG into `folder`, which is made; the files, the page first."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for name, figure in figures(comparison).items():
        if engine := figure.get_layout_engine():
            engine.execute(figure)
            figure.set_layout_engine("none")  # it is laid out
        FigureCanvasAgg(figure).print_png(buffer := BytesIO())  # type: ignore[no-untyped-call]  # savefig draws it twice
        pictures[name] = buffer.getvalue()
        (folder / f"{name}.png").write_bytes(pictures[name])
    page = folder / "report.html"
    page.write_text(html(comparison, pictures), encoding="utf-8")
    return [page, *(folder / f"{name}.png" for name in pictures)]


def _facts(comparison: Comparison) -> str:
    budget, evaluations = number(float(comparison.grid[-1]), steps=True), len(comparison.grid)
    threshold = number(comparison.threshold)
    return f"{comparison.environment}: {budget} steps, {evaluations} evaluations, threshold {threshold}"


def _text(found: Interval | float | None, steps: bool = False) -> str:
    """A number, with its interval in brackets if it has one."""
    if not isinstance(found, Interval):
        return number(found, steps)
    parts = (found.value, found.low, found.high)
    size = max((abs(part) for part in parts if math.isfinite(part)), default=0)
    value, low, high = (number(part, steps, size) for part in parts)
    return value if low == high == "—" else f"{value} [{low}, {high}]"


def _figure(group: Group, field: str) -> str:
    size, found = len(group.members), getattr(group.summary, field, None)
    if field == "seeds":
        return str(size)
    if field == "median_steps" and found is None and group.summary.solved is not None:
        return "not reached"
    if field in ("solved", "collapsed") and found is not None:
        return f"{round(found.value * size)}/{size} {_text(found).partition(' ')[2]}".strip()
    return _text(found, steps=field == "median_steps")


def _filled(columns: Sequence[Column], comparison: Comparison) -> list[Column]:
    """Those that say something of some group."""
    return [each for each in columns if any(_figure(group, each.field) != "—" for group in comparison.groups)]


def _figures(columns: Sequence[Column], comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    rows = [[group.label, *(_figure(group, each.field) for each in columns)] for group in comparison.groups]
    return ["group", *(each.title for each in columns)], rows


def _contrast(contrast: Contrast) -> list[str]:
    p_holm, p = ("<0.001" if p < 0.001 else number(p) for p in (contrast.p_holm, contrast.p))
    difference = _text(contrast.difference, steps=contrast.measure.startswith("steps"))
    different = {True: "yes", False: "no", None: "too few seeds"}[contrast.distinct]
    what, who = f"{contrast.question}:\n{contrast.measure}", f"{contrast.group}\n− {contrast.reference}"
    return [what, who, difference, p_holm, _text(contrast.improvement), p, different]


def _runs(comparison: Comparison) -> list[list[str]]:
    def cells(run: Member) -> list[str]:
        found = [getattr(run.figures, name) for name in RUNS[3:]]
        return [("no", "yes")[each] if isinstance(each, bool) else number(each) for each in found]

    groups = comparison.groups
    return [[group.label, run.run_id, run.seed, *cells(run)] for group in groups for run in group.members]


def _say(console: Console, line: str, style: str = "") -> None:
    console.print(Text(line, style), soft_wrap=True)


def _table(console: Console, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> None:
    """The first columns hold words, which may wrap; a narrow terminal has intervals below their values."""
    table = Table(title=Text(f"\n{title}", "bold"), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.pad_edge, table.collapse_padding = False, True
    for index, name in enumerate(header):
        side: Literal["left", "right"] = "left" if index < words else "right"
        table.add_column(Text(name), justify=side, no_wrap=index >= words, overflow="fold")
    space = " " if console.width >= WIDE else "\n"
    for row in rows:
        table.add_row(*(Text(cell if i < words else cell.replace(" [", f"{space}[")) for i, cell in enumerate(row)))
    console.print(table)


def _html_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> str:
    def line(cells: Sequence[str], kind: str) -> str:
        marks = [" class=words" if index < words else "" for index in range(len(cells))]
        inside = (f"<t{kind}{mark}>{escape(cell)}</t{kind}>" for mark, cell in zip(marks, cells, strict=True))
        return f"<tr>{''.join(inside)}</tr>"

    body = "\n".join(line(row, "d") for row in rows)
    table = f"<table>\n<thead>{line(header, 'h')}</thead>\n<tbody>{body}</tbody>\n</table>"
    return f'<h2>{title}</h2>\n<div class="table" tabindex="0" role="region" aria-label="{title}">{table}</div>'


def _definitions(meanings: Mapping[str, str]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>\n" for a, b in meanings.items()) + "</dl>"

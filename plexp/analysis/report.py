"""A comparison as tables on a terminal, and as one HTML page that holds everything."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jinja2 import Environment, FileSystemLoader, Template
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from plexp.analysis.curves import CurveFigures
from plexp.analysis.drawing import Figure, FigureCanvasAgg
from plexp.analysis.figures import figures
from plexp.analysis.formatting import number
from plexp.analysis.model import Comparison, Contrast, Group, Member
from plexp.analysis.statistics import Interval
from plexp.errors import decoration
from plexp.files import write_whole


class Column(NamedTuple):
    """A column of a table: one figure of every group."""

    title: str
    meaning: str
    """Explanation of the figure, shown below the table."""
    field: str
    """Field of `Summary` that has the figure."""
    printed: bool = True
    """True if the terminal shows it too; the page shows all."""


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

WIDE = 120
"""Columns of a terminal from which an interval stands beside its value; in a narrower one it stands below."""
MOST_CONTRASTS = 12
"""Number of contrasts that are printed; of more, the first distinct ones."""
RUNS = ("group", "run", "seed", *CurveFigures.__dataclass_fields__)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the figures of all groups, a table for each question; the contrasts; the verdicts and the notes."""
    _say(console, comparison.title, "bold")
    _say(console, _facts(comparison))
    for title, columns in TABLES.items():
        shown = [column for column in _filled(columns, comparison) if column.printed]
        _table(console, title, *_figures(shown, comparison), words=1)
        for column in shown:
            _say(console, f"  {column.title}: {column.meaning}", "dim")
    contrasts = printed = comparison.contrasts
    if len(contrasts) > MOST_CONTRASTS:
        printed = [contrast for contrast in contrasts if contrast.distinct][:MOST_CONTRASTS]
    if printed:
        _table(console, "Contrasts", CONTRASTS[:5], [_contrast(contrast)[:5] for contrast in printed], words=2)
        _say(console, "  difference: group − reference [95 %, Welch]; p: corrected for all contrasts", "dim")
        _say(console, "  P(better): that a run of the group is better than one of the reference [95 %]", "dim")
    if len(printed) < len(contrasts):
        distinct = sum(bool(contrast.distinct) for contrast in contrasts) - len(printed)
        more = len(contrasts) - len(printed)
        _say(console, f"{more} more contrasts, {distinct or 'none'} of them distinct, are in the report")
    for heading, sentences in (("Verdict", comparison.verdicts), ("Notes", comparison.notes)):
        for line in (f"\n{heading}", *(f"- {sentence}" for sentence in sentences)) if sentences else ():
            _say(console, line)


def html(comparison: Comparison, pictures: Mapping[str, bytes]) -> str:
    """Return the report as one page that needs no other file.

    Args:
        comparison: what to report.
        pictures: PNG files by name, in the order of the page.
    """
    return _template().render(_context(comparison, pictures), is_page=True)


def html_fragment(comparison: Comparison) -> str:
    """Return the answer and the tables of the report as HTML, for a notebook."""
    return _template().render(_context(comparison, {}), is_page=False)


def text(comparison: Comparison, width: int = 100) -> str:
    """Return the comparison as `print_comparison` prints it."""
    console = Console(file=StringIO(), width=width, highlight=False)
    print_comparison(comparison, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2")


def _context(comparison: Comparison, pictures: Mapping[str, bytes]) -> dict[str, Any]:
    """Return what the template shows."""
    tables = []
    for heading, columns in TABLES.items():
        shown = _filled(columns, comparison)
        header, rows = _figures(shown, comparison)
        meanings = {column.title: column.meaning for column in shown}
        tables.append({"heading": heading, "header": header, "rows": rows, "meanings": meanings})
    images = []
    for name, png in pictures.items():
        heading, _, reading = PICTURES.get(name, name).partition(". ")
        images.append({"heading": heading, "reading": reading, "png": b64encode(png).decode()})
    return {
        "title": comparison.title,
        "facts": _facts(comparison),
        "answers": {"Verdict": comparison.verdicts, "Notes": comparison.notes},
        "labels": ", ".join(group.label for group in comparison.groups),
        "pictures": images,
        "tables": tables,
        "contrast_header": CONTRASTS,
        "contrasts": [_contrast(contrast) for contrast in comparison.contrasts],
        "run_header": [name.replace("_", " ") for name in RUNS],
        "runs": _runs(comparison),
        "method": METHOD,
    }


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write `report.html` and each picture as PNG into `folder`, and return the files, the page first.

    A picture that cannot be drawn is left out, with a warning.
    """
    pictures = {}
    for name, figure in figures(comparison).items():
        with decoration(f"the picture {name}"):
            pictures[name] = _as_png(figure)
    page = html(comparison, pictures)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"report.html": page.encode(), **{f"{name}.png": png for name, png in pictures.items()}}
    for name, content in contents.items():
        write_whole(folder / name, content)
    return [folder / name for name in contents]


def _as_png(figure: Figure) -> bytes:
    if engine := figure.get_layout_engine():
        engine.execute(figure)
        figure.set_layout_engine("none")  # it is laid out
    FigureCanvasAgg(figure).print_png(buffer := BytesIO())  # type: ignore[no-untyped-call]  # savefig draws it twice
    return buffer.getvalue()


def _facts(comparison: Comparison) -> str:
    budget, evaluations = number(float(comparison.grid[-1]), steps=True), len(comparison.grid)
    threshold = number(comparison.threshold)
    return f"{comparison.environment}: {budget} steps, {evaluations} evaluations, threshold {threshold}"


def _text(figure: Interval | float | None, steps: bool = False) -> str:
    """Return a number, with its interval in brackets if it has one."""
    if not isinstance(figure, Interval):
        return number(figure, steps)
    parts = (figure.value, figure.low, figure.high)
    size = max((abs(part) for part in parts if math.isfinite(part)), default=0)
    value, low, high = (number(part, steps, size) for part in parts)
    return value if low == high == "—" else f"{value} [{low}, {high}]"


def _figure(group: Group, field: str) -> str:
    size, figure = len(group.members), getattr(group.summary, field, None)
    if field == "seeds":
        return str(size)
    if field == "median_steps" and figure is None and group.summary.solved is not None:
        return "not reached"
    if field in ("solved", "collapsed") and figure is not None:
        return f"{round(figure.value * size)}/{size} {_text(figure).partition(' ')[2]}".strip()
    return _text(figure, steps=field == "median_steps")


def _filled(columns: Sequence[Column], comparison: Comparison) -> list[Column]:
    """Return the columns that have a figure of at least one group."""
    return [column for column in columns if any(_figure(group, column.field) != "—" for group in comparison.groups)]


def _figures(columns: Sequence[Column], comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    rows = [[group.label, *(_figure(group, column.field) for column in columns)] for group in comparison.groups]
    return ["group", *(column.title for column in columns)], rows


def _contrast(contrast: Contrast) -> list[str]:
    p_holm, p = ("<0.001" if p < 0.001 else number(p) for p in (contrast.p_holm, contrast.p))
    difference = _text(contrast.difference, steps=contrast.measure.startswith("steps"))
    different = {True: "yes", False: "no", None: "too few seeds"}[contrast.distinct]
    what, who = f"{contrast.question}:\n{contrast.measure}", f"{contrast.group}\n− {contrast.reference}"
    return [what, who, difference, p_holm, _text(contrast.improvement), p, different]


def _runs(comparison: Comparison) -> list[list[str]]:
    def cells(run: Member) -> list[str]:
        figures = [getattr(run.figures, name) for name in RUNS[3:]]
        return [("no", "yes")[figure] if isinstance(figure, bool) else number(figure) for figure in figures]

    groups = comparison.groups
    return [[group.label, run.run_id, run.seed, *cells(run)] for group in groups for run in group.members]


def _say(console: Console, line: str, style: str = "") -> None:
    console.print(Text(line, style), soft_wrap=True)


def _table(console: Console, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> None:
    """Print a table whose first columns hold words, which may wrap; a narrow terminal has intervals below their values."""
    table = Table(title=Text(f"\n{title}", "bold"), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.pad_edge, table.collapse_padding = False, True
    for index, name in enumerate(header):
        side: Literal["left", "right"] = "left" if index < words else "right"
        table.add_column(Text(name), justify=side, no_wrap=index >= words, overflow="fold")
    space = " " if console.width >= WIDE else "\n"
    for row in rows:
        table.add_row(*(Text(cell if i < words else cell.replace(" [", f"{space}[")) for i, cell in enumerate(row)))
    console.print(table)

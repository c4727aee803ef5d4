"""A comparison as tables on a terminal, and as one HTML page that holds everything."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Literal

from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from plexp.comparison import Comparison, Contrast, Group, Member
from plexp.curves import CurveFigures
from plexp.numbers import number
from plexp.report_figures import figures
from plexp.report_texts import CONTRASTS, CSS, METHOD, PICTURES, TABLES, Column
from plexp.statistics import Interval

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

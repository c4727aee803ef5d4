"""Tests of the printed tables and the HTML page: complete, whatever the labels and however few the runs."""

from __future__ import annotations

import io
import re
import struct
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from plexp.analysis.formatting import number
from plexp.analysis.model import Comparison
from plexp.analysis.report import METHOD, RUNS, html, print_comparison, write
from plexp.analysis.statistics import Interval
from tests.unit.analysis.test_figures import contrast, gridded, labelled, make_comparison

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """HTML parser that collects texts, attributes and table cells, and asserts that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def column(self, title: str) -> list[str]:
        """Return the cells below the first header of that name."""
        start = next(index for index, row in enumerate(self.rows) if title in row)
        width, place = len(self.rows[start]), self.rows[start].index(title)
        found = []
        for row in self.rows[start + 1 :]:
            if len(row) != width or row[0] in ("group", "question"):
                break
            found.append(row[place])
        return found


def printed(comparison: Comparison, width: int = 80) -> str:
    """Return a comparison as it is printed to a file."""
    console = Console(file=io.StringIO(), width=width)
    print_comparison(comparison, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def without_verdicts(text: str) -> list[str]:
    return text.partition("\nVerdict")[0].splitlines()


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return make_comparison(labelled(3), evaluations=20)


def test_the_heading_says_what_was_compared(comparison: Comparison) -> None:
    assert printed(comparison).startswith("two sweeps\nCartPole-v1: 50k steps, 20 evaluations, threshold 475\n")


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("shift", [0, -1234.5])
def test_the_tables_fit_the_width_and_nothing_is_cut(width: int, shift: float) -> None:
    text = printed(make_comparison(labelled(5), evaluations=20, shift=shift), width)
    assert max(map(len, without_verdicts(text))) <= width
    assert "…" not in text and "\x1b" not in text
    tables = "\n".join(without_verdicts(text))
    assert tables.count("advantage=q_baseline") == 3 * 5 + 2 * 4, "words are whole, in each table and contrast"


def test_a_wide_terminal_has_a_line_for_each_group(comparison: Comparison) -> None:
    comparison = replace(comparison, contrasts=[])
    rows = [line for line in without_verdicts(printed(comparison, 160)) if line.startswith("algo=")]
    for table, start in (("speed", 0), ("stability", 3), ("final", 6)):
        for group, row in zip(comparison.groups, rows[start : start + 3], strict=True):
            assert row.startswith(f"{group.label} "), table
    summary = comparison.groups[0].summary
    assert summary.mean_t is not None
    iqm, mean_t = (f"{plain(x.value)} [{plain(x.low)}, {plain(x.high)}]" for x in (summary.iqm, summary.mean_t))
    assert re.search(f" 8  +{re.escape(iqm)}  +{re.escape(mean_t)}  +{plain(summary.cvar_runs)}$", rows[6])
    assert re.search(
        f" {number(summary.max_drawdown)} +{number(summary.dispersion_time)} +{number(summary.dispersion_runs)} ",
        rows[3],
    )


def test_the_table_shows_how_many_reached_the_threshold_and_when() -> None:
    comparison = make_comparison(labelled(4), evaluations=40)
    rows = [line for line in printed(replace(comparison, contrasts=[]), 160).splitlines() if line.startswith("algo=")]
    for group, row in zip(comparison.groups, rows[:4], strict=True):
        reached = sum(member.figures.steps_to_threshold is not None for member in group.members)
        median = group.summary.median_steps
        when = "not reached" if median is None else f"{median / 1000:g}k"
        assert re.search(rf" {reached}/8 \[0.1, 0.9\] +{when} ", row)
    assert any("not reached" in row for row in rows) and any("k " in row for row in rows)


def test_every_verdict_and_note_is_printed_on_one_line(comparison: Comparison) -> None:
    lines = printed(comparison).splitlines()
    assert comparison.verdicts and comparison.notes
    for sentence in [*comparison.verdicts, *comparison.notes]:
        assert f"- {sentence}" in lines
    assert not {"Verdict", "Notes"} & set(printed(replace(comparison, verdicts=[], notes=[])).splitlines())


def test_markup_in_a_label_is_printed_as_text() -> None:
    settings = [{"env": "[bold]x[/bold]"}, {"env": ":smile: [/oops]"}]
    text = printed(make_comparison(settings, seeds=2, evaluations=5))
    assert "env=[bold]x[/bold]" in text and "env=:smile: [/oops]" in text


def test_a_few_contrasts_are_all_printed(comparison: Comparison) -> None:
    rows = printed(comparison, 160).partition("Contrasts")[2]
    difference = comparison.contrasts[0].difference
    assert rows.count("<0.001") == len(comparison.contrasts) == 2
    assert f"−{-difference.value:.1f} [−{-difference.low:.1f}, " in rows
    assert "0.125 [0.03, 0.4]" in rows and "more contrasts" not in rows


def test_of_many_contrasts_the_distinct_are_printed_and_the_others_counted(comparison: Comparison) -> None:
    first, second = comparison.groups[:2]
    one = contrast(second, first)
    others = [replace(one, distinct=(False, None)[index % 2], p_holm=0.25) for index in range(12)]
    text = printed(replace(comparison, contrasts=[one, *others]), 160)
    assert text.count("<0.001") == 1 and "0.25 " not in text.partition("Contrasts")[2]
    assert "12 more contrasts, none of them distinct, are in the report" in text
    text = printed(replace(comparison, contrasts=[*others, *[one] * 15]), 160)
    assert text.count("<0.001") == 12 and "15 more contrasts, 3 of them distinct, are in the report" in text
    assert printed(replace(comparison, contrasts=others), 160).count("  0.25  ") == 12
    assert "Contrasts" not in printed(replace(comparison, contrasts=[*others, others[0]]))


def test_contrasts_of_steps_are_printed_as_steps(comparison: Comparison) -> None:
    steps = replace(comparison.contrasts[0], measure="steps to 475", difference=Interval(-12_000, -14_500, -9_500))
    assert "−12k [−14.5k, −9.5k]" in printed(replace(comparison, contrasts=[steps]), 160)


@pytest.mark.parametrize(("groups", "seeds", "threshold"), [(1, 1, None), (2, 1, 475), (1, 12, None)])
def test_small_comparisons_are_shown_too(groups: int, seeds: int, threshold: float | None) -> None:
    comparison = make_comparison(labelled(groups), seeds, threshold, evaluations=5)
    text, page = printed(comparison), Page(html(comparison, {}))
    assert "nan" not in (text + " ".join(page.texts)).replace("Kaplan", "")
    assert ("reached" in text.partition("Stability")[0]) == (threshold is not None)
    assert ("mean, t" in text) == ("mean, t" in page.texts) == (seeds < 10)
    assert threshold is not None or "threshold —" in text


def test_the_page_escapes_text_from_the_data() -> None:
    bad = "<b>&\"x'</b>"
    comparison = make_comparison([{"env": bad}, {"env": "x"}], seeds=2, evaluations=5)
    comparison = replace(comparison, title=bad, environment=bad, verdicts=[bad], notes=[bad])
    page = Page(html(comparison, {"learning_curves": b"", f"new {bad}": b""}))
    assert not {"b"} & {tag for tag, _ in page.tags}
    assert page.texts.count(bad) == 4, "title twice, verdict, note"
    assert page.column("group")[0] == f"env={bad}"
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [bad in str(image["alt"]) for image in images] == [True, True]


def test_the_page_loads_nothing_from_elsewhere(comparison: Comparison) -> None:
    text = html(comparison, {"learning_curves": b"\x89PNG"})
    for part in ("http://", "https://", "<script", "<link", "@import", "url("):
        assert part not in text
    images = [attributes["src"] or "" for tag, attributes in Page(text).tags if tag == "img"]
    assert [b64decode(image.removeprefix("data:image/png;base64,")) for image in images] == [b"\x89PNG"]


def test_the_page_has_all_groups_contrasts_and_runs(comparison: Comparison) -> None:
    page = Page(html(comparison, {}))
    labels = [group.label for group in comparison.groups]
    assert page.column("group") == labels
    for title, name in (("IQM", "iqm"), ("mean", "mean"), ("median", "median"), ("mean, t", "mean_t")):
        for cell, group in zip(page.column(title), comparison.groups, strict=True):
            found = getattr(group.summary, name)
            assert cell == f"{plain(found.value)} [{plain(found.low)}, {plain(found.high)}]"
    assert page.column("p (Holm)") == ["<0.001", "<0.001"] and page.column("different") == ["yes", "yes"]
    assert page.column("run") == [member.run_id for group in comparison.groups for member in group.members]
    for name in ("final_return", "auc_return", "max_drawdown"):
        numbers = [value for group in comparison.groups for value in group.values(name)]
        shown = [float(cell.replace("−", "-")) for cell in page.column(name.replace("_", " "))]
        assert shown == pytest.approx(numbers, abs=0.051)
    assert len(RUNS) == 11 and set(page.column("collapsed")) <= {f"{n}/8 [0, 0.5]" for n in range(9)}
    for sentence in [*comparison.verdicts, *comparison.notes, *METHOD, *METHOD.values()]:
        assert sentence in page.texts


def plain(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".").replace("-", "−")


def test_the_verdict_comes_before_pictures_and_tables(comparison: Comparison) -> None:
    text = html(comparison, {"learning_curves": b""})
    places = [text.index(part) for part in ("<h2>Verdict", "<h2>Learning curves", "<h2>Speed", "<h2>How this was")]
    assert places == sorted(places)


def test_each_picture_has_a_text_on_how_to_read_it() -> None:
    names: Sequence[str] = ("learning_curves", "survival", "speed_stability", "distributions", "heat_map")
    comparison = make_comparison(gridded(["1", "2"], ["a", "b"]), seeds=2, evaluations=5)
    text = html(comparison, dict.fromkeys(names, b""))
    assert len(re.findall(r"</h2>\n<p>[A-Z][^<]{60,}\.</p>\n<figure><img src=\S+ alt=\"[^\"]+\"></figure>", text)) == 5


def test_writing_makes_the_page_and_its_pictures(tmp_path: Path) -> None:
    comparison = make_comparison(gridded(["1", "2"], ["a", "b"]), seeds=2, evaluations=5)
    page, *pictures = write(comparison, tmp_path / "new" / "folder")
    assert page == tmp_path / "new" / "folder" / "report.html"
    names = ["learning_curves", "survival", "speed_stability", "distributions", "heat_map"]
    assert [picture.name for picture in pictures] == [f"{name}.png" for name in names]
    inside = [attributes["src"] or "" for tag, attributes in Page(page.read_text("utf-8")).tags if tag == "img"]
    for picture, source in zip(pictures, inside, strict=True):
        content = picture.read_bytes()
        assert b64decode(source.partition(",")[2]) == content
        assert struct.unpack(">I", content[16:20])[0] >= 1000, "pixels wide"
    assert sorted(page.parent.iterdir()) == sorted([page, *pictures])
    assert write(comparison, page.parent)[0] == page


@pytest.mark.parametrize("where", ["plexp.analysis.figures.survival", "plexp.analysis.report._as_png"])
def test_a_report_is_written_without_the_pictures_that_fail(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no ink")

    comparison = make_comparison(labelled(2), 5, 475.0)
    whole = write(comparison, tmp_path / "whole")
    monkeypatch.setattr(where, fails)
    page, *pictures = write(comparison, tmp_path / "part")
    assert "Verdict" in page.read_text()
    assert len(whole) - 1 - len(pictures) == len(caplog.records) > 0
    assert all(record.getMessage().endswith("is left out (RuntimeError: no ink)") for record in caplog.records)

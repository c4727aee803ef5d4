"""Functions that read MLflow's pages as a person sees them: `plexp ui` on a store, and a headless Chromium."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[3]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT = 180_000.0
"""Milliseconds to wait for something on a page; pages need 2–10 s, more on a busy machine."""
OF_MLFLOW = ("users/current", "ResizeObserver loop", "favicon")
"""Complaints that MLflow causes: for one, it asks who the user is, and a server without accounts answers 404."""

POINTS = """path => {
  const numbers = path.getAttribute('d').split(/[ML]/).filter(Boolean).map(pair => pair.split(',').map(Number));
  const to = path.getScreenCTM();
  return numbers.map(([x, y]) => [to.a * x + to.e, to.d * y + to.f]);
}"""
TICKS = """(card, axis) => [...card.querySelectorAll(`.${axis}tick text`)].map(text => {
  const box = text.getBoundingClientRect();
  return [text.textContent, axis == 'x' ? box.x + box.width / 2 : box.y + box.height / 2];
})"""


def environment(**changes: str) -> dict[str, str]:
    """Return environment variables with which commands in other folders run this checkout."""
    return os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", **changes}


def begin(folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start a plexp command in a folder."""
    command = [sys.executable, "-m", "plexp", *arguments]
    options = {"stdout": subprocess.PIPE, **options}
    return subprocess.Popen(command, cwd=folder, env=environment(), text=True, **options)


@dataclass
class Site:
    """Running `plexp ui`, and the lines it has printed."""

    process: subprocess.Popen[str]
    lines: list[str]

    def link(self, experiment: str, what: str = "") -> str:
        """Return the link to an experiment's curves, or another one listed below it."""
        start = next(index for index, line in enumerate(self.lines) if line.startswith(f"  {experiment}: "))
        below = [line for line in self.lines[start:] if not what or line.startswith(f"    {what}: ")]
        return below[0].partition(": ")[2]

    @property
    def address(self) -> str:
        found = re.search(r"http://\S+", self.lines[0])
        assert found
        return found[0]

    def run(self, experiment_id: str, run_id: str, rest: str = "") -> str:
        """Return the address of a run's page."""
        return f"{self.address}/#/experiments/{experiment_id}/runs/{run_id}{rest}?workflowType=machine_learning"


@contextmanager
def serving(folder: Path, links: int) -> Iterator[Site]:
    """Run `plexp ui` in a folder; yield once it has printed so many links."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = begin(folder, "ui", "--port", str(port))
    try:
        assert process.stdout
        yield Site(process, [process.stdout.readline().rstrip("\n") for _ in range(links + 1)])
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


@contextmanager
def browser(width: int = 1400, height: int = 900) -> Iterator[Any]:
    """Yield a context of a headless Chromium that MLflow takes for a returning visitor.

    On a browser's first visit to a local server MLflow opens its assistant, which never returns once closed.
    """
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        context = chromium.new_context(viewport={"width": width, "height": height})
        context.set_default_timeout(WAIT)
        context.add_init_script(
            "origin != 'null' && top == self && localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
        )
        yield context
        context.close()
        chromium.close()


def watch(page: Any, complaints: list[str]) -> None:
    """Collect what goes wrong on a page: console errors, responses of 400 and above, requests to other hosts."""

    def note(text: str) -> None:
        if not any(known in text for known in OF_MLFLOW):
            complaints.append(text)

    page.on("pageerror", lambda error: note(str(error)))
    page.on("console", lambda message: note(message.text + str(message.location)) if message.type == "error" else None)
    page.on("response", lambda answer: note(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    own = ("http://127.0.0.1:", "data:", "blob:", "about:")
    page.on(
        "request", lambda request: None if request.url.startswith(own) else note(f"left this machine: {request.url}")
    )


def card(page: Any, title: str) -> Any:
    """Return the chart with this title once it is drawn."""
    found = page.get_by_test_id("experiment-view-compare-runs-card").filter(has=page.get_by_text(title, exact=True))
    found.first.locator(".xtick").first.wait_for()
    return found.first


def number(text: str) -> float:
    """Return a number that Plotly has written, such as 50k, −1 or 0.5."""
    text = text.replace("−", "-")
    return float(text[:-1]) * 1000 if text.endswith("k") else float(text)


def curves(card: Any) -> dict[str, list[tuple[float, float]]]:
    """Return {colour: points} of the visible lines of a chart, in the units of the ticks on its axes."""
    scale = {}
    for axis in "xy":
        ticks = [(number(text), place) for text, place in card.evaluate(TICKS, axis) if text]
        (low, at_low), (high, at_high) = ticks[0], ticks[-1]
        scale[axis] = (low, at_low, (high - low) / (at_high - at_low))
    found = {}
    for path in card.locator(".scatterlayer path.js-line").all():
        style = path.evaluate("path => [path.style.stroke, path.style.strokeOpacity, getComputedStyle(path).opacity]")
        if style[1] in ("", "1") and style[2] == "1":
            red, green, blue = map(int, re.findall(r"\d+", style[0])[:3])
            points = path.evaluate(POINTS)
            (x0, at_x, per_x), (y0, at_y, per_y) = scale["x"], scale["y"]
            line = [(x0 + (x - at_x) * per_x, y0 + (y - at_y) * per_y) for x, y in points]
            found[f"#{red:02x}{green:02x}{blue:02x}"] = line
    return found


def groups(page: Any) -> dict[str, str]:
    """Return {colour of the dot: name} of the groups in the list of runs."""
    texts = [row.inner_text() for row in page.locator(".ag-row:has-text('Group: ')").all()]
    found = [re.search(r"(#[0-9a-f]{6})\s+Group: (.+)", text) for text in texts]
    return {match[1]: match[2] for match in found if match}


def columns(page: Any) -> list[str]:
    """Return column ids from left to right on the screen; their order in the document may differ."""
    places = page.evaluate(
        """() => [...document.querySelectorAll('.ag-header-cell')].map(cell => [
             cell.getBoundingClientRect().x, cell.getAttribute('col-id')])"""
    )
    return [column for _, column in sorted(places, key=lambda place: place[0])]


def table(page: Any) -> list[dict[str, str]]:
    """Return the rows from top to bottom, as {column id: text of the cell}."""
    rows = page.evaluate(
        """() => [...document.querySelectorAll('.ag-row')].map(row => [
             Number(row.getAttribute('row-index')),
             [...row.querySelectorAll('.ag-cell')].map(cell => [cell.getAttribute('col-id'), cell.innerText])])"""
    )
    merged: dict[int, dict[str, str]] = {}
    for index, cells in rows:
        merged.setdefault(index, {}).update(dict(cells))
    return [merged[index] for index in sorted(merged)]
